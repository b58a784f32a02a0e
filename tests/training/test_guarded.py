"""The guard of the reference trainer: it saves runs that diverge, and does the same killed or not, on any ranks."""

import json
import os
import shutil
import signal
import time

import numpy as np
import pytest
import ranks
import torch
from small import CLOCK, make_data, make_spec

from rlrs import audit
from rlrs.monitoring import CHECKS
from rlrs.settings import GuardConfig
from rlrs.settings.guarding import GuardedCheck
from rlrs.training import StopFlag, Stopped, train

PAPER = {"embedding": [(0.0, 5.0), (1.0, 0.5)], "router": [(0.0, 0.5), (1.0, 1.0)]}
GUARD = GuardConfig(
    actions={"non_finite": "rollback", "loss_rise": "rollback", "update_ratio_high": "rollback"},
    smaller=0.1,
    pull=0.25,
    lookback=8,
    pause=0,
    most=6,
)


def wrong(guard=GUARD, **changes):
    """A run whose attention is a thousand times too fast."""
    given = {"ratios": {**PAPER, "attention": [(0.0, 1000.0), (1.0, 1000.0)]}, "log_every": 2, "steps": 40}
    return make_spec(**given | changes, guard=guard)


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in found]


def weights(folder):
    from rlrs.training.storage import read_manifest

    return read_manifest(max((folder / "checkpoints").glob("step-*")))["files"]


def alarms(folder):
    return [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    return train(wrong(), make_data(), folder), folder


def test_a_run_that_diverges_is_saved_by_less_of_the_component_that_did_it(guarded, tmp_path):
    alone = train(wrong(None), make_data(), tmp_path)
    result, folder = guarded
    good = train(wrong(None, ratios=PAPER), make_data(), tmp_path / "good")
    assert alone.status == "diverged" or alone.valid_loss > good.valid_loss + 0.5
    assert result.status == "finished"
    assert result.valid_loss < good.valid_loss + 0.2
    done = [alarm for alarm in alarms(folder) if alarm["action"]]
    assert done[0]["component"] == "attention"
    assert done[0]["action"].startswith("back to step 0, ratios of attention: 1e+03 -> ")
    last = lines(folder)[-2]["components"]
    assert last["attention"]["ratio"] < 10
    assert last["embedding"]["ratio"] == pytest.approx(0.5, abs=0.2)


def test_what_was_done_is_in_the_trail_and_the_lines_left_behind_stay(guarded):
    _, folder = guarded
    kinds = [entry.kind for entry in audit.Trail(folder)]
    assert "alarm" in kinds
    assert "decision" in kinds
    assert audit.Trail(folder).verify().intact
    left = next(folder.glob("metrics.left-at-*.jsonl"))
    assert json.loads(left.read_text().splitlines()[0])["step"] == 1
    assert [line["step"] for line in lines(folder) if "loss" in line] == [1, *range(2, 41, 2)]


def test_a_run_in_which_nothing_goes_wrong_is_the_run_without_a_guard(tmp_path):
    calm = GuardConfig(actions=dict.fromkeys(("non_finite", "loss_rise"), "stop"))
    plain = make_spec(steps=20)
    watched = make_spec(steps=20, guard=calm)
    results = [train(spec, make_data(), tmp_path / spec.id) for spec in (plain, watched)]
    assert plain.id != watched.id
    assert results[0].score == results[1].score
    assert lines(tmp_path / plain.id) == lines(tmp_path / watched.id)
    assert weights(tmp_path / plain.id) == weights(tmp_path / watched.id)


class After(StopFlag):
    """Set after so many looks at it."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        if self.looks == 0:
            self.signal = signal.SIGTERM
        return self.looks <= 0


@pytest.mark.parametrize("looks", [1, 3, 5, 8, 12, 17, 30])
def test_a_run_that_was_stopped_and_resumed_ends_as_the_one_that_was_not(guarded, tmp_path, looks):
    whole, folder = guarded
    with pytest.raises(Stopped):
        train(wrong(), make_data(), tmp_path, stop=After(looks))
    resumed = train(wrong(), make_data(), tmp_path)
    assert (resumed.score, resumed.valid_loss) == (whole.score, whole.valid_loss)
    assert lines(tmp_path) == lines(folder)
    assert weights(tmp_path) == weights(folder)
    done = [[alarm["step"], alarm["action"]] for alarm in alarms(folder) if alarm["action"]]
    again = [[alarm["step"], alarm["action"]] for alarm in alarms(tmp_path) if alarm["action"]]
    assert [one for number, one in enumerate(again) if one not in again[:number]] == done


def _train(world, folder):
    from pathlib import Path

    folder = Path(folder)
    train(wrong(), make_data(), folder, world=world)
    return [[alarm["step"], alarm["check"], alarm["component"], alarm["action"]] for alarm in alarms(folder)]


def _each_rank(world, folder):
    """What every rank's guard did, and a sum of its weights."""
    from pathlib import Path

    import torch.distributed as dist

    from rlrs.training.loop import Loop

    with torch.random.fork_rng():
        loop = Loop(wrong(), make_data(), Path(folder), world, validate=True, prune=None, stop=StopFlag())
        loop.train(None)
        loop.finish()
    mine = [loop.guard.guard.taken, [weight.double().sum().item() for weight in loop.state.weights], loop.losses]
    every = [None] * world.size
    dist.all_gather_object(every, mine, group=world.background)
    loop.close()
    return every


@pytest.mark.long
def test_two_ranks_do_the_same_at_the_same_steps(tmp_path):
    (tmp_path / "run").mkdir()
    first, second = ranks.run(_each_rank, (str(tmp_path / "run"),), ranks=2, output=tmp_path / "out")
    assert first == second
    assert first[0][0]["component"] == "attention"
    assert first[0][0]["action"] == "rollback"


@pytest.mark.long
def test_two_ranks_do_what_one_does(guarded, tmp_path):
    found = ranks.run(_train, (str(tmp_path / "run"),), ranks=2, output=tmp_path / "out")
    alone = [[alarm["step"], alarm["check"], alarm["component"], alarm["action"]] for alarm in alarms(guarded[1])]
    assert found == alone


def test_skipping_leaves_out_the_batches_that_did_it(tmp_path):
    """Batches 12 to 15 are noise in a second half that is easy."""
    guard = GUARD.model_copy(update={"skip": True, "lookback": 4})
    folder = tmp_path / "run"
    seen = []
    data = make_data()
    batch = data.batch

    def noted(seed, number, *rest):
        seen.append(number)
        inputs, targets = batch(seed, number, *rest)
        return (inputs, torch.randint_like(targets, 64)) if 12 <= number < 16 else (inputs, targets)

    data.batch = noted
    strict = GuardConfig(
        actions={"loss_rise": "rollback"},
        thresholds={"format": 1, "thresholds": {"loss_rise": 0.5}},
        **{name: getattr(guard, name) for name in ("skip", "lookback", "pause", "smaller")},
    )
    train(make_spec(guard=strict, log_every=1, steps=30, checkpoint_every=6), data, folder)
    (done,) = [alarm for alarm in alarms(folder) if alarm["action"]]
    at = done["step"]
    assert f"batches from 6 to {at - 1} left out" in done["action"] or f"batches from 12 to {at - 1}" in done["action"]
    back = int(done["action"].split()[3].rstrip(","))
    assert seen == [*range(at), *range(at, at + 30 - back)]


def test_a_stop_ends_the_run_with_the_alarm(tmp_path):
    guard = GuardConfig(actions={"update_ratio_high": "stop", "non_finite": "stop"})
    result = train(wrong(guard), make_data(), tmp_path)
    assert result.status == "diverged"
    assert result.reason.startswith("update_ratio_high in attention at step ")
    assert result.reason.endswith("The guard: stopped")


def test_after_the_last_action_the_run_ends(tmp_path):
    guard = GUARD.model_copy(update={"most": 1, "smaller": 0.99, "pull": 0.99})
    result = train(wrong(guard), make_data(), tmp_path)
    assert result.status == "diverged"
    assert "stopped: 1 actions were taken before" in result.reason


def test_a_guard_is_not_for_runs_without_files():
    with pytest.raises(ValueError, match="a run with a guard needs a folder"):
        train(wrong(), make_data())


def test_checks_of_settings_are_those_that_lines_of_a_run_are_enough_for():
    assert {*GuardedCheck.__args__, "throughput", "rate_off_schedule"} == set(CHECKS)


@pytest.mark.long
def test_a_run_killed_at_any_moment_ends_as_the_one_that_was_not(guarded, tmp_path):
    """SIGKILL, at moments over the whole of it."""
    whole, folder = guarded
    rng = np.random.default_rng(0)
    for number in range(10):
        where = tmp_path / str(number)
        for _ in range(20):
            (process,) = ranks.start(_train, (str(where),), output=tmp_path / "out")
            process.join(float(rng.uniform(0.5, 3.0)))
            if process.exitcode == 0:
                break
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            time.sleep(0.01)
        result = train(wrong(), make_data(), where)
        assert (result.score, result.valid_loss) == (whole.score, whole.valid_loss), number
        assert lines(where) == lines(folder), number
        assert weights(where) == weights(folder), number
        shutil.rmtree(where)
