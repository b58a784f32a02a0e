import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rlrs.data import prepare
from rlrs.records import Pruning
from rlrs.search import EngineError, Processes
from rlrs.search.engines.engine import Job, Patience
from rlrs.search.engines.processes import devices_by_slot
from rlrs.settings import DataConfig, ModelConfig, TrainingConfig
from rlrs.training import RunSpec, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    config = DataConfig(vocab_size=300, sequence_length=16, max_bytes=100_000)
    return prepare(config, folder), folder


def spec(data, steps=10, seed=0):
    return RunSpec(
        model=ModelConfig(d_model=16, n_layers=1, n_heads=2),
        training=TrainingConfig(score_steps=5, eval_tokens=256, log_every=2),
        steps=steps,
        batch_size=4,
        seed=seed,
        lr=1e-3,
        final_fraction=0.1,
        ratios={},
        data_hash=data.hash,
    )


def workers(engine):
    return [worker.process.pid for worker in engine._workers]


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def one(data):
    """An engine with one worker, which is slow to start: shared where its state does not matter."""
    with Processes(data[1], 1) as engine:
        engine.submit("warm", spec(data[0]))
        engine.next()
        yield engine


def test_a_run_has_the_same_numbers_in_a_worker_as_here(data):
    tokens, folder = data
    with Processes(folder, 2) as engine:
        for seed in (0, 1, 2):
            engine.submit(seed, spec(tokens, seed=seed))
        results = dict(engine.next() for _ in range(3))
        assert engine.steps == 30
    assert results[1].score == train(spec(tokens, seed=1), tokens).score
    assert len({result.score for result in results.values()}) == 3


@pytest.mark.long
def test_a_killed_worker_is_replaced_and_its_run_tried_again_with_steps_counted_once(data, one):
    before = one.steps
    one.submit("long", spec(data[0], steps=400))
    time.sleep(0.2)
    os.kill(workers(one)[0], signal.SIGKILL)
    key, result = one.next()
    assert (key, result.status, result.steps) == ("long", "finished", 400)
    assert one.steps == before + 400
    assert one.pending == 0


@pytest.mark.long
def test_a_run_whose_worker_dies_twice_is_given_up_and_the_next_goes_on(data, one):
    one.submit("doomed", spec(data[0], steps=1_000_000))
    one.submit("after", spec(data[0]))
    killed = set()
    while len(killed) < 2:
        wait_for(lambda: one.next(timeout=0.1) is None and one._workers and one._workers[0].steps)
        killed.add(workers(one)[0])
        os.kill(workers(one)[0], signal.SIGKILL)
    results = dict(one.next() for _ in range(2))
    assert results["doomed"].status == "failed"
    assert results["doomed"].score is None
    assert results["doomed"].reason == "given up after 2 attempts: its worker was killed (out of memory?)"
    assert results["after"].status == "finished"


@pytest.mark.long
def test_a_run_that_hangs_past_the_time_limit_is_killed_tried_again_and_given_up(data, one, monkeypatch):
    monkeypatch.setattr(one, "time_limit", 2.0)
    one.submit("hung", spec(data[0]))
    one.next()
    one.submit("hung", spec(data[0], steps=1_000_000))
    one._listen(0.5)
    os.kill(workers(one)[0], signal.SIGSTOP)  # says nothing more, and does not end
    key, result = one.next()
    assert (key, result.status) == ("hung", "failed")
    assert result.reason == "given up after 2 attempts: it took more than the time limit of 2 s"


@pytest.mark.long
def test_time_in_which_everything_was_suspended_is_not_held_against_a_run(data, one, monkeypatch):
    clock, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock() + ahead[0])
    monkeypatch.setattr(one, "time_limit", 30.0)
    one.submit("sound", spec(data[0], steps=400))

    def suspended(steps):
        if steps > 5 and len(ahead) < 3:  # twice, as a run that is tried a second time would meet it
            ahead.append(0.0)
            ahead[0] += 10_000.0

    key, result = one.next(suspended)
    assert len(ahead) == 3
    assert (key, result.status) == ("sound", "finished")


def test_a_run_that_raises_for_want_of_memory_is_given_up(data, one):
    # 2e8 x 8 floats do not fit into any memory at once; the allocator says so
    huge = replace(spec(data[0]), batch_size=10**13)
    one.submit("huge", huge, validate=False)
    _, result = one.next()
    assert result.status == "failed"
    assert "given up after 2 attempts: " in result.reason
    assert "alloc" in result.reason.lower()


def test_what_another_attempt_would_not_change_is_raised(data, one, tmp_path):
    one.submit("wrong", replace(spec(data[0]), data_hash="another"))
    with pytest.raises(ValueError, match="the run is of data another"):
        one.next()


def test_when_run_after_run_is_given_up_and_none_ends_the_engine_says_so(data):
    job = Job("key", spec(data[0]), None, False, None)
    failed = job.given_up("its worker was killed", 0, 1.0)
    patience = Patience()
    patience.saw(failed)
    patience.saw(failed)
    with pytest.raises(EngineError, match="3 runs were given up and none has ended"):
        patience.saw(failed)
    patience = Patience()
    patience.saw(failed.model_copy(update={"status": "diverged"}))
    for _ in range(10):
        patience.saw(failed)


def test_a_run_may_lose_its_machine_more_often_than_it_may_crash(data):
    job = Job("key", spec(data[0]), None, False, None)
    assert job.after("crashed").after("crashed") is None
    for _ in range(4):
        job = job.after("its node was lost", lost_machine=True)
    assert job.after("its node was lost", lost_machine=True) is None
    assert job.given_up("its node was lost", 0, 1.0).reason == "given up after 5 attempts: its node was lost"


def test_workers_that_cannot_start_end_the_search_in_one_line(tmp_path):
    with Processes(tmp_path / "nothing", 1) as engine:
        engine.submit("run", None)
        with pytest.raises(ValueError, match="no whole prepared data"):
            engine.next()


def test_several_workers_share_a_gpu_or_each_has_some(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert devices_by_slot(4, 1) == ["4", "5", "6", "7"]
    assert devices_by_slot(4, 0.5) == ["4", "4", "5", "5"]
    assert devices_by_slot(2, 2) == ["4,5", "6,7"]
    assert devices_by_slot(2, 0) == [None, None]
    with pytest.raises(EngineError, match=r"this machine has 4 GPUs, too few for 3 workers with engine.gpus=2"):
        devices_by_slot(3, 2)


@pytest.mark.long
def test_two_ranks_train_a_run_together_and_a_lost_one_costs_an_attempt(data):
    tokens, folder = data
    with Processes(folder, 1, ranks=2) as engine:
        engine.submit("run", spec(tokens))
        engine.submit("pruned", spec(tokens), validate=False, prune=Pruning(rungs=((4, 0.1),), window=2))
        results = dict(engine.next() for _ in range(2))
        alone = train(spec(tokens), tokens)
        assert results["run"].score == pytest.approx(alone.score, abs=1e-5)
        assert results["run"].valid_loss == pytest.approx(alone.valid_loss, abs=1e-5)
        assert (results["pruned"].status, results["pruned"].steps) == ("pruned", 4)
        engine.submit("long", spec(tokens, steps=400))
        wait_for(lambda: engine.next(timeout=0.1) is None and engine._workers and engine._workers[0].steps)
        (other,) = followers(workers(engine)[0])
        os.kill(other, signal.SIGKILL)
        key, result = engine.next()
        assert (key, result.status, result.steps) == ("long", "finished", 400)
        (other,) = followers(workers(engine)[0])
    wait_for(lambda: not os.path.exists(f"/proc/{other}"), 10)  # its leader is gone


def followers(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"ranks" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.long
def test_workers_end_when_their_driver_is_killed(data, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from rlrs.data import TokenData
from rlrs.search import Processes
from test_processes import spec, workers
if __name__ == "__main__":
    folder = Path({str(data[1])!r})
    with Processes(folder, 1) as engine:
        engine.submit("long", spec(TokenData.load(folder), steps=1_000_000))
        while not engine.steps:
            engine.next(timeout=0.1)
        print(workers(engine)[0], flush=True)
        engine.next()
"""
    script = tmp_path / "driver.py"
    script.write_text(code)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        pid = int(driver.stdout.readline())
        driver.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("a worker went on without its driver")
