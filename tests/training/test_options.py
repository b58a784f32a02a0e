"""Optimizers, accumulation, dtype, TensorBoard: what each option does, and that a killed run goes on under it."""

import json
import math

import pytest
import ranks
import torch
from small import CLOCK, make_data, make_spec

import rlrs
from rlrs.models import build_model, training_flops
from rlrs.study.directory import StudyError
from rlrs.study.dtype import settled
from rlrs.training import faster_dtype, train
from rlrs.training.distributed import World
from rlrs.training.state import TrainState

DENSE = {"n_experts": 0, "ratios": {"embedding": [(0.0, 5.0), (1.0, 0.5)]}}


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


class Killed(BaseException):
    pass


def kill(step, loss):
    if step >= 10:
        raise Killed


@pytest.mark.parametrize(
    "options", [{"optimizer": "muon"}, {"optimizer": "sgd", "lr": 0.1}, {"dtype": "bfloat16"}, {"accumulate": 2}]
)
def test_a_killed_run_ends_with_the_same_bits_under_every_option(data, tmp_path, options):
    spec = make_spec(**options)
    train(spec, data, tmp_path / "whole")
    with pytest.raises(Killed):
        train(spec, data, tmp_path / "killed", progress=kill)
    train(spec, data, tmp_path / "killed")
    assert lines(tmp_path / "killed") == lines(tmp_path / "whole")


def test_muon_follows_the_ratios_as_adamw_does(data, tmp_path):
    ratios = {"attention": [(0.0, 2.0), (1.0, 0.5)], "embedding": [(0.0, 5.0), (1.0, 1.0)]}
    train(make_spec(optimizer="muon", ratios=ratios), data, tmp_path)
    schedule = rlrs.BaseSchedule(total_steps=20, warmup_steps=1, final_fraction=0.1)
    for line in (line for line in lines(tmp_path) if "loss" in line):
        for component, knots in ratios.items():
            right = rlrs.relative_factor(schedule, knots, line["step"] - 1)
            assert line["components"][component]["lr"] == pytest.approx(1e-2 * right)
            assert line["components"][component]["ratio"] == pytest.approx(1e-2 * right / line["lr_base"])


@pytest.mark.parametrize("options", [{"optimizer": "muon", **DENSE}, {"optimizer": "sgd", "lr": 0.5, **DENSE}])
def test_every_optimizer_learns(data, options):
    assert train(make_spec(steps=120, **options), data).score < 0.65 * math.log(64)


def test_a_batch_in_parts_is_the_batch(data, tmp_path):
    """For a dense model, whose loss is a mean over tokens that do not meet."""
    train(make_spec(**DENSE), data, tmp_path / "whole")
    train(make_spec(accumulate=4, **DENSE), data, tmp_path / "parts")
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        for name in {"loss", "valid_loss", "grad_norm"} & one.keys():
            assert two[name] == pytest.approx(one[name], abs=1e-5)


def test_a_batch_that_has_no_such_parts_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=4 should be a multiple of training\.accumulate=3"):
        make_spec(accumulate=3)


def test_bfloat16_is_of_products_alone(data):
    half, whole = train(make_spec(dtype="bfloat16"), data), train(make_spec(), data)
    assert half.score != whole.score
    assert half.score == pytest.approx(whole.score, abs=0.02)
    state = TrainState(make_spec(dtype="bfloat16"), 64, World(), "ddp")
    assert {weight.dtype for weight in state.model.parameters()} == {torch.float32}


def test_a_run_does_not_choose_its_dtype_itself():
    with pytest.raises(ValueError, match="dtype should be float32 or bfloat16 in a run"):
        make_spec(dtype="auto")


def study(tmp_path, dtype):
    from rlrs.settings import load_study

    size = "{model: {d_model: 16, n_layers: 1, n_heads: 2}, steps: 4, batch_size: 4}"
    (tmp_path / "study.yaml").write_text(f"name: s\ntraining: {{dtype: {dtype}}}\nproxy: {size}\ntarget: {size}\n")
    return load_study(tmp_path / "study.yaml")


def test_auto_is_measured_once_in_a_run_directory(data, tmp_path, monkeypatch):
    asked = study(tmp_path, "auto")
    chosen = settled(asked, tmp_path, data).training.dtype
    measured = json.loads((tmp_path / "dtype.json").read_text())
    assert measured["dtype"] == chosen
    assert len(measured["ratios"]) == 5
    other = {"float32": "bfloat16", "bfloat16": "float32"}[chosen]
    (tmp_path / "dtype.json").write_text(json.dumps({"dtype": other, "ratios": [1.0]}))
    assert settled(asked, tmp_path, data).training.dtype == other
    (tmp_path / "dtype.json").write_text('{"dtype": "auto"}')
    with pytest.raises(StudyError, match=r"dtype\.json: damaged"):
        settled(asked, tmp_path, data)
    assert settled(study(tmp_path, "float32"), tmp_path, data).training.dtype == "float32"


def test_measuring_leaves_the_callers_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    assert faster_dtype(make_spec().model, 64, 2, 8)["dtype"] in ("float32", "bfloat16")
    assert torch.equal(torch.rand(2), expected)


ITEMS = {
    *("loss", "valid_loss", "bits_per_byte", "lr_base", "grad_norm", "tokens_per_second", "flops_per_second"),
    *(f"components/embedding/{name}" for name in ("lr", "ratio", "grad_norm", "update_ratio")),
    *("router/load/0", "router/load/1", "router/dropped", "router/entropy"),
}
"""What a run's metrics hold at least, by the names of TensorBoard; in metrics.jsonl, the path in a line."""


def flat(value, name=""):
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if parts is None:
        return {name: value}
    return {path: v for key, part in parts for path, v in flat(part, f"{name}/{key}" if name else str(key)).items()}


def test_metrics_and_tensorboard_hold_every_item_also_after_a_kill(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data = make_data()
    data.summary["valid_bytes_per_token"] = 2.5
    spec = make_spec(tensorboard=True)
    with pytest.raises(Killed):
        train(spec, data, tmp_path, progress=kill)
    train(spec, data, tmp_path)
    rows = [flat(json.loads(line)) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert tags >= ITEMS
    assert tags == {name for line in rows for name in line} - {"step"}
    for tag in tags:
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(line["step"], pytest.approx(line[tag])) for line in rows if tag in line], tag


def test_speed_and_bits_per_byte_are_of_the_tokens_and_the_loss(tmp_path):
    data = make_data()
    data.summary["valid_bytes_per_token"] = 2.5
    train(make_spec(steps=5), data, tmp_path)
    flops = training_flops(build_model(make_spec().model, 64), 8)
    for line in (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()):
        if "loss" in line:
            assert line["tokens_per_second"] > 0
            assert line["flops_per_second"] / line["tokens_per_second"] == pytest.approx(flops, rel=1e-3)
        else:
            assert line["bits_per_byte"] == pytest.approx(line["valid_loss"] / math.log(2) / 2.5)


def one_run(world, folder):
    return train(make_spec(steps=40), make_data(), folder).to_plain()["score"]


def test_two_processes_that_come_to_one_run_train_it_once(tmp_path):
    """Two arms of a study may ask for the same run."""
    folder = tmp_path / "run"
    processes = ranks.start(one_run, (folder,), output=tmp_path / "a")
    score = ranks.run(one_run, (folder,), output=tmp_path / "b")
    assert ranks.end(processes) == [0]
    assert score == json.loads((tmp_path / "a" / "returned.json").read_text())
    assert [line["step"] for line in lines(folder) if "loss" in line] == [1, 5, 10, 15, 20, 25, 30, 35, 40]
