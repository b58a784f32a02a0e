"""Small models by architecture: transformers' from configs, on the meta device, and hand-written ones."""

from __future__ import annotations

import random

import torch
from torch import nn

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}

# Model type -> class, settings; what is not said is as in SIZES.
CONFIGS: dict[str, tuple[str, dict]] = {
    "llama": ("LlamaForCausalLM", {}),
    "mistral": ("MistralForCausalLM", {}),
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**EXPERTS, "shared_expert_intermediate_size": 40}),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", EXPERTS),
    "olmoe": ("OlmoeForCausalLM", EXPERTS),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            "num_hidden_layers": 3,
            "first_k_dense_replace": 1,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "q_lora_rank": 12,
            "kv_lora_rank": 12,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 4,
            "v_head_dim": 8,
            "n_group": 1,
            "topk_group": 1,
        },
    ),
    "gpt_oss": ("GptOssForCausalLM", {"num_local_experts": 4}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "tie_word_embeddings": True}),
    "gpt_neox": ("GPTNeoXForCausalLM", {}),
    "gemma3_text": ("Gemma3ForCausalLM", {"tie_word_embeddings": True}),
    "phi3": ("Phi3ForCausalLM", {}),
    "bert": ("BertForMaskedLM", {"tie_word_embeddings": True}),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "tie_word_embeddings": True},
    ),
    "vit": ("ViTForImageClassification", VISION),
    "mamba": ("MambaForCausalLM", {"state_size": 4}),
    "jamba": (
        "JambaForCausalLM",
        {"num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_offset": 1},
    ),
    "opt": ("OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32, "tie_word_embeddings": True}),
    "bloom": ("BloomForCausalLM", {"n_head": 4, "n_layer": 2, "tie_word_embeddings": True}),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "tie_word_embeddings": True,
        },
    ),
    "switch_transformers": (
        "SwitchTransformersForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "num_experts": 4}
        | {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "tie_word_embeddings": True},
    ),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        {"num_local_experts": 4, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 40}
        | {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 4},
    ),
    "lfm2": ("Lfm2ForCausalLM", {"full_attn_idxs": [1], "tie_word_embeddings": True}),
    "zamba2": (
        "Zamba2ForCausalLM",
        {"layers_block_type": ["mamba", "hybrid"], "hybrid_layer_ids": [1], "mamba_d_state": 4, "n_mamba_heads": 4}
        | {"tie_word_embeddings": True},
    ),
}


def build(name: str, **overrides: int) -> nn.Module:
    """A transformers model of this type, small and without memory for its weights."""
    import transformers

    model_class, settings = CONFIGS[name]
    config = transformers.AutoConfig.for_model(name, **{**SIZES, **settings, **overrides})
    with torch.device("meta"):
        return getattr(transformers, model_class)(config)


def build_llava(text_layers: int = 2, vision_layers: int = 1) -> nn.Module:
    """A vision tower, a projector and a Llama."""
    import transformers

    text = transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": text_layers})
    vision = transformers.CLIPVisionConfig(**{**VISION, "num_hidden_layers": vision_layers}, projection_dim=32)
    config = transformers.LlavaConfig(text_config=text, vision_config=vision, image_token_id=95)
    with torch.device("meta"):
        return transformers.LlavaForConditionalGeneration(config)


def build_clip() -> nn.Module:
    """Text and vision towers side by side."""
    import transformers

    text = {**VISION, "vocab_size": 96, "max_position_embeddings": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=32)
    with torch.device("meta"):
        return transformers.CLIPModel(config)


def build_llama_70b() -> nn.Module:
    """Llama 3 70B's shape (80 layers of width 8,192), without memory for its weights."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=128_256,
        hidden_size=8_192,
        intermediate_size=28_672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(config)


# Hand-written models: D model width, F hidden width, E experts.


def named(**children: nn.Module | nn.Parameter) -> nn.Module:
    """A module of a class that says nothing, with these children."""
    module = nn.Module()
    for name, child in children.items():
        setattr(module, name, child)
    return module


def linear(width: int, to: int, bias: bool = False) -> nn.Linear:
    return nn.Linear(width, to, bias=bias)


def torchtitan_moe(d: int = 16, f: int = 24, e: int = 4) -> nn.Module:
    """torchtitan's names: a dense layer, then a mixture of experts with a shared expert."""

    def attention() -> nn.Module:
        return named(wq=linear(d, d), wk=linear(d, d // 2), wv=linear(d, d // 2), wo=linear(d, d))

    def swiglu() -> nn.Module:
        return named(w1=linear(d, f), w2=linear(f, d), w3=linear(d, f))

    def experts() -> nn.Module:
        w1, w2, w3 = (nn.Parameter(torch.empty(shape)) for shape in ((e, f, d), (e, d, f), (e, f, d)))
        return named(w1=w1, w2=w2, w3=w3)

    moe = named(experts=experts(), router=named(gate=linear(d, e)), shared_experts=swiglu())
    norms = {"attention_norm": nn.RMSNorm(d), "ffn_norm": nn.RMSNorm(d)}
    dense = named(attention=attention(), feed_forward=swiglu(), **norms)
    sparse = named(attention=attention(), moe=moe, attention_norm=nn.RMSNorm(d), ffn_norm=nn.RMSNorm(d))
    return named(
        tok_embeddings=nn.Embedding(50, d),
        layers=nn.ModuleDict({"0": dense, "1": sparse}),
        norm=nn.RMSNorm(d),
        output=linear(d, 50),
    )


def timm_vit(d: int = 16) -> nn.Module:
    """timm's names of a ViT, with layer scale and QK norm."""
    attention = named(qkv=linear(d, 3 * d, True), q_norm=nn.LayerNorm(4), k_norm=nn.LayerNorm(4))
    attention.proj = linear(d, d, True)
    block = named(
        norm1=nn.LayerNorm(d),
        attn=attention,
        ls1=named(gamma=nn.Parameter(torch.empty(d))),
        norm2=nn.LayerNorm(d),
        mlp=named(fc1=linear(d, 4 * d, True), act=nn.GELU(), fc2=linear(4 * d, d, True)),
        ls2=named(gamma=nn.Parameter(torch.empty(d))),
    )
    return named(
        cls_token=nn.Parameter(torch.empty(1, 1, d)),
        pos_embed=nn.Parameter(torch.empty(1, 5, d)),
        patch_embed=named(proj=nn.Conv2d(3, d, kernel_size=8, stride=8), norm=nn.Identity()),
        blocks=nn.Sequential(block),
        norm=nn.LayerNorm(d),
        head=linear(d, 10, True),
    )


def nano_gpt(d: int = 16, tied: bool = True) -> nn.Module:
    """nanoGPT's names: `c_proj` in both halves of a block, and a tied head."""
    block = named(
        ln_1=nn.LayerNorm(d),
        attn=named(c_attn=linear(d, 3 * d), c_proj=linear(d, d)),
        ln_2=nn.LayerNorm(d),
        mlp=named(c_fc=linear(d, 4 * d), gelu=nn.GELU(), c_proj=linear(4 * d, d)),
    )
    body = nn.ModuleDict({"wte": nn.Embedding(50, d), "wpe": nn.Embedding(8, d), "h": nn.ModuleList([block])})
    body["ln_f"] = nn.LayerNorm(d)
    model = named(transformer=body, lm_head=linear(d, 50))
    if tied:
        body["wte"].weight = model.lm_head.weight
    return model


def anonymous_moe(d: int = 16, e: int = 4) -> nn.Module:
    """Names that say nothing at all: only the structure tells."""

    def mlp() -> nn.Module:
        return nn.Sequential(linear(d, 4 * d, True), nn.GELU(), linear(4 * d, d, True))

    def layer(second: nn.Module) -> nn.Module:
        return named(a=nn.LayerNorm(d), b=named(a=linear(d, 3 * d), b=linear(d, d)), c=nn.LayerNorm(d), d=second)

    sparse = named(a=linear(d, e), b=nn.ModuleList(mlp() for _ in range(e)))
    return named(
        a=nn.Embedding(50, d), b=nn.ModuleList([layer(mlp()), layer(sparse)]), c=nn.LayerNorm(d), d=linear(d, 50)
    )


def flat_layers(d: int = 16) -> nn.Module:
    """A layer without submodules: queries, keys, values and the feed-forward side by side."""
    projections = {f"{name}_proj": linear(d, d) for name in "qkvo"}
    layer = named(**projections, gate_proj=linear(d, 40), up_proj=linear(d, 40), down_proj=linear(40, d))
    layer.norm = nn.RMSNorm(d)
    return named(embed=nn.Embedding(50, d), layers=nn.ModuleList([layer]), head=linear(d, 50))


def lora(base: nn.Linear, rank: int = 2) -> nn.Module:
    """PEFT's LoRA layer around a linear layer, by its names."""
    a = nn.ModuleDict({"default": linear(base.in_features, rank)})
    b = nn.ModuleDict({"default": linear(rank, base.out_features)})
    return named(base_layer=base, lora_A=a, lora_B=b)


def peft_model(d: int = 16) -> nn.Module:
    """A model under PEFT's two shells: LoRA on attention and feed-forward, the head copied by `modules_to_save`."""
    attention = named(q_proj=lora(linear(d, d)), k_proj=linear(d, d), v_proj=lora(linear(d, d)), o_proj=linear(d, d))
    mlp = named(gate_proj=linear(d, 40), up_proj=lora(linear(d, 40)), down_proj=linear(40, d))
    layer = named(self_attn=attention, mlp=mlp, input_layernorm=nn.RMSNorm(d))
    body = named(embed_tokens=nn.Embedding(50, d), layers=nn.ModuleList([layer]), norm=nn.RMSNorm(d))
    copies = nn.ModuleDict({"default": linear(d, 50)})
    head = named(original_module=linear(d, 50), modules_to_save=copies)
    model = named(base_model=named(model=named(model=body, lm_head=head)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name or "modules_to_save" in name)
    return model


def shuffled(model: nn.Module, seed: int) -> nn.Module:
    """The model, with the children and parameters of its modules in another order (not those of lists)."""
    order = random.Random(seed)
    for module in model.modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            for held in (module._modules, module._parameters):
                items = list(held.items())
                order.shuffle(items)
                held.clear()
                held.update(items)
    return model
