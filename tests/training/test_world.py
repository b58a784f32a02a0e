"""One run on one process, on two with DDP and on two with FSDP2: the same numbers, and checkpoints that all read."""

import contextlib
import json
import os
import signal

import pytest
import ranks
from small import CLOCK, make_data, make_spec

from rlrs.training import StopFlag, Stopped, train

STEPS = 50
TOLERANCE = 1e-4  # nats per token, at every step
MODELS = {"dense": {"n_experts": 0, "ratios": {"embedding": [(0.0, 5.0), (1.0, 0.5)]}}, "moe": {"n_experts": 4}}


def changes(model, how="ddp", **more):
    run = {"steps": STEPS, "log_every": 1, "n_layers": 2, "checkpoint_every": 20, "distributed": how}
    return {**MODELS[model], **run, **more}


def work(world, changes, folder, stop_at=None, kill_at=None):
    """A run, or a part of it; the lines of its metrics."""
    stop = StopFlag()

    def progress(step, loss):
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == stop_at and world.rank == 0:  # one rank is asked, all stop
            stop.signal = "SIGTERM"

    with contextlib.suppress(Stopped):
        train(make_spec(**changes), make_data(), folder, world=world, progress=progress, stop=stop)
    lines = (folder / "metrics.jsonl").read_text().splitlines() if world.rank == 0 else []
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def losses(lines):
    return [line["loss"] for line in lines if "loss" in line]


def difference(a, b):
    """Largest difference of two runs' training and validation losses, which are of the same steps."""
    for name in ("loss", "valid_loss"):
        assert [line["step"] for line in a if name in line] == [line["step"] for line in b if name in line]
    pairs = [(x[name], y[name]) for x, y in zip(a, b, strict=True) for name in ("loss", "valid_loss") if name in x]
    return max(abs(x - y) for x, y in pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def single(folder):
    """Model -> lines of its run on one process."""
    return {model: ranks.run(work, (changes(model), folder / model), output=folder / "out") for model in MODELS}


@pytest.fixture(scope="module", params=[("dense", "ddp"), ("moe", "ddp"), ("moe", "fsdp2")], ids="-".join)
def two(request, folder):
    """Model, division, and lines of the run on two ranks."""
    model, how = request.param
    where = folder / f"{model}-{how}"
    return model, how, ranks.run(work, (changes(model, how), where), ranks=2, output=where)


def test_two_ranks_have_the_loss_curve_of_one_process(single, two):
    model, _, lines = two
    assert difference(lines, single[model]) < TOLERANCE
    assert losses(lines)[-1] < losses(lines)[0] - 1  # and it is one that comes down


def test_metrics_are_of_all_ranks_together(single, two):
    model, _, lines = two
    for mine, theirs in zip(lines, single[model], strict=True):
        if "loss" not in mine:
            continue
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        for name, numbers in theirs["components"].items():
            assert mine["components"][name] == pytest.approx(numbers, rel=1e-3), name
        if model == "moe":
            for name, value in theirs["router"].items():
                assert mine["router"][name] == pytest.approx(value, abs=1e-3), name


@pytest.mark.parametrize("two", [("moe", "ddp"), ("moe", "fsdp2")], ids="-".join, indirect=True)
def test_a_killed_run_on_two_ranks_goes_on_with_the_same_bits(folder, two):
    model, how, lines = two
    where = folder / f"{model}-{how}-killed"
    ranks.kill(
        ranks.start(work, (changes(model, how), where, None, 30), ranks=2, output=where), when_one_has_ended=True
    )
    assert ranks.run(work, (changes(model, how), where), ranks=2, output=where) == lines


def test_an_fsdp2_run_of_two_ranks_killed_goes_on_alone(folder, single):
    """Steps since the last checkpoint are lost, and no more."""
    where = folder / "killed"
    arguments = (changes("moe", "fsdp2"), where)
    ranks.kill(ranks.start(work, (*arguments, None, 45), ranks=2, output=where), when_one_has_ended=True)
    assert [path.name for path in (where / "checkpoints").glob("step-*")][-1:] == ["step-0000000040"]
    assert difference(ranks.run(work, arguments, output=where), single["moe"]) < TOLERANCE


def test_from_one_process_to_fsdp2_to_ddp_to_one(folder, single):
    where = folder / "travels"
    for how, size, stop in (("ddp", 1, 10), ("fsdp2", 2, 23), ("ddp", 2, 35), ("ddp", 1, None)):
        lines = ranks.run(work, (changes("moe", how), where, stop), ranks=size, output=where)
        # It is asked during one step and stops after the next.
        assert max(line["step"] for line in lines) == (STEPS if stop is None else stop + 1)
    assert difference(lines, single["moe"]) < TOLERANCE
    assert lines[:10] == single["moe"][:10]


def test_three_ranks_share_what_does_not_divide_evenly(folder):
    """Experts and rows of a table that three ranks hold unequal or empty parts of."""
    experts = {"n_experts": 2, "top_k": 2, "granularity": 2, "n_shared_experts": 1, "capacity_factor": None}
    options = changes("moe", "fsdp2", batch_size=6, steps=8, checkpoint_every=4, **experts)
    one = ranks.run(work, (options, folder / "three-1"), output=folder / "three-1")
    where = folder / "three-3"
    ranks.run(work, (options, where, 3), ranks=3, output=where)
    assert difference(ranks.run(work, (options, where), output=where), one) < TOLERANCE


def test_accumulated_batches_are_shared_part_by_part(folder):
    experts = {"top_k": 2, "normalise_gates": True, "capacity_factor": 0.7}
    options = changes("moe", accumulate=2, batch_size=8, steps=8, **experts)
    one, two = (
        ranks.run(work, (options, folder / f"parts-{n}"), ranks=n, output=folder / f"parts-{n}") for n in (1, 2)
    )
    assert difference(one, two) < TOLERANCE
    for mine, theirs in zip(one, two, strict=True):
        if "router" in mine:
            assert mine["router"]["dropped"] == pytest.approx(theirs["router"]["dropped"], abs=1e-3)
            assert mine["router"]["dropped"] > 0.2


def test_a_batch_that_ranks_cannot_share_is_refused_on_all_of_them(folder):
    where = folder / "uneven"
    codes = ranks.end(ranks.start(work, (changes("moe", batch_size=3), where), ranks=2, output=where))
    assert codes == [1, 1]
    assert "batch_size=3 should be a multiple of 2 ranks" in (where / "1.out").read_text()
