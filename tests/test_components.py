"""Every parameter in its component, by tables to be checked by eye; rules, ties, wrappers, adapters, traps."""

import re
from collections import Counter

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import architectures
from architectures import linear, named
from rlrs.components import (
    COMPONENTS,
    PartitionError,
    Rule,
    canonical_name,
    coarse,
    partition,
    suggest_rule,
    undecayed,
)
from rlrs.models import Transformer
from rlrs.settings import ModelConfig

# Component -> the names of its parameters, layers as `N`, `{a,b}` for either; `.bias` beside a `.weight` is implied.
QKVO = "model.layers.N.self_attn.{q,k,v,o}_proj.weight"
MLP = "model.layers.N.mlp.{gate,up,down}_proj.weight"
NORMS = "model.layers.N.{input,post_attention}_layernorm.weight model.norm.weight"
QK_NORMS = "model.layers.N.self_attn.{q,k}_norm.weight"
ENDS = {"embedding": "model.embed_tokens.weight", "unembedding": "lm_head.weight"}
FUSED = "model.layers.N.mlp.experts.{gate_up,down}_proj"
GATE = "model.layers.N.mlp.gate.weight"
LLAMA = {**ENDS, "attention": QKVO, "feed_forward": MLP, "norm": NORMS}
MIXTRAL = {**ENDS, "attention": QKVO, "experts": FUSED, "router": GATE, "norm": NORMS}
T5_LAYERS = "{encoder,decoder}.block.N.layer.N"
SSM = "A_log D conv1d.weight in_proj.weight out_proj.weight"


def under(prefix: str, names: str) -> str:
    return " ".join(f"{prefix}.{name}" for name in names.split())


TABLES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": {**LLAMA, "norm": f"{NORMS} {QK_NORMS}"},
    "mixtral": MIXTRAL,
    "olmoe": {**MIXTRAL, "norm": f"{NORMS} {QK_NORMS}"},
    "qwen3_moe": {**MIXTRAL, "norm": f"{NORMS} {QK_NORMS}"},
    "qwen2_moe": {
        **MIXTRAL,
        "shared_experts": "model.layers.N.mlp.shared_expert.{gate,up,down}_proj.weight "
        "model.layers.N.mlp.shared_expert_gate.weight",
    },
    "deepseek_v3": {
        **MIXTRAL,
        "attention": under(
            "model.layers.N.self_attn",
            "q_a_proj.weight q_b_proj.weight kv_a_proj_with_mqa.weight kv_b_proj.weight o_proj.weight",
        ),
        "feed_forward": MLP,
        "shared_experts": "model.layers.N.mlp.shared_experts.{gate,up,down}_proj.weight",
        "norm": f"{NORMS} model.layers.N.self_attn.{{q,kv}}_a_layernorm.weight",
    },
    "gpt_oss": {
        **MIXTRAL,
        "attention": f"{QKVO} model.layers.N.self_attn.sinks",
        "experts": f"{FUSED} {FUSED}_bias",
        "router": "model.layers.N.mlp.router.weight",
    },
    "gpt2": {
        "embedding": "transformer.wte.weight",
        "position": "transformer.wpe.weight",
        "attention": "transformer.h.N.attn.{c_attn,c_proj}.weight",
        "feed_forward": "transformer.h.N.mlp.{c_fc,c_proj}.weight",
        "norm": "transformer.h.N.ln_{1,2}.weight transformer.ln_f.weight",
    },
    "gpt_neox": {
        "embedding": "gpt_neox.embed_in.weight",
        "attention": "gpt_neox.layers.N.attention.{query_key_value,dense}.weight",
        "feed_forward": "gpt_neox.layers.N.mlp.{dense_h_to_4h,dense_4h_to_h}.weight",
        "norm": "gpt_neox.layers.N.{input,post_attention}_layernorm.weight gpt_neox.final_layer_norm.weight",
        "unembedding": "lm_head.weight",
    },
    "gemma3_text": {
        "embedding": "model.embed_tokens.weight",
        "attention": QKVO,
        "feed_forward": MLP,
        "norm": f"{NORMS} {QK_NORMS} model.layers.N.{{pre,post}}_feedforward_layernorm.weight",
    },
    "phi3": {
        **ENDS,
        "attention": "model.layers.N.self_attn.{qkv,o}_proj.weight",
        "feed_forward": "model.layers.N.mlp.{gate_up,down}_proj.weight",
        "norm": NORMS,
    },
    "bert": {
        "embedding": "bert.embeddings.{word,token_type}_embeddings.weight",
        "position": "bert.embeddings.position_embeddings.weight",
        "attention": "bert.encoder.layer.N.attention.self.{query,key,value}.weight "
        "bert.encoder.layer.N.attention.output.dense.weight",
        "feed_forward": "bert.encoder.layer.N.{intermediate,output}.dense.weight",
        "norm": "bert.embeddings.LayerNorm.weight bert.encoder.layer.N.{attention.output,output}.LayerNorm.weight "
        "cls.predictions.transform.LayerNorm.weight",
        "unembedding": "cls.predictions.bias cls.predictions.transform.dense.weight",
    },
    "t5": {
        "embedding": "shared.weight",
        "position": "{encoder,decoder}.block.N.layer.N.SelfAttention.relative_attention_bias.weight",
        "attention": f"{T5_LAYERS}.{{SelfAttention,EncDecAttention}}.{{q,k,v,o}}.weight",
        "feed_forward": f"{T5_LAYERS}.DenseReluDense.{{wi,wo}}.weight",
        "norm": f"{T5_LAYERS}.layer_norm.weight {{encoder,decoder}}.final_layer_norm.weight",
    },
    "vit": {
        "embedding": "vit.embeddings.cls_token vit.embeddings.patch_embeddings.projection.weight",
        "position": "vit.embeddings.position_embeddings",
        "attention": "vit.layers.N.attention.{q,k,v,o}_proj.weight",
        "feed_forward": "vit.layers.N.mlp.{fc1,fc2}.weight",
        "norm": "vit.layers.N.layernorm_{before,after}.weight vit.layernorm.weight",
        "unembedding": "classifier.weight",
    },
    "mamba": {
        **ENDS,
        "embedding": "backbone.embeddings.weight",
        "ssm": under("backbone.layers.N.mixer", f"{SSM} x_proj.weight dt_proj.weight"),
        "norm": "backbone.layers.N.norm.weight backbone.norm_f.weight",
    },
    "jamba": {
        **ENDS,
        "attention": QKVO,
        "ssm": under("model.layers.N.mamba", f"{SSM} x_proj.weight dt_proj.weight"),
        "feed_forward": "model.layers.N.feed_forward.{gate,up,down}_proj.weight",
        "experts": "model.layers.N.feed_forward.experts.{gate_up,down}_proj",
        "router": "model.layers.N.feed_forward.router.weight",
        "norm": "model.layers.N.{input,pre_ff}_layernorm.weight model.final_layernorm.weight "
        "model.layers.N.mamba.{dt,b,c}_layernorm.weight",
    },
    "opt": {
        "embedding": "model.decoder.embed_tokens.weight",
        "position": "model.decoder.embed_positions.weight",
        "attention": "model.decoder.layers.N.self_attn.{q_proj,k_proj,v_proj,out_proj}.weight",
        "feed_forward": "model.decoder.layers.N.{fc1,fc2}.weight",
        "norm": "model.decoder.layers.N.{self_attn,final}_layer_norm.weight model.decoder.final_layer_norm.weight",
    },
    "bloom": {
        "embedding": "transformer.word_embeddings.weight",
        "attention": "transformer.h.N.self_attention.{query_key_value,dense}.weight",
        "feed_forward": "transformer.h.N.mlp.{dense_h_to_4h,dense_4h_to_h}.weight",
        "norm": "transformer.word_embeddings_layernorm.weight transformer.ln_f.weight "
        "transformer.h.N.{input,post_attention}_layernorm.weight",
    },
    "whisper": {
        "embedding": "model.decoder.embed_tokens.weight",
        "conv": "model.encoder.{conv1,conv2}.weight",
        "position": "model.{encoder,decoder}.embed_positions.weight",
        "attention": "model.{encoder,decoder}.layers.N.{self,encoder}_attn.{q_proj,k_proj,v_proj,out_proj}.weight",
        "feed_forward": "model.{encoder,decoder}.layers.N.{fc1,fc2}.weight",
        "norm": "model.{encoder,decoder}.layers.N.{self_attn,encoder_attn,final}_layer_norm.weight "
        "model.{encoder,decoder}.layer_norm.weight",
    },
    "switch_transformers": {
        "embedding": "shared.weight",
        "position": "{encoder,decoder}.block.N.layer.N.SelfAttention.relative_attention_bias.weight",
        "attention": f"{T5_LAYERS}.{{SelfAttention,EncDecAttention}}.{{q,k,v,o}}.weight",
        "feed_forward": f"{T5_LAYERS}.mlp.{{wi,wo}}.weight",
        "experts": f"{T5_LAYERS}.mlp.experts.expert_N.{{wi,wo}}.weight",
        "router": f"{T5_LAYERS}.mlp.router.classifier.weight",
        "norm": f"{T5_LAYERS}.layer_norm.weight {{encoder,decoder}}.final_layer_norm.weight",
    },
    "granitemoehybrid": {
        **ENDS,
        "attention": QKVO,
        "ssm": under("model.layers.N.mamba", f"{SSM} dt_bias"),
        "experts": "model.layers.N.block_sparse_moe.experts.{gate_up,down}_proj",
        "router": "model.layers.N.block_sparse_moe.router.weight",
        "shared_experts": "model.layers.N.shared_mlp.{input,output}_linear.weight",
        "norm": f"{NORMS} model.layers.N.mamba.norm.weight",
    },
    "lfm2": {
        "embedding": "model.embed_tokens.weight",
        "attention": "model.layers.N.self_attn.{q_proj,k_proj,v_proj,out_proj}.weight",
        "conv": "model.layers.N.conv.{conv,in_proj,out_proj}.weight",
        "feed_forward": "model.layers.N.feed_forward.{w1,w2,w3}.weight",
        "norm": "model.layers.N.{operator,ffn}_norm.weight model.layers.N.self_attn.{q,k}_layernorm.weight "
        "model.embedding_norm.weight",
    },
}
HAND_WRITTEN = {
    "torchtitan_moe": {
        "embedding": "tok_embeddings.weight",
        "attention": "layers.N.attention.{wq,wk,wv,wo}.weight",
        "feed_forward": "layers.N.feed_forward.{w1,w2,w3}.weight",
        "experts": "layers.N.moe.experts.{w1,w2,w3}",
        "shared_experts": "layers.N.moe.shared_experts.{w1,w2,w3}.weight",
        "router": "layers.N.moe.router.gate.weight",
        "norm": "layers.N.{attention,ffn}_norm.weight norm.weight",
        "unembedding": "output.weight",
    },
    "timm_vit": {
        "embedding": "cls_token patch_embed.proj.weight",
        "position": "pos_embed",
        "attention": "blocks.N.attn.{qkv,proj}.weight",
        "feed_forward": "blocks.N.mlp.{fc1,fc2}.weight",
        "norm": "blocks.N.norm{1,2}.weight blocks.N.attn.{q,k}_norm.weight blocks.N.ls{1,2}.gamma norm.weight",
        "unembedding": "head.weight",
    },
    "nano_gpt": {
        "embedding": "transformer.wte.weight",
        "position": "transformer.wpe.weight",
        "attention": "transformer.h.N.attn.{c_attn,c_proj}.weight",
        "feed_forward": "transformer.h.N.mlp.{c_fc,c_proj}.weight",
        "norm": "transformer.h.N.ln_{1,2}.weight transformer.ln_f.weight",
    },
    "anonymous_moe": {
        "embedding": "a.weight",
        "attention": "b.N.b.{a,b}.weight",
        "feed_forward": "b.N.d.N.weight",
        "experts": "b.N.d.b.N.N.weight",
        "router": "b.N.d.a.weight",
        "norm": "b.N.{a,c}.weight c.weight",
        "unembedding": "d.weight",
    },
    "flat_layers": {
        "embedding": "embed.weight",
        "attention": "layers.N.{q,k,v,o}_proj.weight",
        "feed_forward": "layers.N.{gate,up,down}_proj.weight",
        "norm": "layers.N.norm.weight",
        "unembedding": "head.weight",
    },
}
OWN_ATTENTION = {
    "embedding": "embedding.weight",
    "attention": "blocks.N.attention.{query_key_value,output}.weight",
    "norm": "blocks.N.{attention,feed_forward}_norm.weight norm.weight",
    "unembedding": "unembedding.weight",
}
OWN = {
    0: {**OWN_ATTENTION, "feed_forward": "blocks.N.feed_forward.{gate_up,down}.weight"},
    4: {**OWN_ATTENTION, "experts": "blocks.N.moe.experts.{gate_up,down}", "router": "blocks.N.moe.router.weight"},
}


def matcher(name: str) -> re.Pattern[str]:
    """A name of a table as a regular expression."""
    pattern = re.escape(name).replace(r"\{", "(?:").replace(r"\}", ")").replace(",", "|")
    pattern = re.sub(r"(?<![A-Za-z])N(?![A-Za-z])", r"\\d+", pattern)
    return re.compile(pattern.removesuffix(r"\.weight") + r"\.(?:weight|bias)" if name.endswith(".weight") else pattern)


def check(model: nn.Module, table: dict[str, str]) -> None:
    """The partition is the table's: each parameter matched by one of its names, each name by some parameter."""
    expected = {matcher(name): component for component, names in table.items() for name in names.split()}
    found = partition(model).component_of()
    used = Counter()
    for name, component in found.items():
        hits = [pattern for pattern in expected if pattern.fullmatch(name)]
        assert len(hits) == 1, f"the table has {len(hits)} names for {name}"
        assert component == expected[hits[0]], name
        used[hits[0]] += 1
    assert set(used) == set(expected), "the table names what the model does not have"
    assert set(found) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("name", TABLES)
def test_transformers_architectures_match_their_tables(name):
    check(architectures.build(name), TABLES[name])


@pytest.mark.parametrize("name", HAND_WRITTEN)
def test_hand_written_models_match_their_tables(name):
    check(getattr(architectures, name)(), HAND_WRITTEN[name])


@pytest.mark.parametrize("n_experts", OWN)
def test_our_own_models_match_their_tables(n_experts):
    check(Transformer(ModelConfig(d_model=16, n_layers=2, n_experts=n_experts), vocab_size=32), OWN[n_experts])


def test_torch_transformer_layers_are_attention_feed_forward_and_norm():
    model = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)
    parts = partition(model)
    assert set(parts) == {"attention", "feed_forward", "norm"}
    assert parts["feed_forward"] == [n for n, _ in model.named_parameters() if ".linear" in n]


def test_a_vision_tower_and_its_projector_are_components_and_the_rest_is_as_in_llama():
    found = partition(architectures.build_llava()).component_of()
    joined = {"model.vision_tower.": "vision", "model.multi_modal_projector.": "connector"}
    for path, component in joined.items():
        assert {c for n, c in found.items() if n.startswith(path)} == {component}
    rest = {c for n, c in found.items() if not n.startswith(tuple(joined))}
    assert rest == {"embedding", "attention", "feed_forward", "norm", "unembedding"}


def test_of_two_towers_the_text_one_is_the_model_itself():
    found = partition(architectures.build_clip()).component_of()
    assert {c for n, c in found.items() if n.startswith("vision_model.")} == {"vision"}
    text = {c for n, c in found.items() if n.startswith("text_model.")}
    assert text == {"embedding", "position", "attention", "feed_forward", "norm"}
    assert found["visual_projection.weight"] == "vision"
    assert found["logit_scale"] == "other"


def test_a_70b_model_on_the_meta_device_is_covered():
    model = architectures.build_llama_70b()
    parts = partition(model)
    assert sum(p.numel() for p in model.parameters()) > 70e9
    assert {c: len(names) for c, names in parts.items()} == {
        "embedding": 1,
        "attention": 4 * 80,
        "feed_forward": 3 * 80,
        "norm": 2 * 80 + 1,
        "unembedding": 1,
    }


# Order, and the views.


def test_components_come_in_the_standard_order_and_parameters_in_the_models():
    model = architectures.build("qwen3_moe")
    parts = partition(model)
    assert list(parts) == [c for c in COMPONENTS if c in parts]
    order = [name for name, _ in model.named_parameters()]
    assert all(names == [n for n in order if n in names] for names in parts.values())


def test_coarse_gives_the_papers_six_and_base():
    six = {"embedding", "unembedding", "attention", "feed_forward", "experts", "router"}
    assert {coarse(c) for c in COMPONENTS} == six | {"base"}
    assert all(coarse(c) == c for c in six)
    assert coarse("shared_experts") == "feed_forward"
    assert coarse("norm") == coarse("a rule's own name") == "base"


# Evidence.


@pytest.mark.parametrize("experts", [True, False])
def test_a_layer_called_gate_is_a_router_only_beside_experts(experts):
    mlp = named(gate=linear(16, 24), up=linear(16, 24), down=linear(24, 16))
    moe = named(gate=linear(16, 4), experts=nn.ModuleList(named(w1=linear(16, 8), w2=linear(8, 16)) for _ in range(4)))
    layer = named(attn=nn.MultiheadAttention(16, 2), mlp=moe if experts else mlp)
    found = partition(named(layers=nn.ModuleList([layer]))).component_of()
    assert found["layers.0.mlp.gate.weight"] == ("router" if experts else "feed_forward")


def test_two_parallel_feed_forwards_in_a_list_are_not_experts():
    def mlp():
        return named(gate_proj=linear(16, 24), up_proj=linear(16, 24), down_proj=linear(24, 16))

    layer = named(self_attn=nn.MultiheadAttention(16, 2), mlps=nn.ModuleList([mlp(), mlp()]))
    assert set(partition(named(layers=nn.ModuleList([layer])))) == {"attention", "feed_forward"}


def test_a_dense_mlp_inside_the_moe_module_is_a_shared_expert_by_function():
    moe = named(gate=linear(16, 4), experts=nn.ModuleList(named(w1=linear(16, 8), w2=linear(8, 16)) for _ in range(4)))
    moe.residual = named(w1=linear(16, 8), w2=linear(8, 16))
    found = partition(named(layers=nn.ModuleList([named(attn=nn.MultiheadAttention(16, 2), moe=moe)]))).component_of()
    assert found["layers.0.moe.residual.w1.weight"] == "shared_experts"


def test_fused_experts_and_their_router_may_be_the_moe_modules_own_parameters():
    moe = named(
        gate=nn.Parameter(torch.empty(4, 16)),
        w1=nn.Parameter(torch.empty(4, 16, 24)),
        w2=nn.Parameter(torch.empty(4, 24, 16)),
        w1_bias=nn.Parameter(torch.empty(4, 24)),
        correction=nn.Parameter(torch.empty(4)),
    )
    found = partition(named(layers=nn.ModuleList([named(attn=nn.MultiheadAttention(16, 2), moe=moe)]))).component_of()
    names = ("gate", "correction", "w1", "w2", "w1_bias")
    assert [found[f"layers.0.moe.{n}"] for n in names] == ["router", "router", "experts", "experts", "experts"]


def test_a_class_name_that_mentions_attention_does_not_make_a_layer_attention():
    class AttentionBlock(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 2)
            self.mlp = nn.Sequential(linear(16, 64), nn.GELU(), linear(64, 16))

    parts = partition(nn.Sequential(AttentionBlock(), AttentionBlock()))
    assert parts["feed_forward"] == ["0.mlp.0.weight", "0.mlp.2.weight", "1.mlp.0.weight", "1.mlp.2.weight"]


def test_subclasses_of_torchs_layers_are_told_by_what_they_derive_from():
    class Mixer(nn.MultiheadAttention):
        pass

    class NormalisedLinear(nn.Linear):
        pass

    found = partition(named(a=Mixer(16, 2), score=NormalisedLinear(16, 10))).component_of()
    assert found["a.in_proj_weight"] == found["a.out_proj.weight"] == "attention"
    assert found["score.weight"] == found["score.bias"] == "unembedding"


def test_the_linears_of_an_adaptive_norm_are_not_taken_for_a_feed_forward():
    norm = named(linear1=linear(16, 32), linear2=linear(32, 16), scale=nn.LayerNorm(16))
    parts = partition(named(layers=nn.ModuleList([named(attn=nn.MultiheadAttention(16, 2), ada_norm=norm)])))
    assert parts["other"] == ["layers.0.ada_norm.linear1.weight", "layers.0.ada_norm.linear2.weight"]
    assert parts["norm"] == ["layers.0.ada_norm.scale.weight", "layers.0.ada_norm.scale.bias"]


def test_linear_attention_with_a_learned_decay_is_ssm_and_without_is_attention():
    def attention(**extra):
        return named(**{f"{n}_proj": linear(16, 16) for n in "qkvo"}, **extra)

    parts = partition(named(a=nn.ModuleList([attention(), attention(A_log=nn.Parameter(torch.empty(4)))])))
    assert {n.split(".")[1] for n in parts["attention"]} == {"0"}
    assert {n.split(".")[1] for n in parts["ssm"]} == {"1"}


def test_what_is_unsure_is_other_with_its_reason_and_the_rule_that_settles_it():
    model = architectures.build("zamba2")
    parts = partition(model)
    assert parts["other"] == ["model.layers.1.linear.weight"]
    assert "Linear model.layers.1.linear" in parts.unsure["model.layers.1.linear.weight"]
    assert parts.suggestions() == [r'Rule("COMPONENT", r"^model\.layers\.\d+\.linear\.weight$")']
    settled = partition(model, [Rule("ssm", r"^model\.layers\.\d+\.linear\.weight$")])
    assert not settled.unsure
    assert "model.layers.1.linear.weight" in settled["ssm"]


def test_a_suggested_rule_matches_its_parameter_in_every_layer_and_nothing_else():
    pattern = re.search(r'r"(.*)"\)', suggest_rule("module.layers.7.a.weight")).group(1)
    names = ["layers.7.a.weight", "layers.12.a.weight", "layers.7.aa.weight", "x.layers.7.a.weight"]
    assert [bool(re.search(pattern, n)) for n in names] == [True, True, False, False]


def test_reasons_say_which_evidence_decided():
    reasons = partition(architectures.build("mixtral"), [Rule("head", "^lm_head", name="head apart")]).reasons
    assert reasons["lm_head.weight"] == "rule head apart"
    assert reasons["model.layers.0.mlp.gate.weight"] == "owner: MoE router model.layers.0.mlp.gate"
    assert reasons["model.layers.1.self_attn.q_proj.weight"] == "owner: attention model.layers.1.self_attn"


# Rules.


def test_the_first_matching_rule_wins_and_rules_come_before_all_else():
    rules = [Rule("router", r"layers\.0\.mlp\.up_proj"), Rule("mine", r"mlp\.up_proj"), Rule("norm", "lm_head")]
    found = partition(architectures.build("llama"), rules).component_of()
    assert found["model.layers.0.mlp.up_proj.weight"] == "router"
    assert found["model.layers.1.mlp.up_proj.weight"] == "mine"
    assert found["model.layers.1.mlp.down_proj.weight"] == "feed_forward"
    assert found["lm_head.weight"] == "norm"


def test_components_that_only_rules_name_come_last():
    assert list(partition(architectures.build("llama"), [Rule("early", r"layers\.0\.")]))[-1] == "early"


def test_a_rule_that_matches_nothing_is_an_error_that_names_it():
    with pytest.raises(
        PartitionError, match=r"rule 'routers': pattern='gating' matches no parameter of the model's 21"
    ):
        partition(architectures.build("llama"), [Rule("router", "gating", name="routers")])


def test_a_rule_that_matches_only_a_tied_name_says_which_name_to_use():
    with pytest.raises(PartitionError, match=r"only lm_head\.weight, which is tied to transformer\.wte\.weight"):
        partition(architectures.build("gpt2"), [Rule("unembedding", "lm_head")])


def test_a_rule_shadowed_by_earlier_ones_is_an_error_that_names_both():
    rules = [Rule("attention", "self_attn", name="wide"), Rule("norm", r"q_proj", name="narrow")]
    with pytest.raises(PartitionError, match=r"rule 'narrow' never decides.* taken by the earlier 'wide'"):
        partition(architectures.build("llama"), rules)


def test_a_rule_that_matches_frozen_parameters_only_is_no_error():
    model = architectures.build("llama")
    model.lm_head.requires_grad_(False)
    assert partition(model, [Rule("head", "lm_head")])["head"] == ["lm_head.weight"]


def test_on_a_pipeline_stage_a_rule_may_match_nothing_when_said_so():
    model = architectures.build("llama")
    model.lm_head = None
    model.model.embed_tokens = None
    assert {"embedding", "unembedding"}.isdisjoint(partition(model))
    rules = [Rule("head", "lm_head")]
    with pytest.raises(PartitionError, match="matches no parameter"):
        partition(model, rules)
    assert "head" not in partition(model, rules, partial=True)


@pytest.mark.parametrize(
    ("component", "pattern", "message"),
    [
        ("expert", "x", "did you mean 'experts'"),
        ("feed-forward", "x", "did you mean 'feed_forward'"),
        ("", "x", "is not a name"),
        ("norm", "(", "is not a regular expression"),
    ],
)
def test_a_bad_rule_is_refused_when_it_is_made(component, pattern, message):
    with pytest.raises(PartitionError, match=message):
        Rule(component, pattern)


def test_adapters_takes_two_words_only():
    with pytest.raises(PartitionError, match="adapters='both' should be 'follow' or 'own'"):
        partition(architectures.peft_model(), adapters="both")


# Tied weights.


@pytest.mark.parametrize(("name", "head"), [("gpt2", "lm_head.weight"), ("bert", "cls.predictions.decoder.weight")])
def test_a_tied_head_is_embedding_and_says_so(name, head):
    parts = partition(architectures.build(name))
    (kept,) = [n for n, aliases in parts.tied.items() if head in aliases]
    assert kept in parts["embedding"]
    assert parts.reasons[kept].endswith(f"one weight, one rate: tied with {head} (unembedding)")


def test_a_tied_weight_is_embedding_even_where_the_head_comes_first():
    model = named(lm_head=linear(16, 50), wte=nn.Embedding(50, 16))
    model.lm_head.weight = model.wte.weight
    parts = partition(model)
    assert dict(parts) == {"embedding": ["lm_head.weight"]}
    assert parts.tied == {"lm_head.weight": ["wte.weight"]}
    assert parts.tied_components == ("unembedding",)


def test_ties_are_told_by_identity_not_by_declaration():
    untied = architectures.build("llama")
    assert untied._tied_weights_keys  # the class declares them all the same
    parts = partition(untied)
    assert not parts.tied
    assert parts["unembedding"] == ["lm_head.weight"]


def test_a_block_shared_by_two_layers_is_one_set_of_parameters():
    layer = nn.TransformerEncoderLayer(16, 2, 32)
    parts = partition(named(layers=nn.ModuleList([layer, layer])))
    assert sum(len(names) for names in parts.values()) == 12
    assert parts.tied["layers.0.linear1.weight"] == ["layers.1.linear1.weight"]


# Wrappers.


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("module.layers.0.a.weight", "layers.0.a.weight"),
        ("_orig_mod.module.layers.0._checkpoint_wrapped_module.a.weight", "layers.0.a.weight"),
        ("_fsdp_wrapped_module.layers.0._fsdp_wrapped_module._orig_mod.a.weight", "layers.0.a.weight"),
        ("base_model.model.model.q.base_layer.weight", "model.q.weight"),
        ("base_model.model.q.lora_A.default.weight", "q.lora_A.default.weight"),
        ("base_model.model.lm_head.modules_to_save.default.weight", "lm_head.weight"),
        ("base_model.model.lm_head.original_module.weight", "lm_head.weight"),
        ("base_model.encoder.weight", "base_model.encoder.weight"),
        ("scale", "scale"),
    ],
)
def test_canonical_names_have_no_wrappers(name, canonical):
    assert canonical_name(name) == canonical


def wrapped(model: nn.Module, how: str) -> nn.Module:
    if how == "data parallel":
        return nn.DataParallel(model)
    if how == "compiled layers":
        for i, layer in enumerate(model.b):
            model.b[i] = torch.compile(layer, backend="eager")
    if how == "checkpointed layers":
        for i, layer in enumerate(model.b):
            model.b[i] = checkpoint_wrapper(layer)
    if how == "checkpointed linears":
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(parent, name, checkpoint_wrapper(child))
    if how == "compiled twice":
        return torch.compile(nn.DataParallel(torch.compile(model, backend="eager")), backend="eager")
    return model


@pytest.mark.parametrize(
    "how", ["data parallel", "compiled layers", "checkpointed layers", "checkpointed linears", "compiled twice"]
)
def test_wrappers_change_names_only(how):
    # Names that say nothing: the structure is found through the wrappers, too.
    plain = partition(architectures.anonymous_moe())
    model = wrapped(architectures.anonymous_moe(), how)
    names = {name for name, _ in model.named_parameters()}
    found = partition(model)
    assert set(found.component_of()) == names
    assert {c: [canonical_name(n) for n in ns] for c, ns in found.items()} == dict(plain)
    assert any(name != canonical_name(name) for name in names)


def test_rules_see_canonical_names():
    parts = partition(nn.DataParallel(architectures.nano_gpt()), [Rule("mine", r"^transformer\.wpe")])
    assert parts["mine"] == ["module.transformer.wpe.weight"]


def test_a_weight_stored_in_another_shape_is_told_by_its_layer():
    # As sharded by FSDP1 (flat pieces) or quantised: the parameter's shape is not the layer's.
    model = architectures.anonymous_moe()
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight = nn.Parameter(torch.empty(3))
    assert dict(partition(model)) == dict(partition(architectures.anonymous_moe()))


def test_frozen_parameters_are_part_of_the_partition():
    model = architectures.build("llama").requires_grad_(False)
    assert dict(partition(model)) == dict(partition(architectures.build("llama")))


# Adapters.


def test_adapters_follow_the_layer_that_they_adapt():
    found = partition(architectures.peft_model()).component_of()
    layer = "base_model.model.model.layers.0."
    assert found[f"{layer}self_attn.q_proj.lora_A.default.weight"] == "attention"
    assert found[f"{layer}self_attn.q_proj.base_layer.weight"] == "attention"
    assert found[f"{layer}mlp.up_proj.lora_B.default.weight"] == "feed_forward"


def test_adapters_may_be_a_component_of_their_own():
    parts = partition(architectures.peft_model(), adapters="own")
    assert len(parts["adapter"]) == 6
    assert all(".lora_" in name for name in parts["adapter"])
    assert "base_model.model.model.layers.0.mlp.up_proj.base_layer.weight" in parts["feed_forward"]


@pytest.mark.parametrize("adapters", ["follow", "own"])
def test_copies_by_modules_to_save_stay_with_their_component(adapters):
    head = "base_model.model.lm_head."
    parts = partition(architectures.peft_model(), adapters=adapters)
    assert parts["unembedding"] == [f"{head}original_module.weight", f"{head}modules_to_save.default.weight"]


# Weight decay.


def test_norms_biases_and_vectors_are_undecayed_and_matrices_are_not():
    model = architectures.build("gpt_oss")
    component = partition(model).component_of()
    kept_off = {re.sub(r"\d+", "N", n) for n, p in model.named_parameters() if undecayed(n, p, component[n])}
    layer = "model.layers.N."
    assert kept_off == {
        "model.norm.weight",
        f"{layer}input_layernorm.weight",
        f"{layer}post_attention_layernorm.weight",
        *(f"{layer}self_attn.{x}_proj.bias" for x in "qkvo"),
        f"{layer}self_attn.sinks",
        f"{layer}mlp.router.bias",
        f"{layer}mlp.experts.gate_up_proj_bias",
        f"{layer}mlp.experts.down_proj_bias",
    }


@pytest.mark.parametrize(
    ("name", "shape", "component", "expected"),
    [
        ("cls_token", (1, 1, 16), "embedding", True),  # a vector with broadcast dimensions
        ("pos_embed", (1, 5, 16), "position", False),
        ("shared_expert_gate.weight", (1, 16), "shared_experts", False),  # a matrix with one row
        ("q_norm.weight", (4, 8), "norm", True),  # one norm per head
        ("attn.in_proj_bias", (48,), "attention", True),
        ("SelfAttention.relative_attention_bias.weight", (32, 4), "position", False),
    ],
)
def test_undecayed_by_name_shape_and_component(name, shape, component, expected):
    assert undecayed(name, nn.Parameter(torch.empty(shape)), component) is expected
