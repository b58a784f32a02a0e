"""Runs of the reference trainer that learn their ratios: killed, on two ranks, and what they hand on."""

import math

import pytest
import ranks
import torch.distributed as dist
from safetensors.torch import load_file
from small import make_data, make_spec

from rlrs.records import Learning
from rlrs.training import train

KNOTS = {"embedding": (0.0, 1.0), "experts": (0.0,), "router": (0.0, 0.5, 1.0)}
LEARN = Learning(knots=KNOTS)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def comparable(result):
    return {key: value for key, value in result.to_plain().items() if key != "seconds"}


def test_a_run_that_learns_is_another_run_and_one_that_does_not_keeps_its_id(spec):
    assert spec(learn=LEARN).id != spec().id
    assert "learn" not in spec().to_plain()
    assert spec(learn=LEARN).to_plain()["learn"]["knots"]["embedding"] == [0.0, 1.0]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_killed_run_learns_the_same_bits(spec, data, tmp_path, optimizer):
    run = spec(learn=LEARN, optimizer=optimizer, d_model=16, n_experts=2)
    whole = train(run, data, tmp_path / "whole")
    for step in (10, 15):

        def stop(done, loss, step=step):
            if done >= step:
                raise Killed

        with pytest.raises(Killed):
            train(run, data, tmp_path / "killed", progress=stop)
    result = train(run, data, tmp_path / "killed")
    assert comparable(result) == comparable(whole)
    last = [
        max((tmp_path / name / "checkpoints").glob("step-*")) / "rank-0.safetensors" for name in ("whole", "killed")
    ]
    left, right = map(load_file, last)
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
    # What result.json holds is what is given back.
    assert train(run, data, tmp_path / "killed") == result


def test_what_was_learned_is_in_the_result_with_its_knots(spec, data):
    found = train(spec(learn=LEARN), data).learned
    assert {name: tuple(p for p, _ in knots) for name, knots in found.ratios.items()} == {
        "embedding": (0.0, 1.0),
        "experts": (0.0, 1.0),
        "router": (0.0, 0.5, 1.0),
    }
    assert found.ratios["experts"][0][1] == found.ratios["experts"][1][1] != 1.0
    assert (found.lr, found.final_fraction) == (1e-2, 0.1)
    assert train(spec(), data).learned is None


def work(world, how):
    """What each rank has learned, and from it the result."""
    from rlrs.training.loop import Loop
    from rlrs.training.stopping import StopFlag

    spec = make_spec(learn=LEARN, distributed=how, steps=12)
    loop = Loop(spec, make_data(), None, world, validate=False, prune=None, stop=StopFlag())
    loop.train(None)
    logs = [None] * world.size
    if world.size > 1:
        dist.all_gather_object(logs, loop.state.learner.logarithms)
    else:
        logs = [loop.state.learner.logarithms]
    assert all(log == logs[0] for log in logs)
    return logs[0]


def test_all_ranks_learn_the_same_which_is_what_one_process_learns(tmp_path):
    alone = ranks.run(work, ("ddp",), output=tmp_path)
    for how in ("ddp", "fsdp2"):
        together = ranks.run(work, (how,), ranks=2, output=tmp_path)
        assert together == pytest.approx(alone, abs=2e-2)
        assert all(map(math.isfinite, together))
    assert max(map(abs, alone)) > 0.1
