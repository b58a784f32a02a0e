"""Exports are read back, and evaluated by the stacks' documented rules, written here anew and apart from ours."""

import math
import re
import sys
import types
from dataclasses import dataclass, field
from fnmatch import fnmatch, fnmatchcase

import pytest
import torch
import yaml
from torch import nn

import rlrs
from rlrs.integrations.export import TARGETS, ExportError, components_for, export
from rlrs.ratios import RatiosError
from rlrs.schedules import BaseSchedule, relative_factor

LR = 3e-3
MOVING = {"embedding": (5.0, 0.666), "attention": (1.0, 0.2), "experts": (0.3, 1.125), "unembedding": (0.5, 0.0)}
HELD = {"embedding": 5.0, "attention": 0.3, "experts": 1.0, "unembedding": 0.7}
SCHEDULES = [
    BaseSchedule(total_steps=60, warmup_steps=6, final_fraction=0.0444),
    BaseSchedule(total_steps=40, final_fraction=0.1),
    BaseSchedule(total_steps=50, warmup_steps=5, shape="linear", final_fraction=0.0),
    BaseSchedule(total_steps=50, warmup_steps=7, shape="constant"),
    BaseSchedule(total_steps=50, warmup_steps=4, shape="wsd", final_fraction=0.05),
]
schedules = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: f"{s.shape}-{s.total_steps}")


def wanted(ratios, component, schedule, step):
    knots = rlrs.Ratios(ratios)[component].knots if component in ratios else [(0, 1), (1, 1)]
    return LR * relative_factor(schedule, knots, step)


def close(value):
    return pytest.approx(value, rel=1e-12, abs=1e-18)


@pytest.fixture
def load(monkeypatch):
    """Run an exported module, with the stack's classes replaced by records of what they were given."""

    def run(exported, **modules):
        for path, names in modules.items():
            path = path.replace("__", ".")
            parts = path.split(".")
            for end in range(1, len(parts) + 1):
                monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[end - 1]))
            for name in names:
                setattr(sys.modules[path], name, record(name))
        space = {}
        exec(exported.text, space)
        return space

    return run


def record(name):
    @dataclass(frozen=True)
    class Record:
        kind: str
        options: dict = field(hash=False)

    return lambda **options: Record(name, options)


MEGATRON = {
    "megatron__core__optimizer__optimizer_config": ["ParamKey"],
    "megatron__core__optimizer_param_scheduler": ["ParamGroupOverride"],
}


# Megatron-LM


def megatron_rate(arguments, override, step):
    high, low = override["max_lr"], override["min_lr"]
    warmup, total, style = (arguments[k] for k in ("lr_warmup_iters", "lr_decay_iters", "lr_decay_style"))
    if warmup > 0 and step <= warmup:
        return arguments["lr_warmup_init"] + (high - arguments["lr_warmup_init"]) * step / warmup
    if step > total:
        return low
    x = (step - warmup) / (total - warmup)
    if style == "cosine":
        c = (1 + math.cos(math.pi * x)) / 2
    elif style == "linear":
        c = 1 - x
    else:
        assert (style, arguments["lr_wsd_decay_style"]) == ("WSD", "linear")
        left = arguments["lr_wsd_decay_iters"]
        c = 1 if step <= total - left else (total - step) / left
    return low + (high - low) * c


@schedules
@pytest.mark.parametrize("ratios", [MOVING, HELD])
def test_megatron_has_both_ends_of_every_component_and_is_exact_after_the_warm_up(schedule, ratios, load):
    exported = export(ratios, "megatron", schedule=schedule, lr=LR)
    space = load(exported, **MEGATRON)
    assert len(space["OVERRIDES"]) == len(ratios)
    for (key, override), component in zip(space["OVERRIDES"].items(), ratios, strict=True):
        assert key.kind == "ParamKey"
        for step in range(schedule.total_steps + 3):
            rate = megatron_rate(space["ARGUMENTS"], override.options, step)
            if step >= schedule.warmup_steps:
                assert rate == close(wanted(ratios, component, schedule, step))
            else:
                start = rlrs.Ratios(ratios)[component].start
                assert rate == close(LR * start * step / schedule.warmup_steps)
    base = {"max_lr": space["ARGUMENTS"]["lr"], "min_lr": space["ARGUMENTS"]["min_lr"]}
    assert megatron_rate(space["ARGUMENTS"], base, 30) == close(wanted({}, "norm", schedule, 30))
    behind = ["the warm-up runs one step behind, lr(t) = peak * t / W, for all components alike"]
    assert list(exported.losses) == (behind if schedule.warmup_steps else [])


def test_megatron_loses_what_lies_between_the_ends_and_says_how_much():
    ratios = {"experts": [(0, 1), (0.5, 3), (1, 1)]}
    schedule = BaseSchedule(total_steps=100, shape="constant")
    exported = export(ratios, "megatron", schedule=schedule, lr=LR)
    sentence = "experts: only its start and end ratios are kept, not those between (its rate is 0.333 times the wanted"
    assert exported.losses[0].startswith(sentence)
    assert exported.losses[0].endswith("at step 50)")
    assert "#   - experts: only its start and end" in exported.text


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("embedding.word_embeddings.weight", "embedding"),
        ("embedding.position_embeddings.weight", "position"),
        ("decoder.layers.3.self_attention.linear_qkv.weight", "attention"),
        ("decoder.layers.3.self_attention.linear_qkv.bias", "attention"),
        ("decoder.layers.3.self_attention.linear_qkv.layer_norm_weight", "norm"),
        ("decoder.layers.3.self_attention.q_layernorm.weight", "norm"),
        ("decoder.layers.3.self_attention.linear_kv_up_proj.weight", "attention"),
        ("decoder.layers.3.self_attention.linear_proj.weight", "attention"),
        ("decoder.layers.3.mlp.linear_fc1.weight", "feed_forward"),
        ("decoder.layers.3.mlp.linear_fc1.layer_norm_weight", "norm"),
        ("decoder.layers.3.mlp.linear_fc2.bias", "feed_forward"),
        ("decoder.layers.3.mlp.experts.linear_fc1.weight0", "experts"),
        ("decoder.layers.3.mlp.experts.local_experts.0.linear_fc2.weight", "experts"),
        ("decoder.layers.3.mlp.router.weight", "router"),
        ("decoder.layers.3.mlp.shared_experts.linear_fc1.weight", "shared_experts"),
        ("decoder.layers.3.pre_mlp_layernorm.weight", "norm"),
        ("decoder.final_layernorm.weight", "norm"),
        ("output_layer.weight", "unembedding"),
    ],
)
def test_megatrons_own_names_are_each_in_one_component(name, component, load):
    names = ["embedding", "position", "attention", "feed_forward", "experts"]
    ratios = {c: 1 + k for k, c in enumerate([*names, "router", "shared_experts", "norm", "unembedding"])}
    space = load(export(ratios, "megatron", schedule=SCHEDULES[1], lr=1.0), **MEGATRON)
    full = f"module.module.{name}"
    found = [
        override.options["max_lr"]
        for key, override in space["OVERRIDES"].items()
        if any(fnmatch(full, pattern) for pattern in key.options["name"])
    ]
    assert found == [ratios[component]]


# torchtitan


def torchtitan_rate(scheduler, lr, step):
    warmup, total = scheduler["warmup_steps"], scheduler["total_steps"]
    ratio = scheduler.get("decay_ratio")
    decay = total - warmup if ratio is None else round(total * ratio)
    held = total + 1 - warmup - decay
    if step < warmup:
        return lr * (step + 1) / warmup
    if step < warmup + held:
        return lr
    x = (step + 1 - warmup - held) / decay
    c = 1 - x if scheduler["decay_type"] == "linear" else (1 + math.cos(math.pi * x)) / 2
    return lr * (scheduler["min_lr_factor"] + (1 - scheduler["min_lr_factor"]) * c)


def torchtitan_groups(exported, load):
    space = load(exported, torchtitan__components__optimizer=["ParamGroupConfig"])
    return space["LR_SCHEDULER"], [group.options for group in space["param_groups"](betas=(0.9, 0.95))]


@schedules
def test_torchtitan_is_exact_at_every_step_for_ratios_that_are_held(schedule, load):
    exported = export(HELD, "torchtitan", schedule=schedule, lr=LR)
    assert exported.losses == ()
    assert "Nothing is lost in this form." in exported.text
    scheduler, groups = torchtitan_groups(exported, load)
    for group, component in zip(groups, [*HELD, "norm"], strict=True):
        for step in range(schedule.total_steps):
            rate = torchtitan_rate(scheduler, group["optimizer_kwargs"]["lr"], step)
            assert rate == close(wanted(HELD, component, schedule, step))


def test_what_was_found_beside_the_ratios_is_what_the_files_train_with(load):
    found = {"schedule": SCHEDULES[1], "lr": LR, "weight_decay": 0.2, "betas": (0.8, 0.9)}
    torchtitan = load(export(HELD, "torchtitan", **found), torchtitan__components__optimizer=["ParamGroupConfig"])
    assert {group.options["optimizer_kwargs"]["betas"] for group in torchtitan["param_groups"]()} == {(0.8, 0.9)}
    megatron = load(export(HELD, "megatron", **found), **MEGATRON)["ARGUMENTS"]
    assert [megatron[name] for name in ("weight_decay", "adam_beta1", "adam_beta2")] == [0.2, 0.8, 0.9]
    olmo_core = export(HELD, "olmo-core", **found).text
    assert f"# OptimConfig(lr={LR!r}, weight_decay=0.2, betas=(0.8, 0.9), group_overrides" in olmo_core


def test_torchtitan_holds_the_start_ratio_and_says_what_that_loses():
    exported = export(MOVING, "torchtitan", schedule=SCHEDULES[0], lr=LR)
    assert exported.losses[2] == (
        "experts: stays at its start ratio 0.3, the change over time is lost "
        "(its rate is 0.267 times the wanted one at step 60)"
    )
    assert len(exported.losses) == 4


def test_a_schedule_that_ends_at_zero_loses_no_end_ratio():
    assert export({"experts": (0.3, 9.0)}, "torchtitan", schedule=SCHEDULES[2], lr=LR).losses == ()


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("tok_embeddings.weight", "embedding"),
        ("layers.0.attention.qkv_linear.wq.weight", "attention"),
        ("layers.0.attention.wo.weight", "attention"),
        ("layers.0._checkpoint_wrapped_module.attention.wkv_a.weight", "attention"),
        ("layers.0.attention.q_norm.weight", "rest"),
        ("layers.0.attention_norm.weight", "rest"),
        ("layers.0.feed_forward.w1.weight", "feed_forward"),
        ("layers.0.moe.routed_experts.inner_experts.w1_EFD", "experts"),
        ("layers.0.moe.experts.w1", "experts"),
        ("layers.0.moe.shared_experts.w2.weight", "shared_experts"),
        ("layers.0.moe.router.gate.weight", "router"),
        ("lm_head.weight", "unembedding"),
        ("output.weight", "unembedding"),
        ("norm.weight", "rest"),
    ],
)
def test_torchtitans_own_names_are_each_in_one_component(name, component, load):
    names = ["embedding", "attention", "feed_forward", "experts", "shared_experts", "router", "unembedding"]
    ratios = {c: 2 + k for k, c in enumerate(names)}
    _, groups = torchtitan_groups(export(ratios, "torchtitan", schedule=SCHEDULES[1], lr=1.0), load)
    first = next(g["optimizer_kwargs"]["lr"] for g in groups if re.search(g["pattern"], name))
    assert first == {**ratios, "rest": 1}[component]
    assert sum(bool(re.search(g["pattern"], name)) for g in groups[:-1]) <= 1


# OLMo-core


def olmo_rate(scheduler, lr, current, total):
    """The rate at a 1-based step; a warm-up and a scheduler after it."""
    options = scheduler.options
    if scheduler.kind == "ConstantWithWarmup":
        warmup = options["warmup"]
        return lr * current / warmup if current <= warmup and warmup else lr
    if scheduler.kind == "SequentialScheduler":
        first, last = options["schedulers"]
        (until,) = options["schedulers_max"]
        if current <= until:
            return olmo_rate(first, lr, current, min(total, until))
        return olmo_rate(last, olmo_rate(first, lr, until, until), current - until, total - until)
    assert options["warmup"] == 0
    end, total = lr * options["alpha_f"], options["t_max"]
    x = min(current / total, 1)
    c = 1 - x if scheduler.kind == "LinearWithWarmup" else (1 + math.cos(math.pi * x)) / 2
    return end + (lr - end) * c


OLMO = ["OptimGroupOverride", "ConstantWithWarmup", "CosWithWarmup", "LinearWithWarmup", "SequentialScheduler"]


@schedules
def test_olmo_core_is_exact_at_every_step_for_ratios_that_are_held(schedule, load):
    exported = export(HELD, "olmo-core", schedule=schedule, lr=LR)
    assert exported.losses == ()
    space = load(exported, olmo_core__optim=OLMO)
    for group, component in zip(space["GROUP_OVERRIDES"], HELD, strict=True):
        for step in range(schedule.total_steps):
            rate = olmo_rate(space["SCHEDULER"], group.options["opts"]["lr"], step + 1, schedule.total_steps)
            assert rate == close(wanted(HELD, component, schedule, step))


def test_olmo_core_refuses_a_rate_of_zero():
    with pytest.raises(ExportError, match="freeze router instead of giving it the start ratio 0"):
        export({"router": (0, 1)}, "olmo-core", schedule=SCHEDULES[0], lr=LR)


@pytest.mark.parametrize(
    ("name", "component"),
    [
        ("embeddings.weight", "embedding"),
        ("blocks.0.attention.w_q.weight", "attention"),
        ("blocks.0.attention.w_out.bias", "attention"),
        ("blocks.0.attention.q_norm.weight", "norm"),
        ("blocks.0.attention_norm.weight", "norm"),
        ("blocks.0.feed_forward.w3.weight", "feed_forward"),
        ("blocks.0.feed_forward_norm.weight", "norm"),
        ("blocks.0.feed_forward_moe.experts.mlp.w1", "experts"),
        ("blocks.0.feed_forward_moe.router.weight", "router"),
        ("blocks.0.feed_forward_moe.shared_mlp.w1.weight", "shared_experts"),
        ("lm_head.norm.weight", "norm"),
        ("lm_head.w_out.weight", "unembedding"),
    ],
)
def test_olmo_cores_own_names_are_each_in_one_component(name, component, load):
    names = ["embedding", "attention", "feed_forward", "experts", "shared_experts", "router", "norm", "unembedding"]
    ratios = {c: 1 + k for k, c in enumerate(names)}
    space = load(export(ratios, "olmo-core", schedule=SCHEDULES[1], lr=1.0), olmo_core__optim=OLMO)
    groups = [group.options for group in space["GROUP_OVERRIDES"]]
    found = [g["opts"]["lr"] for g in groups if any(fnmatch(name, pattern) for pattern in g["params"])]
    assert found == [ratios[component]]


# nanotron


@schedules
def test_nanotron_gets_the_base_schedule_and_every_ratio_is_named_as_lost(schedule):
    ratios = {**MOVING, "attention": 2.0, "norm": 1.0}
    exported = export(ratios, "nanotron", schedule=schedule, lr=LR, weight_decay=0.1)
    assert exported.suffix == ".yaml"
    section = yaml.safe_load(exported.text)["optimizer"]["learning_rate_scheduler"]
    warmup, begin, length = (section[k] for k in ("lr_warmup_steps", "lr_decay_starting_step", "lr_decay_steps"))
    for step in range(warmup + 1, schedule.total_steps + 2):
        x = min(max(step - begin, 0) / length, 1)
        c = (1 + math.cos(math.pi * x)) / 2 if section["lr_decay_style"] == "cosine" else 1 - x
        rate = section["min_decay_lr"] + (section["learning_rate"] - section["min_decay_lr"]) * c
        assert rate == close(wanted({}, "norm", schedule, step))
    named = [loss.partition(":")[0] for loss in exported.losses[:-1]]
    assert named == list(MOVING)  # a ratio of 1 is not lost
    assert "warm-up runs one step behind" in exported.losses[-1] or "first step has the rate 0" in exported.losses[-1]


# DeepSpeed, and any torch loop


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2)}) for _ in range(2))
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 7)


@schedules
@pytest.mark.parametrize("knots", [(0.4, 2.0), (0.0, 3.0), [(0, 1), (0.3, 4), (0.85, 0.5), (1, 2)]])
def test_deepspeeds_groups_and_scheduler_have_every_rate_at_every_step_without_rlrs(schedule, knots, load):
    model = Model()
    ratios = {"attention": knots, "embedding": (5.0, 0.666)}
    parts = rlrs.partition(model)
    exported = export(ratios, "deepspeed", schedule=schedule, lr=LR, weight_decay=0.1, components=parts)
    assert exported.losses == ()
    space = load(exported)
    assert "import rlrs" not in exported.text
    groups = space["param_groups"](model)
    ours = rlrs.param_groups(model, ratios, lr=LR, weight_decay=0.1)
    assert [(g["name"], g["weight_decay"], list(map(id, g["params"]))) for g in groups] == [
        (g["name"].replace("norm/no_decay", "norm"), g["weight_decay"], list(map(id, g["params"]))) for g in ours
    ]
    optimizer = torch.optim.SGD(groups)
    scheduler = space["lr_scheduler"](optimizer)
    for step in range(schedule.total_steps + 2):
        for group in optimizer.param_groups:
            component = group["name"].partition("/")[0]
            assert group["lr"] == close(wanted(ratios, component, schedule, step))
        optimizer.step()
        scheduler.step()


def test_names_of_a_model_become_patterns_of_its_components(load):
    model = Model()
    parts = rlrs.partition(model)
    ratios = {"attention": 2.0}
    space = load(export(ratios, "megatron", schedule=SCHEDULES[1], lr=LR, components=parts), **MEGATRON)
    ((key, _),) = space["OVERRIDES"].items()
    assert "*layers.*.attention.in_proj_weight" in key.options["name"]
    exported = export(ratios, "torchtitan", schedule=SCHEDULES[1], lr=LR, weight_decay=0.1, components=parts)
    assert exported.losses == ()
    _, groups = torchtitan_groups(exported, load)
    for component, names in parts.items():
        for name in names:
            (group,) = [g["optimizer_kwargs"] for g in groups if re.search(g["pattern"], name)]
            assert group["lr"] == LR * (2 if component == "attention" else 1)
            assert group["weight_decay"] == (0.0 if component == "norm" or "bias" in name else 0.1)


def test_a_pattern_that_would_catch_another_component_is_spelled_out(load):
    components = {"early": ["layers.0.w", "layers.1.w"], "late": ["layers.2.w"]}
    exported = export({"early": 2, "late": 3}, "torchtitan", schedule=SCHEDULES[1], lr=1.0, components=components)
    _, groups = torchtitan_groups(exported, load)
    for name, rate in {"layers.0.w": 2, "layers.1.w": 2, "layers.2.w": 3}.items():
        assert [g["optimizer_kwargs"]["lr"] for g in groups if re.search(g["pattern"], name)] == [rate]


def test_ratios_per_layer_become_patterns_of_those_layers(load):
    class Stack(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.TransformerEncoderLayer(8, 2, 16) for _ in range(3))

    ratios = rlrs.Ratios({"feed_forward": 1, "feed_forward/layer.0-1": 2, "feed_forward/layer.2": 3})
    components = components_for(Stack(), ratios, "torchtitan")
    exported = export(ratios, "torchtitan", schedule=SCHEDULES[1], lr=1.0, components=components)
    _, groups = torchtitan_groups(exported, load)
    for layer, rate in enumerate((2, 2, 3)):
        name = f"layers.{layer}.linear1.weight"
        assert [g["optimizer_kwargs"]["lr"] for g in groups if re.search(g["pattern"], name)] == [rate]


# Errors


def test_bad_exports_are_refused_with_what_would_be_right():
    good = {"schedule": SCHEDULES[0], "lr": LR}
    with pytest.raises(ExportError, match="no export to 'nemo'; there are megatron, torchtitan"):
        export(MOVING, "nemo", **good)
    with pytest.raises(
        ExportError, match="ratios name vision, which olmo-core has no names of its own for; it has emb"
    ):
        export({"vision": 2}, "olmo-core", **good)
    with pytest.raises(ExportError, match="ratios name router, which the model does not have; it has norm"):
        export({"router": 2}, "megatron", **good, components={"norm": ["n.weight"]})
    with pytest.raises(ExportError, match="deepspeed has no names of its own: give the model"):
        export({}, "deepspeed", **good)
    with pytest.raises(ExportError, match="lr should be above 0"):
        export({}, "megatron", schedule=SCHEDULES[0], lr=0)
    with pytest.raises(ExportError, match="warmup_steps=5 leave nothing of total_steps=5"):
        export({}, "megatron", schedule=BaseSchedule(total_steps=5, warmup_steps=5), lr=1)


@pytest.mark.parametrize("target", TARGETS)
def test_the_ratio_of_a_tied_unembedding_is_said_to_do_nothing(target):
    model = Model()
    model.lm_head.weight = model.embedding.weight
    model.lm_head.bias = None
    parts = rlrs.partition(model)
    exported = export({"unembedding": 2}, target, schedule=SCHEDULES[1], lr=1, components=parts)
    sentence = "the ratio of unembedding does nothing: its weights are tied to embedding, whose ratio is theirs too"
    assert sentence in exported.losses


HOSTILE = [
    'x"); import os; os.system("true"); ("',
    "x'); raise SystemExit(3); ('",
    "x\\",
    'x\\"',
    'x"""y',
    "{lr}",
    "a[0-9]b?",
    "é.ü",
]


@pytest.mark.parametrize("target", ["megatron", "torchtitan", "olmo-core", "deepspeed"])
@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_a_parameter_is_called_it_stays_a_name(target, name, load):
    components = {"attention": [f"layers.0.{name}", f"layers.1.{name}"], name: ["other.w"]}
    exported = export({"attention": 2, name: 3}, target, schedule=SCHEDULES[1], lr=1.0, components=components)
    modules = {"torchtitan__components__optimizer": ["ParamGroupConfig"], "olmo_core__optim": OLMO, **MEGATRON}
    space = load(exported, **({} if target == "deepspeed" else modules))
    if target == "megatron":
        found = [glob for key, _ in space["OVERRIDES"].items() for glob in key.options["name"]]
    elif target == "olmo-core":
        found = [glob for group in space["GROUP_OVERRIDES"] for glob in group.options["params"]]
    elif target == "torchtitan":
        found = [group.options["pattern"] for group in space["param_groups"]()]
    else:
        found = [pattern for *_, patterns, _ in space["GROUPS"] for pattern in patterns]
    if target in ("megatron", "olmo-core"):
        matching = [fnmatchcase(f"layers.1.{name}", glob) for glob in found]
    else:
        matching = [bool(re.search(pattern, f"layers.1.{name}")) for pattern in found]
    assert matching == [True, False]


@pytest.mark.parametrize("name", ["a\nraise SystemExit", "a\rb", "a\x00b", "a\u202eb", "a\u2028b", "a*b"])
def test_names_that_no_file_should_hold_are_refused(name):
    good = {"schedule": SCHEDULES[1], "lr": 1.0}
    for target in TARGETS:
        with pytest.raises(ExportError, match=r"^a parameter's name has a (character that is not printable|'\*')"):
            export({}, target, **good, components={"attention": [name]})
        with pytest.raises((ExportError, RatiosError), match=r"^a ratio's name has a|name should be printable text"):
            export({name: 2}, target, **good, components={name: ["w"]})
        with pytest.raises(ExportError, match=r"^a component's name has a"):
            export({}, target, **good, components={name: ["w"]})


def test_numbers_of_numpy_are_written_as_numbers(load):
    import numpy as np

    schedule = BaseSchedule(total_steps=np.int64(20), warmup_steps=np.int32(2), final_fraction=np.float64(0.1))
    exported = export(
        {"attention": np.float32(0.5)},
        "torchtitan",
        schedule=schedule,
        lr=np.float64(1e-3),
        weight_decay=np.float64(0.1),
    )
    assert "np." not in exported.text
    scheduler, groups = torchtitan_groups(exported, load)
    assert (scheduler["total_steps"], groups[0]["optimizer_kwargs"]["lr"]) == (20, 5e-4)


def test_a_base_curve_of_the_users_own_is_refused():
    with pytest.raises(ExportError, match="a base curve of your own has no form in megatron"):
        export({}, "megatron", schedule=BaseSchedule(total_steps=9, shape=lambda t: 1 / (1 + t)), lr=1)


def test_every_target_takes_uniform_ratios_and_loses_no_ratio():
    for target in TARGETS:
        components = rlrs.partition(Model()) if target == "deepspeed" else None
        exported = export({}, target, schedule=SCHEDULES[1], lr=LR, components=components)
        assert not [loss for loss in exported.losses if "ratio" in loss]


def test_half_steps_of_decay_are_a_loss():
    schedule = BaseSchedule(total_steps=52, shape="wsd")
    for target in ("megatron", "torchtitan", "olmo-core"):
        assert "the decay takes 10 whole steps instead of 10.4" in export({}, target, schedule=schedule, lr=LR).losses
