import dataclasses
import functools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

import rlrs
from rlrs.components import PartitionError, Rule
from rlrs.ratios import RatiosError
from rlrs.schedules import BaseSchedule

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

from rlrs.integrations.optax import component_labels, component_partition, rate_schedule, relative  # noqa: E402

LR = 3e-3
RATIOS = {
    "embedding": (5.0, 0.666),
    "experts": (0.3, 1.125),
    "attention": [(0, 1), (0.31, 4), (0.85, 0), (1, 2)],
    "router": (0, 2),
    "unembedding": (2, 0),
}
SCHEDULES = {
    "cosine": BaseSchedule(total_steps=700, warmup_steps=60, final_fraction=0.0444),
    "cosine to 0": BaseSchedule(total_steps=701, final_fraction=0.0),
    "linear to 0": BaseSchedule(total_steps=500, warmup_steps=5, shape="linear", final_fraction=0.0),
    "constant": BaseSchedule(total_steps=500, warmup_steps=7, shape="constant"),
    "wsd": BaseSchedule(total_steps=503, warmup_steps=4, shape="wsd", final_fraction=0.01),
    "nothing but warm-up": BaseSchedule(total_steps=6, warmup_steps=6),
}


# Rates


@pytest.mark.filterwarnings("ignore:RelativeLR goes on past its end")
@pytest.mark.parametrize("name", SCHEDULES)
def test_jitted_rates_equal_torchs_to_1e_6_over_a_whole_schedule(name, tmp_path):
    schedule = SCHEDULES[name]
    rlrs.Ratios(RATIOS).save(tmp_path / "ratios.yaml")
    ratios = rlrs.Ratios.load(tmp_path / "ratios.yaml")
    groups = [{"name": c, "component": c, "params": [torch.nn.Parameter(torch.ones(1))]} for c in [*RATIOS, "norm"]]
    optimizer = torch.optim.SGD(groups, lr=LR)
    options = {"total_steps": schedule.total_steps, "warmup_steps": schedule.warmup_steps, "schedule": schedule.shape}
    scheduler = rlrs.RelativeLR(optimizer, ratios, **options, final_fraction=schedule.final_fraction)
    steps = schedule.total_steps + 3
    torchs = {group["name"]: [] for group in groups}
    for _ in range(steps):
        for group in optimizer.param_groups:
            torchs[group["name"]].append(group["lr"])
        optimizer.step()
        scheduler.step()
    for component, expected in torchs.items():
        rate = rate_schedule(schedule, ratios.get(component, 1.0), LR)
        found = jax.jit(jax.vmap(rate))(jnp.arange(steps))
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=1e-6, atol=0)


def test_rates_are_torchs_own_to_the_last_bit_of_float32():
    schedule = SCHEDULES["cosine to 0"]
    curve = rlrs.schedules.Curve(schedule, [(0, 5), (1, 1)])
    rate = jax.jit(jax.vmap(rate_schedule(schedule, (5, 1), LR)))
    steps = np.arange(schedule.total_steps + 3)
    expected = np.array([LR * curve(int(step)) for step in steps], np.float32)
    np.testing.assert_array_equal(np.asarray(rate(jnp.asarray(steps))), expected)


def test_a_schedule_too_long_for_a_table_is_refused():
    with pytest.raises(ValueError, match="total_steps=1000000000 is more than 10000000"):
        rate_schedule(BaseSchedule(total_steps=10**9), 1.0, LR)


def test_a_rate_compiles_once_for_all_steps():
    traced = []
    rate = rate_schedule(SCHEDULES["cosine"], (5, 1), LR)

    @jax.jit
    def f(step):
        traced.append(step)
        return rate(step)

    for step in range(10):
        f(jnp.asarray(step))
    assert len(traced) == 1


# Components of trees


def shapes(tree):
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple))


FLAX = {
    "params": {
        "wte": {"embedding": (50, 8)},
        "wpe": {"embedding": (16, 8)},
        **{
            f"block_{i}": {
                "ln_1": {"scale": (8,), "bias": (8,)},
                "attn": {n: {"kernel": (8, 8), "bias": (8,)} for n in ("q_proj", "k_proj", "v_proj", "o_proj")},
                "ln_2": {"scale": (8,), "bias": (8,)},
                "mlp": {"up": {"kernel": (8, 32), "bias": (32,)}, "down": {"kernel": (32, 8), "bias": (8,)}},
            }
            for i in range(2)
        },
        "ln_f": {"scale": (8,), "bias": (8,)},
        "lm_head": {"kernel": (8, 50)},
    }
}
PLAIN = {
    "embedding": (50, 8),
    "layers": [
        {
            "attention_norm": (8,),
            "attention": {"wq": (8, 8), "wk": (8, 8), "wv": (8, 8), "wo": (8, 8)},
            "mlp_norm": (8,),
            "moe": {"router": (8, 4), "experts": {"gate_up": (4, 8, 32), "down": (4, 16, 8)}},
        }
        for _ in range(2)
    ],
    "norm": (8,),
    "unembedding": (8, 50),
}
HAIKU = {
    "gpt/embed": {"embeddings": (50, 8)},
    "gpt/~/layer_0/attention/query": {"w": (8, 8), "b": (8,)},
    "gpt/~/layer_0/attention/key": {"w": (8, 8), "b": (8,)},
    "gpt/~/layer_0/attention/value": {"w": (8, 8), "b": (8,)},
    "gpt/~/layer_0/attention/linear": {"w": (8, 8), "b": (8,)},
    "gpt/~/layer_0/mlp/linear_1": {"w": (8, 32), "b": (32,)},
    "gpt/~/layer_0/mlp/linear_2": {"w": (32, 8), "b": (8,)},
    "gpt/~/layer_0/layer_norm": {"scale": (8,), "offset": (8,)},
}


def by_component(tree):
    return {component: sorted(names) for component, names in component_partition(shapes(tree)).items()}


def test_a_flax_tree_is_partitioned_like_the_torch_model():
    found = by_component(FLAX)
    assert set(found) == {"embedding", "position", "attention", "feed_forward", "norm", "unembedding"}
    assert found["embedding"] == ["params.wte.weight"]
    assert found["position"] == ["params.wpe.weight"]
    assert found["unembedding"] == ["params.lm_head.weight"]
    assert found["feed_forward"][:2] == ["params.block.0.mlp.down.bias", "params.block.0.mlp.down.weight"]
    assert len(found["attention"]) == 16
    assert len(found["norm"]) == 10


def test_a_plain_tree_of_lists_and_bare_matrices_with_experts_is_too():
    found = by_component(PLAIN)
    assert {component: len(names) for component, names in found.items()} == {
        **{"embedding": 1, "attention": 8, "experts": 4},
        **{"router": 2, "norm": 5, "unembedding": 1},
    }
    labels = component_labels(shapes(PLAIN))
    assert labels["layers"][1]["moe"] == {"router": "router", "experts": {"gate_up": "experts", "down": "experts"}}
    assert labels["unembedding"] == "unembedding"


def test_a_haiku_tree_is_too():
    labels = component_labels(shapes(HAIKU))
    assert set(labels["gpt/embed"].values()) == {"embedding"}
    assert set(labels["gpt/~/layer_0/attention/linear"].values()) == {"attention"}
    assert set(labels["gpt/~/layer_0/mlp/linear_2"].values()) == {"feed_forward"}
    assert labels["gpt/~/layer_0/layer_norm"] == {"scale": "norm", "offset": "norm"}


def test_rules_and_labels_of_the_user_come_first():
    labels = component_labels(shapes(PLAIN), [Rule("early", r"^layers\.0\."), Rule("head", r"^unembedding")])
    assert set(jax.tree.leaves(labels["layers"][0])) == {"early"}
    assert labels["unembedding"] == "head"
    with pytest.raises(PartitionError, match="matches no parameter"):
        component_labels(shapes(PLAIN), [Rule("head", r"^lm_head")])


def test_ratios_per_layer_are_labels_of_their_own_and_per_expert_of_one_array_are_refused():
    labels = component_labels(shapes(PLAIN), (), ["attention/layer.1", "router/layer.0-1"])
    assert set(labels["layers"][0]["attention"].values()) == {"attention"}
    assert set(labels["layers"][1]["attention"].values()) == {"attention/layer.1"}
    assert labels["layers"][0]["moe"]["router"] == "router/layer.0-1"
    with pytest.raises(
        ValueError, match=r"is one array with ratios for parts of it .experts, tokens., which has one rate in optax"
    ):
        component_labels(shapes(PLAIN), (), ["experts/expert.1"])


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two leaves of the parameters would both be called up\.weight"):
        component_labels(shapes({"up": {"kernel": (8, 8), "w": (8, 8)}}))


# A real run


def init():
    keys = iter(jax.random.split(jax.random.key(0), 32))
    draw = lambda shape: jax.random.normal(next(keys), shape) * 0.3  # noqa: E731
    tree = jax.tree.map(draw, {**PLAIN, "layers": PLAIN["layers"][:1]}, is_leaf=lambda x: isinstance(x, tuple))
    ones = lambda path, x: jnp.ones_like(x) if "norm" in jax.tree_util.keystr(path) else x  # noqa: E731
    return jax.tree_util.tree_map_with_path(ones, tree)


def forward(params, tokens_T):
    """A tiny mixture of experts in plain JAX: T tokens, D width, E experts, V vocabulary."""
    norm = lambda x, g: g * x / jnp.sqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)  # noqa: E731
    x_TD = params["embedding"][tokens_T]
    for layer in params["layers"]:
        a, h = layer["attention"], norm(x_TD, layer["attention_norm"])
        scores_TT = (h @ a["wq"]) @ (h @ a["wk"]).T / 8**0.5
        scores_TT = jnp.where(jnp.tri(len(tokens_T), dtype=bool), scores_TT, -1e9)
        x_TD = x_TD + jax.nn.softmax(scores_TT) @ (h @ a["wv"]) @ a["wo"]
        h, experts = norm(x_TD, layer["mlp_norm"]), layer["moe"]["experts"]
        weight_TE = jax.nn.softmax(h @ layer["moe"]["router"])
        gate, up = jnp.split(jnp.einsum("td,edf->tef", h, experts["gate_up"]), 2, -1)
        x_TD = x_TD + jnp.einsum("te,tef,efd->td", weight_TE, jax.nn.silu(gate) * up, experts["down"])
    return norm(x_TD, params["norm"]) @ params["unembedding"]


def loss_of(params, tokens):
    return optax.softmax_cross_entropy_with_integer_labels(forward(params, tokens[:-1]), tokens[1:]).mean()


loss_and_gradients = jax.jit(jax.value_and_grad(loss_of))


def matrices(tree):
    return jax.tree.map(lambda x: x.ndim > 1, tree)


ADAMW = functools.partial(optax.adamw, weight_decay=0.1, mask=matrices)


def run(optimizer, steps, beside=lambda *_: None):
    """Losses of a training run; `beside(step, grads, params, updates)` looks on."""
    params = init()
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    losses = []
    for step in range(steps):
        tokens = jax.random.randint(jax.random.key(step % 4), (17,), 0, 50)
        loss, grads = loss_and_gradients(params, tokens)
        updates, state = update(grads, state, params)
        beside(step, grads, params, updates)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses


def test_every_update_of_a_run_is_that_of_adamw_with_the_components_rate_set_by_hand():
    schedule = BaseSchedule(total_steps=30, warmup_steps=4, final_fraction=0.1)
    labels = component_labels(init())
    adamw = ADAMW(1.0)  # one for all parameters, whose update is multiplied by each one's rate
    state = adamw.init(init())
    plain_update = jax.jit(adamw.update)

    def by_hand(step, grads, params, updates):
        nonlocal state
        plain, state = plain_update(grads, state, params)
        for mine, theirs, component in zip(*map(jax.tree.leaves, (updates, plain, labels)), strict=True):
            factor = rlrs.relative_factor(schedule, rlrs.Ratio.of(RATIOS.get(component, 1.0)).knots, step)
            np.testing.assert_allclose(mine, theirs * (0.02 * factor), rtol=1e-5, atol=1e-9)

    losses = run(relative(ADAMW, init(), RATIOS, lr=0.02, schedule=schedule), 30, by_hand)
    assert losses[-1] < losses[0] - 0.3  # it did train


def test_uniform_ratios_are_plain_adamw():
    schedule = BaseSchedule(total_steps=10, warmup_steps=2)
    ours = run(relative(ADAMW, init(), {}, lr=0.02, schedule=schedule), 10)
    assert ours == pytest.approx(run(ADAMW(rate_schedule(schedule, 1.0, 0.02)), 10), rel=1e-5)


def test_what_cannot_be_is_refused():
    good = {"lr": 0.1, "schedule": SCHEDULES["cosine"]}
    with pytest.raises(RatiosError, match="ratios name vision, which the tree of parameters does not have"):
        relative(ADAMW, shapes(PLAIN), {"vision": 2}, **good)
    with pytest.raises(ValueError, match="give rules or labels, not both"):
        relative(ADAMW, shapes(PLAIN), {}, **good, rules=[Rule("a", "b")], labels={})
    labels = lambda tree: jax.tree.map(lambda _: "all", tree)  # noqa: E731
    relative(ADAMW, shapes(PLAIN), {"all": 2}, **good, labels=labels)


def test_the_example_runs(capsys):
    path = Path(__file__).parents[2] / "examples" / "optax_loop.py"
    runpy.run_path(str(path))["main"](["--steps", "3"])
    printed = capsys.readouterr().out
    assert "unembedding: unembedding.weight\n" in printed
    assert "step 2: loss" in printed


# The same model in torch


def as_tree(module):
    """A torch model's parameters as a tree that Flax would have: kernels (in, out), scales, embeddings."""
    tree = {}
    for name, parameter in module._parameters.items():
        if parameter is None:
            continue
        shape = tuple(parameter.shape)
        if isinstance(module, torch.nn.Linear) and name == "weight":
            name, shape = "kernel", shape[::-1]
        elif isinstance(module, torch.nn.Embedding):
            name = "embedding"
        elif "norm" in type(module).__name__.lower() and name == "weight":
            name = "scale"
        tree[name] = shape
    for name, child in module._modules.items():
        if child is not None and (below := as_tree(child)):
            tree[name] = below
    return tree


@pytest.mark.parametrize(
    "name",
    [
        *("llama", "qwen2_moe", "deepseek_v3", "gpt_oss", "bert", "t5", "mamba", "jamba", "vit", "bloom"),
        *("torchtitan_moe", "nano_gpt", "anonymous_moe", "flat_layers", "timm_vit"),
    ],
)
def test_a_tree_has_the_partition_of_the_same_model_in_torch(name):
    import architectures

    if name in architectures.CONFIGS:
        pytest.importorskip("transformers")
    model = architectures.build(name) if name in architectures.CONFIGS else getattr(architectures, name)()
    expected = rlrs.partition(model).component_of()
    found = component_partition(shapes(as_tree(model))).component_of()
    # A bare matrix is a module of its own in the tree, and its name then ends in `.weight`.
    assert {n: found.get(n, found.get(f"{n}.weight")) for n in expected} == expected


def scanned(layers, axis):
    """FLAX's blocks as one, every array with an axis of layers more."""

    def more(shape):
        return (*shape[:axis], layers, *shape[axis:])

    block = jax.tree.map(more, FLAX["params"]["block_0"], is_leaf=lambda x: isinstance(x, tuple))
    rest = {name: tree for name, tree in FLAX["params"].items() if not name.startswith("block_")}
    return {"params": {**rest, "layers": block}}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("layers", [2, 3, 8])  # 8 is the model's width, too
def test_scanned_layers_have_the_components_of_single_ones(layers, axis):
    plain = component_labels(shapes(FLAX))["params"]
    found = component_labels(shapes(scanned(layers, axis)))["params"]
    assert found["layers"] == plain["block_0"]
    assert {name: found[name] for name in ("wte", "wpe", "ln_f", "lm_head")} == {
        name: plain[name] for name in ("wte", "wpe", "ln_f", "lm_head")
    }


def test_a_scanned_mixture_is_told_by_its_structure():
    """Names that say nothing: the router by its outputs, the feed-forward by its widths, the head by its rows."""
    one = {
        "norm_a": {"scale": (3, 8)},
        "a": {n: {"kernel": (3, 8, 8)} for n in ("q", "k", "v", "o")},
        "norm_b": {"scale": (3, 8)},
        "b": {"c": {"kernel": (3, 8, 4)}, "d": (3, 4, 8, 32), "e": (3, 4, 32, 8)},
        "f": {"g": {"kernel": (3, 8, 24)}, "h": {"kernel": (3, 24, 8)}},
    }
    tree = {"table": {"embedding": (50, 8)}, "stages": one, "norm": {"scale": (8,)}, "x": {"kernel": (8, 50)}}
    labels = component_labels(shapes(tree))
    assert labels["x"] == {"kernel": "unembedding"}
    assert labels["stages"]["b"] == {"c": {"kernel": "router"}, "d": "experts", "e": "experts"}
    assert set(jax.tree.leaves(labels["stages"]["f"])) == {"feed_forward"}
    assert labels["stages"]["norm_a"] == {"scale": "norm"}


@pytest.mark.parametrize("name", ["logits_dense", "logits", "lm_head", "output"])
def test_a_head_is_told_by_name_or_rows(name):
    tree = {"params": {**{k: v for k, v in FLAX["params"].items() if k != "lm_head"}, name: {"kernel": (8, 50)}}}
    assert component_labels(shapes(tree))["params"][name] == {"kernel": "unembedding"}


def test_boxes_around_arrays_are_looked_through():
    @functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["names"])
    @dataclasses.dataclass
    class Box:
        value: object
        names: tuple

    boxed = jax.tree.map(lambda leaf: Box(leaf, ()), shapes(FLAX))
    labels = component_labels(boxed)
    expected = component_labels(shapes(FLAX))
    assert jax.tree.leaves(labels) == jax.tree.leaves(expected)
    assert "params.wte.weight" in component_partition(boxed)["embedding"]


def test_layers_stacked_in_arrays_beside_the_ends_are_no_experts():
    norms = {"ln1_scale": (3, 8), "lnf": (8,)}
    halves = {"mlp_in": (3, 8, 32), "mlp_out": (3, 32, 8)}
    ends = {"wte": (50, 8), "cls": (1, 1, 8), "w_head": (8, 50)}
    assert component_labels(shapes({**ends, "attn_qkv": (3, 8, 24), **norms, **halves})) == {
        **{"wte": "embedding", "cls": "embedding", "w_head": "unembedding", "attn_qkv": "attention"},
        **dict.fromkeys(norms, "norm"),
        **dict.fromkeys(halves, "feed_forward"),
    }
