import pytest

from rlrs.models import at_width
from rlrs.settings import (
    CHANGES_NO_RESULT,
    ConfigError,
    ModelConfig,
    StudyConfig,
    changing,
    difference,
    fingerprint,
    load_study,
)

MINIMAL = """
name: tiny
proxy: {model: {d_model: 16, n_heads: 2}, steps: 10, batch_size: 2}
target: {model: {d_model: 32, n_heads: 2}, steps: 10, batch_size: 2}
"""
MODEL = "proxy: {{model: {{d_model: 16, n_heads: 2, {}}}, steps: 1, batch_size: 1}}"


def load(tmp_path, text):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    return load_study(path)


def test_defaults_are_the_papers_where_it_has_some(tmp_path):
    study = load(tmp_path, MINIMAL)
    assert study.training.warmup_fraction == 0.01
    assert study.search.multipliers == (0.2, 2 / 3, 1.5, 5.0)
    assert study.proxy.model.load_balancing == 0.01
    assert study.proxy.model.z_loss == 0.001


def test_numbers_in_exponent_form_are_numbers(tmp_path):
    assert load(tmp_path, MINIMAL + "search: {lr: 3e-3}").search.lr == 3e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {trails: 4}", "unknown key 'search.trails'; did you mean 'trials'?"),
        ("serch: {}", "unknown key 'serch'; did you mean 'search'?"),
        ("proxy: {model: {d_modle: 3}, steps: 1, batch_size: 1}", "'proxy.model.d_modle'; did you mean 'd_model'?"),
        (
            "search: {fidelity: {verify: 2}}",
            "search.fidelity: its runs are whole ones: should have steps below 1, not 1",
        ),
        ("search: {zzz: 4}", "unknown key 'search.zzz'; known here: fidelity, lr, max_flops, "),
        ("search: {lr: fast}", "search.lr: should be a number, not 'fast'"),
        ("search: {lr: -0.1}", "search.lr: should be above 0, not -0.1"),
        ("search: {lr: true}", "search.lr: should be a number, not True"),
        ("search: {multipliers: []}", "search.multipliers: should have 1 or more, not 0 (got [])"),
        ("search: {lr: .inf}", "search.lr: should be a finite number, not inf"),
        ("training: {weight_decay: -1}", "training.weight_decay: should be at least 0"),
        ("comparison: {seeds: 1}", "comparison.seeds: should be at least 2, not 1"),
        ("comparison: {arms: [rlrs]}", "comparison: arms=['rlrs'] should contain uniform and rlrs"),
        ("comparison: {arms: [uniform, rlrs, rl]}", "comparison.arms.2: should be 'uniform'"),
        ("proxy: {steps: 1, batch_size: 1}", "proxy.model is missing"),
        ("proxy: {model: {d_model: 10, n_heads: 4}, steps: 1, batch_size: 1}", "d_model=10 should be a multiple of"),
        (MODEL.format("top_k: 2"), "proxy.model: top_k=2 is for a mixture of experts, and n_experts is 0"),
        (MODEL.format("capacity_factor: null"), "capacity_factor=None is for a mixture of experts"),
        (MODEL.format("n_shared_experts: 1"), "n_shared_experts=1 is for a mixture of experts"),
        (MODEL.format("n_experts: 4, top_k: 5"), "top_k=5 should be at most n_experts=4"),
        (MODEL.format("n_experts: 4, top_k: 0"), "proxy.model.top_k: should be at least 1"),
        (MODEL.format("n_experts: 4, normalise_gates: true"), "normalise_gates with top_k=1 makes every weight 1"),
        (MODEL.format("n_experts: 4, d_ff: 24, granularity: 5"), "granularity=5 should divide the hidden width 24"),
        ("data: {vocab_size: 4}", "data.vocab_size: should be at least 257, not 4"),
        ("name: a/b", "name: should be letters, digits, '.', '_' and '-', a letter or digit first, not 'a/b'"),
        ("name: 12", "name: should be text, not 12; put it in quotes"),
        ("name: 1e5", "name: should be text, not 100000.0; put it in quotes"),
        ("12: 1", "12: a key should be text, not 12; put it in quotes"),
        ("training: {lr: 1e-3}", "unknown key 'training.lr'; it is search.lr"),
        ("training: {learning_rate: 1e-3}", "unknown key 'training.learning_rate'; it is search.lr"),
        ("training: {seed: 3}", "unknown key 'training.seed'; it is search.seed"),
        ("data: {batch_size: 3}", "unknown key 'data.batch_size'; it is proxy.batch_size or target.batch_size"),
        ("training: {warmup_steps: 3}", "unknown key 'training.warmup_steps'; it is training.warmup_fraction"),
        ("search: {start: [1]}", "search.start: should be a preset, a path to a ratios.yaml, or ratios by component"),
        ("search: {lr: '1:30'}", "search.lr: should be a number, not '1:30'"),
        ("search: {trials: 0.5}", "search.trials: should be a whole number, at most 9,007,199,254,740,992, not 0.5"),
        ("search: {trials: 1e30}", "search.trials: should be a whole number, at most 9,007,199,254,740,992, not 1e+30"),
        ("search: {trials: 1e15}", "search.trials: should be at most 1,000,000"),
        ("comparison: {seeds: 1e400}", "'1e400' is no float that can be held"),
        (MODEL.format("n_layers: true"), "proxy.model.n_layers: should be a number, not True"),
        ("proxy: {model: [1], steps: 1, batch_size: 1}", "proxy.model: should be a mapping, not [1]"),
        ("proxy: {model: {d_model: 16}, steps: 1, batch_size: 1, scale: 2}", "proxy.scale=2 is for the target"),
        (
            "search: {method: [" + "a, " * 9999 + "]}",
            "search.method: should be text, not a list of 9,999",
        ),
        ("training: {optimizer: " + "x" * 100_000 + "}", "not 'xxxxx"),
        ("training: {weight_decay: 1e7}", "training.weight_decay: should be at most 1,000,000"),
        ("training: {component_weight_decay: {norm: 1e7}}", "norm: should be at most 1,000,000"),
        ("training: {betas: [0.9, 1.0]}", "training.betas.1: should be below 1, not 1.0"),
        ("training: {eps: 1e300}", "training.eps: should be at most 1,000,000, not 1e+300"),
        ("training: {momentum: 1}", "training.momentum: should be below 1"),
        ("training: {muon_rate: 1e300}", "training.muon_rate: should be at most 1,000,000"),
        ("training: {loss_limit: 1e300}", "training.loss_limit: should be at most 1,000,000"),
        (MODEL.format("init_scale: 1e300"), "proxy.model.init_scale: should be at most 1,000,000"),
        (MODEL.format("d_ff: 1e15"), "proxy.model.d_ff: should be at most 16,777,216"),
        ("search: {seed: 1e15}", "search.seed: should be at most 4,294,967,295"),
        ("search: {lr: 1e300}", "search.lr: should be at most 1,000,000"),
        ("transfer: {multiplier: 1e300}", "transfer.multiplier: should be at most 1,000"),
        ("target: {scale: 1e12, steps: 1, batch_size: 1}", "target.scale: should be at most 1,000"),
        ("ladder: {sizes: [1, 2, 1e12], horizons: [1, 2]}", "ladder.sizes.2: should be a number above 0, at most 1,"),
        ("engine: {time_limit: 1e300}", "engine.time_limit: should be at most 100,000,000"),
        ("comparison: {arms: rlrs}", "comparison.arms: should be a list, not 'rlrs'"),
        ("training: {betas: [0.9, 0.9, 0.9]}", "training.betas: should have 2 at most, not 3"),
        ("training: {compile: maybe}", "training.compile: should be true or false, not 'maybe'"),
        ("search: {trials: null}", "search.trials: should be a number, not None"),
        ("data: {source: 3}", "data.source: should be text, not 3"),
        ("a: [", "not valid YAML"),
    ],
)
def test_bad_settings_are_one_line_with_place_and_value(tmp_path, text, message):
    text = (
        text
        if text.startswith(("a:",))
        else "\n".join(
            [line for line in MINIMAL.splitlines() if line.partition(":")[0] != text.partition(":")[0]] + [text]
        )
    )
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "study.yaml" in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_another_width_keeps_heads_and_the_shape_of_experts():
    model = ModelConfig(d_model=16, n_heads=2, n_experts=4, top_k=2, n_shared_experts=1, d_ff=24, granularity=3)
    wide = at_width(model, 40)
    assert (wide.n_heads, wide.d_ff, wide.top_k, wide.granularity) == (5, 60, 2, 3)
    assert ModelConfig(**wide.model_dump()) == wide
    assert at_width(ModelConfig(d_model=64, n_experts=4, granularity=16), 128).hidden == 352  # 341 1/3, up to 16
    with pytest.raises(ValueError, match="multiple of the head size 8, not 20"):
        at_width(model, 20)


def test_a_missing_file_and_a_file_that_is_no_mapping_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file"):
        load_study(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a list; it should have the keys of a study"):
        load(tmp_path, "- 1\n")


def test_the_fingerprint_is_of_the_settings_not_of_the_text(tmp_path):
    one = load(tmp_path, MINIMAL + "search: {lr: 0.004}")
    two = load(tmp_path, MINIMAL + "processes: 7\ntraining: {tensorboard: true}\n" + "search: {lr: 4.0e-3, trials: 48}")
    assert fingerprint(one, without=CHANGES_NO_RESULT) == fingerprint(two, without=CHANGES_NO_RESULT)
    assert fingerprint(one) != fingerprint(two)
    assert isinstance(one, StudyConfig)


def test_a_constant_schedule_ends_at_its_peak(tmp_path):
    assert load(tmp_path, MINIMAL + "training: {schedule: constant}").training.final_fraction == 1.0
    with pytest.raises(ConfigError, match=r"final_fraction=0.1 should be 1"):
        load(tmp_path, MINIMAL + "training: {schedule: constant, final_fraction: 0.1}")


def test_whole_numbers_may_have_an_exponent(tmp_path):
    study = load(
        tmp_path, MINIMAL + "search: {trials: 3e0, retest: {points: 2e0}}\ndata: {vocab_size: 1e3, max_bytes: 1e6}"
    )
    assert (study.search.trials, study.search.retest.points) == (3, 2)
    assert (study.data.vocab_size, study.data.max_bytes) == (1000, 1_000_000)


def asked(**changes):
    plain = {
        "proxy": {"model": {}, "steps": 10, "batch_size": 2},
        "target": {"model": {}, "steps": 10, "batch_size": 2},
    }
    return changing(StudyConfig.model_validate({"name": "s", **plain, **changes}))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"search": {"trials": 4}}, {"search": {"trials": 8}}),
        ({"search": {"max_steps": 4}}, {"search": {"max_steps": 8}}),
        ({"search": {"max_hours": 4}}, {"search": {}}),
        ({"search": {"max_flops": 1e9}}, {"search": {"max_flops": 1e10}}),
        ({"transfer": {"trials": 1}}, {"transfer": {"trials": 5}}),
        ({"comparison": {"seeds": 2}}, {"comparison": {"seeds": 5}}),
        ({"comparison": {"arms": ["uniform", "rlrs"]}}, {"comparison": {"arms": ["constant", "uniform", "rlrs"]}}),
        ({"comparison": {"horizons": [0.5]}}, {"comparison": {"horizons": [0.25, 0.5]}}),
        (
            {"data": {"folder": "a"}, "processes": 1},
            {"data": {"folder": "b"}, "engine": {"kind": "ray"}, "storage": "x"},
        ),
    ],
)
def test_a_study_goes_on_where_it_is_asked_for_more_and_not_where_for_less(before, after):
    assert difference(asked(**before), asked(**after)) is None
    back = difference(asked(**after), asked(**before))
    assert (back is None) == ("data" in before)
    assert back is None or back.endswith((" here, and may only grow", " here, and a limit may grow or go, not come"))


def test_a_limit_that_was_not_there_may_not_come():
    assert (
        difference(asked(), asked(search={"max_steps": 9}))
        == "search.max_steps is no limit there and 9 here, and a limit may grow or go, not come"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": {"lr": 0.1}}, "search.lr is 0.004 there and 0.1 here"),
        ({"data": {"source": "files:x"}}, "data.source is 'stdlib' there and 'files:x' here"),
        ({"training": {"clip": 2}}, "training.clip is 1.0 there and 2.0 here"),
    ],
)
def test_what_makes_another_study_is_named(change, message):
    assert difference(asked(), asked(**change)) == message
