"""Heads, extra linears beside them, bare banks of weights, parametrized tensors, and order of registration."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

import architectures
import rlrs
from architectures import linear, named, shuffled
from rlrs.components import Rule, canonical_name, partition, undecayed

D, V = 16, 50


def block():
    attention = named(**{f"c_{n}": linear(D, D) for n in "qkv"}, c_proj=linear(D, D), ve_gate=linear(12, 2))
    return named(attn=attention, mlp=named(c_fc=linear(D, 4 * D), c_proj=linear(4 * D, D)))


def gpt(**extra):
    body = nn.ModuleDict({"wte": nn.Embedding(V, D), "h": nn.ModuleList([block(), block()]), "ln_f": nn.LayerNorm(D)})
    return named(transformer=body, **extra)


# Heads.

EXTRA = {
    "smear_gate": linear(24, 1),
    "halt": linear(D, 1),
    "film": linear(D, 2 * D),
    "join": linear(2 * D, D),
    "pixels_to_width": linear(48, D),
    "mode": linear(D, 2),
    "modulation": linear(D, 6 * D),
    "token_gate": linear(D, V),
}


@pytest.mark.parametrize("name", EXTRA)
def test_a_linear_beside_a_head_is_no_second_head_whichever_comes_first(name):
    for model in (gpt(lm_head=linear(D, V), **{name: EXTRA[name]}), gpt(**{name: EXTRA[name]}, lm_head=linear(D, V))):
        parts = partition(model)
        assert parts["unembedding"] == ["lm_head.weight"]
        assert parts["other"] == [f"{name}.weight"]
        assert parts.suggestions() == [rf'Rule("COMPONENT", r"^{name}\.weight$")']


@pytest.mark.parametrize("name", EXTRA)
def test_where_the_head_is_the_table_no_other_linear_is_taken_for_it(name):
    assert "unembedding" not in partition(gpt(**{name: EXTRA[name]}))


def test_a_table_of_token_types_does_not_make_a_linear_of_two_outputs_a_head():
    parts = partition(gpt(types=nn.Embedding(2, D), halt=linear(D, 2), out=linear(D, V)))
    assert parts["unembedding"] == ["out.weight"]


@pytest.mark.parametrize("name", ["x", "prediction_map"])
def test_a_head_that_nothing_names_is_told_by_its_rows_padded_or_not(name):
    for rows in (V, 64):
        assert partition(gpt(**{name: linear(D, rows)}))["unembedding"] == [f"{name}.weight"]


def test_several_heads_for_several_tokens_are_all_heads():
    parts = partition(gpt(heads=nn.ModuleList([linear(D, V), linear(D, V)]), lm_head=linear(D, V)))
    assert parts["unembedding"] == ["heads.0.weight", "heads.1.weight", "lm_head.weight"]


def test_a_classifier_without_a_vocabulary_is_the_linear_that_reads_the_models_width():
    layer = named(a=nn.LayerNorm(D), b=nn.MultiheadAttention(D, 2), c=named(x=linear(D, 64), y=linear(64, D)))
    model = named(z=linear(D, 10), blocks=nn.ModuleList([layer, layer]), into=linear(48, D))
    assert partition(model)["unembedding"] == ["z.weight"]


# Bare parameters.


def test_a_model_of_bare_banks_is_told_by_their_names():
    def bank(*shape):
        return nn.Parameter(torch.empty(shape))

    model = named(
        smear_gate=linear(12, 1),
        qk_bank=bank(4, 2 * D, D),
        vo_bank=bank(4, 2 * D, D),
        mlp_bank=bank(8, 4 * D, D),
        attn_gate_bank=bank(4, 4, 12),
        ln_scale=bank(4, D),
        value_embeds=bank(3 * V, D),
        embed=bank(V, D),
        lm_head=bank(D, V),
        x0_lambdas=bank(4),
    )
    assert dict(partition(model)) == {
        "embedding": ["value_embeds", "embed"],
        "attention": ["qk_bank", "vo_bank", "attn_gate_bank"],
        "feed_forward": ["mlp_bank"],
        "norm": ["ln_scale"],
        "unembedding": ["lm_head"],
        "other": ["x0_lambdas", "smear_gate.weight"],
    }


def test_stacked_projections_are_told_beside_queries_keys_and_values():
    banks = {n: nn.Parameter(torch.empty(4, D, D)) for n in ("w_q", "w_k", "w_v", "w_o")}
    banks |= {"w_up": nn.Parameter(torch.empty(4, 4 * D, D)), "w_down": nn.Parameter(torch.empty(4, D, 4 * D))}
    parts = partition(named(tok=nn.Embedding(V, D), **banks))
    assert parts["attention"] == ["w_q", "w_k", "w_v", "w_o"]
    assert parts["feed_forward"] == ["w_up", "w_down"]


def empty(**shapes):
    return {name: nn.Parameter(torch.empty(shape)) for name, shape in shapes.items()}


def test_banks_of_transformer_lens_and_of_experts_are_told_by_their_names():
    heads = empty(W_Q=(4, 2, D, 8), W_K=(4, 2, D, 8), W_V=(4, 2, D, 8), W_O=(4, 2, 8, D))
    ends = empty(W_E=(V, D), W_pos=(8, D), W_U=(D, V), b_U=(V,))
    assert dict(partition(named(**ends, **heads, **empty(W_in=(4, D, 64), W_out=(4, 64, D))))) == {
        "embedding": ["W_E"],
        "position": ["W_pos"],
        "attention": ["W_Q", "W_K", "W_V", "W_O"],
        "feed_forward": ["W_in", "W_out"],
        "unembedding": ["W_U", "b_U"],
    }
    experts = empty(qkvo_bank=(4, 4, D, D), router_bank=(4, 8, D), expert_up_bank=(4, 8, D, 64), attn_norm_bank=(4, D))
    parts = partition(named(**empty(embed=(V, D), output_weight=(V, D)), **experts)).component_of()
    assert list(parts.values()) == ["embedding", "attention", "experts", "router", "norm", "unembedding"]


FLAT = {
    "arrays": empty(wq=(D, D), wk=(D, D), wv=(D, D), wo=(D, D), w1=(D, 64), w2=(64, D)),
    "words": empty(qkv_w=(3 * D, D), attn_proj_w=(D, D), mlp_up_w=(64, D), mlp_down_w=(D, 64)),
    "out beside o": empty(W_Q=(D, D), W_K=(D, D), W_V=(D, D), W_O=(D, D), W_in=(D, 64), W_out=(64, D)),
    "linears": {
        **{f"{n}_proj": linear(D, D) for n in "qkvo"},
        **{"in_proj": linear(D, 64), "out_proj": linear(64, D)},
    },
}


@pytest.mark.parametrize("layer", FLAT.values(), ids=FLAT)
def test_attention_and_feed_forward_in_one_module_are_told_apart(layer):
    parts = partition(named(embed=nn.Embedding(V, D), blocks=nn.ModuleList([named(**layer), named(**layer)])))
    halves = list(layer)
    expected = dict.fromkeys(halves[:-2], "attention") | dict.fromkeys(halves[-2:], "feed_forward")
    names = {name.removeprefix("blocks.0.").removesuffix(".weight"): c for name, c in parts.component_of().items()}
    assert {name: names[name] for name in halves} == expected


@pytest.mark.parametrize("name", ["lm_head", "head_weight", "unembed", "W_U", "logits_w"])
def test_a_bare_head_is_unembedding(name):
    assert partition(gpt(**{name: nn.Parameter(torch.empty(D, V))}))["unembedding"] == [name]


# Order.

MODELS = [*architectures.CONFIGS, "torchtitan_moe", "timm_vit", "nano_gpt", "anonymous_moe", "flat_layers"]


@pytest.mark.parametrize("name", MODELS)
def test_order_of_registration_changes_nothing(name):
    def make():
        return architectures.build(name) if name in architectures.CONFIGS else getattr(architectures, name)()

    plain = partition(make())
    alias = {a: kept for kept, names in plain.tied.items() for a in names}  # which name is kept may change
    expected = plain.component_of()
    for seed in range(2):
        found = partition(shuffled(make(), seed)).component_of()
        assert {alias.get(n, n): c for n, c in found.items()} == {alias.get(n, n): c for n, c in expected.items()}


def test_a_low_rank_map_is_no_feed_forward_in_either_order():
    for names in (("a", "b"), ("b", "a")):
        shapes = {"a": linear(D, 4), "b": linear(4, D)}
        layer = named(n=nn.LayerNorm(D), attn=nn.MultiheadAttention(D, 2), low=named(**{k: shapes[k] for k in names}))
        parts = partition(named(layers=nn.ModuleList([layer])))
        assert set(parts["other"]) == {"layers.0.low.a.weight", "layers.0.low.b.weight"}


# Parametrized tensors.


class UnitRows(nn.Module):
    def forward(self, weight):
        return nn.functional.normalize(weight, dim=-1)

    def right_inverse(self, weight):
        return weight


class Factors(nn.Module):
    """A product of two matrices, with a scale of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, a, b):
        return a @ b * self.scale

    def right_inverse(self, weight):
        return weight, torch.eye(weight.shape[1])


WRAPS = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, old": old_weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm, old": old_spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "unit rows": lambda module: parametrize.register_parametrization(module, "weight", UnitRows()),
    "two factors": lambda module: parametrize.register_parametrization(module, "weight", Factors()),
    "pruned": lambda module: prune.identity(module, "weight"),
}


def small_gpt():
    torch.manual_seed(0)
    layer = named(
        norm1=nn.LayerNorm(D),
        attn=named(**{f"{n}_proj": linear(D, D, True) for n in "qkvo"}),
        norm2=nn.LayerNorm(D),
        mlp=named(up_proj=linear(D, 4 * D), down_proj=linear(4 * D, D)),
    )
    stem = nn.Conv2d(3, D, kernel_size=4, stride=4)
    return named(
        tok=nn.Embedding(V, D),
        pos=nn.Embedding(8, D),
        stem=stem,
        blocks=nn.ModuleList([layer]),
        final=nn.LayerNorm(D),
        x=linear(D, V),
    )


def own_name(name):
    """The name of the tensor that a parameter is a part of."""
    name = canonical_name(name)
    for ending in ("_g", "_v", "_orig"):
        name = name.replace(f"weight{ending}", "weight")
    return name.partition(".parametrizations.")[0] + (".weight" if ".parametrizations." in name else "")


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("how", WRAPS)
def test_a_parametrized_model_has_the_partition_and_the_decay_of_the_plain_one(how):
    plain = small_gpt()
    expected = partition(plain).component_of()
    decayed = {n: not undecayed(n, p, expected[n]) for n, p in plain.named_parameters()}
    model = small_gpt()
    for module in list(model.modules()):
        if isinstance(module, nn.Linear | nn.Embedding) or (isinstance(module, nn.Conv2d) and how != "two factors"):
            WRAPS[how](module)
    found = partition(model).component_of()
    assert {n: c for n, c in found.items() if expected[own_name(n)] != c} == {}
    assert set(map(own_name, found)) == set(expected)
    for name, parameter in model.named_parameters():
        magnitude = "weight norm" in how and name.endswith(("original0", "weight_g"))
        scale = name.endswith(".scale")
        wanted = decayed[own_name(name)] and not magnitude and not scale
        assert undecayed(name, parameter, found[name]) is not wanted, name
    rlrs.param_groups(model, rlrs.Ratios.preset("paper-dense"), lr=1e-3)


class Gain(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(D, 1))

    def forward(self, weight):
        return weight * self.gain


def test_a_gain_per_row_is_not_decayed_and_the_direction_of_one_row_is():
    layer = parametrize.register_parametrization(linear(D, D), "weight", Gain())
    assert undecayed(
        "q.parametrizations.weight.0.gain",
        dict(layer.named_parameters())["parametrizations.weight.0.gain"],
        "attention",
    )
    row = dict(parametrizations.weight_norm(linear(D, 1)).named_parameters())
    decayed = {name[-1]: not undecayed(f"head.{name}", parameter, "unembedding") for name, parameter in row.items()}
    assert decayed == {"0": False, "1": True}


def test_a_parametrized_norm_and_a_parametrized_bias_stay_what_they_are():
    model = small_gpt()
    parametrize.register_parametrization(model.final, "weight", nn.Softplus(), unsafe=True)
    parametrize.register_parametrization(model.blocks[0].attn.q_proj, "bias", nn.Tanh(), unsafe=True)
    found = partition(model).component_of()
    assert found["final.parametrizations.weight.original"] == found["final.bias"] == "norm"
    bias = "blocks.0.attn.q_proj.parametrizations.bias.original"
    assert found[bias] == "attention"
    assert undecayed(bias, model.get_parameter(bias), "attention")


def test_rules_see_a_parametrized_tensor_by_its_own_name():
    model = small_gpt()
    parametrizations.weight_norm(model.x)
    parts = partition(model, [Rule("mine", r"^x\.weight$")])
    assert parts["mine"] == ["x.parametrizations.weight.original0", "x.parametrizations.weight.original1"]


def test_the_positional_convolution_of_wav2vec2_is_position_with_its_weight_norm():
    transformers = pytest.importorskip("transformers")
    config = transformers.Wav2Vec2Config(
        **{"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
        **{"conv_dim": [8], "conv_stride": [5], "conv_kernel": [10], "num_feat_extract_layers": 1, "vocab_size": 32},
    )
    with torch.device("meta"):
        model = transformers.Wav2Vec2ForCTC(config)
    parts = partition(model)
    conv = "wav2vec2.encoder.pos_conv_embed.conv"
    weights = [f"{conv}.parametrizations.weight.original{i}" for i in (0, 1)]
    assert [name for name in parts["position"] if "pos_conv" in name] == [f"{conv}.bias", *weights]
    groups = rlrs.param_groups(model, {}, lr=1.0, weight_decay=0.1)
    decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
    assert [id(model.get_parameter(name)) in decayed for name in weights] == [False, True]


# A table on the first stage of a pipeline, its copy on the last.


def last_stage(flag):
    stage = gpt(lm_head=linear(D, V, True))
    stage.transformer["wte"] = None
    stage.share_embeddings_and_output_weights = flag
    return stage


def test_a_tied_head_on_a_stage_of_its_own_has_the_embeddings_rate():
    ratios = {"embedding": (5.0, 0.5), "unembedding": (0.4, 0.4)}
    groups = rlrs.param_groups(last_stage(True), ratios, lr=1.0, partial=True)
    optimizer = torch.optim.SGD(groups)
    rlrs.RelativeLR(optimizer, ratios, total_steps=10, partial=True)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates["embedding"] == 5.0
    assert rates["unembedding/no_decay"] == 0.4  # the bias is the head's own
    assert "unembedding" not in rates


def test_transformers_says_by_its_config_that_a_head_is_tied_across_stages():
    for tied in (True, False):
        model = architectures.build("llama", tie_word_embeddings=tied)
        model.lm_head.weight = nn.Parameter(torch.empty(96, 32, device="meta"))
        model.model.embed_tokens = None
        parts = partition(model, partial=True)
        assert parts["embedding" if tied else "unembedding"] == ["lm_head.weight"]
        assert parts.tied_components == (("unembedding",) if tied else ())


def test_the_transform_before_a_tied_head_is_no_copy_of_the_table():
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    stage = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=V, **sizes))
    stage.bert.embeddings = None
    parts = partition(stage, partial=True)
    assert parts["embedding"] == ["cls.predictions.decoder.weight"]
    assert "cls.predictions.transform.dense.weight" in parts["unembedding"]


def test_an_untied_head_a_whole_model_and_a_replica_beside_the_head_are_left_alone():
    assert "lm_head.weight" in partition(last_stage(False), partial=True)["unembedding"]
    whole = gpt(lm_head=linear(D, V))
    whole.share_embeddings_and_output_weights = True  # and yet they are two tensors
    assert partition(whole, partial=True)["unembedding"] == ["lm_head.weight"]
    replica = gpt(lm_head=linear(D, V))
    replica.lm_head.weight = replica.transformer["wte"].weight
    assert partition(replica, partial=True)["embedding"] == ["transformer.wte.weight"]


def test_without_such_a_word_of_the_model_a_rule_says_it():
    parts = partition(last_stage(False), [Rule("embedding", r"^lm_head\.weight$")], partial=True)
    assert parts["embedding"] == ["lm_head.weight"]
