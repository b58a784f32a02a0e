import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlrs.config import DataConfig, ModelConfig, TrainingConfig
from rlrs.data import prepare
from rlrs.search import EngineError, Processes
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
    return [process.pid for process in engine._pool._processes.values()]


def test_a_run_has_the_same_numbers_in_a_worker_as_here(data):
    tokens, folder = data
    with Processes(folder, 2) as engine:
        for seed in (0, 1, 2):
            engine.submit(seed, spec(tokens, seed=seed))
        results = dict(engine.next() for _ in range(3))
        assert engine.steps == 30
    assert results[1].score == train(spec(tokens, seed=1), tokens).score
    assert len({result.score for result in results.values()}) == 3


def test_a_killed_worker_is_replaced_and_its_run_tried_again(data):
    tokens, folder = data
    with Processes(folder, 1) as engine:
        engine.submit("warm", spec(tokens))
        engine.next()
        engine.submit("long", spec(tokens, steps=400))
        time.sleep(0.2)
        os.kill(workers(engine)[0], signal.SIGKILL)
        key, result = engine.next()
    assert (key, result.status, result.steps) == ("long", "finished", 400)


def test_a_run_whose_worker_dies_twice_is_an_error_that_names_it(data):
    tokens, folder = data
    run = spec(tokens, steps=1_000_000)

    def kill_all():
        while not stop.is_set():
            time.sleep(0.2)
            for pid in workers(engine) if engine._pool and engine._pool._processes else []:
                with engine_lock:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue

    stop, engine_lock = threading.Event(), threading.Lock()
    with Processes(folder, 1) as engine:
        engine.submit("doomed", run)
        killer = threading.Thread(target=kill_all, daemon=True)
        killer.start()
        with pytest.raises(EngineError, match=f"worker of run {run.id} was killed twice"):
            engine.next()
        stop.set()
        killer.join()


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
            pass
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
