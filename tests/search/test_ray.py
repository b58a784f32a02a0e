"""A real Ray cluster of two nodes on this machine, with token authentication, one node killed in the middle."""

import os
import sys
import time
from dataclasses import replace

import pytest
from test_processes import data, spec  # noqa: F401  a fixture

from rlrs.records import Pruning
from rlrs.runs import OwnRun
from rlrs.search import Commands, EngineError, Ray
from rlrs.settings import TrainerConfig, TrainingConfig
from rlrs.training import train

# Before Ray is imported, which reads them once: a cluster made in code has the token that its owner gives it.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", "f" * 32)
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray leaves sockets and files to the garbage collector
pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.fixture(scope="module")
def cluster():
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"head": 4}})
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster
    finally:
        ray.shutdown()
        for node in list(cluster.list_all_nodes()):
            node.kill_all_processes(check_alive=False, allow_graceful=False)


@pytest.mark.long
def test_runs_on_a_cluster_have_the_numbers_that_they_have_here(data, cluster, tmp_path):  # noqa: F811
    from ray._raylet import AuthenticationMode, get_authentication_mode

    tokens, folder = data
    assert get_authentication_mode() == AuthenticationMode.TOKEN
    with Ray(folder, cpus=0.5) as engine:
        assert engine.slots == 2
        for seed in (0, 1):
            engine.submit(seed, spec(tokens, seed=seed))
        engine.submit("files", spec(tokens, seed=2), tmp_path / "runs" / "x")
        results = dict(engine.next() for _ in range(3))
        assert engine.pending == 0
    assert results[1].score == train(spec(tokens, seed=1), tokens).score
    assert {path.name for path in (tmp_path / "runs" / "x").iterdir()} == {
        "lock",
        "metrics.jsonl",
        "result.json",
        "run.json",
    }


def test_where_the_data_is_not_at_its_path_it_comes_through_the_object_store(data, cluster, tmp_path, monkeypatch):  # noqa: F811
    tokens, folder = data
    with Ray(folder, cpus=0.5) as engine:
        monkeypatch.setattr(engine, "_source", replace(engine._source, folder=str(tmp_path / "elsewhere")))
        ship = engine._ship_data

        def from_here():
            engine._source = replace(engine._source, folder=str(folder))
            ship()
            engine._source = replace(engine._source, folder=str(tmp_path / "elsewhere"))

        monkeypatch.setattr(engine, "_ship_data", from_here)
        engine.submit("far", replace(spec(tokens, seed=4)), tmp_path / "runs" / "y")
        key, result = engine.next()
        monkeypatch.setattr(engine, "_source", replace(engine._source, folder=str(folder)))
    assert (key, result.status) == ("far", "finished")
    # The node wrote to a place of its own; the run's files came with the result.
    assert (tmp_path / "runs" / "y" / "metrics.jsonl").stat().st_size > 0


PROGRAM = """
import os, sys
import rlrs

run = rlrs.current_run()
run.seed, run.lr, run.ratios
if run.args["what"] == "crash":
    sys.exit("no such corpus")
for step in range(1, run.steps + 1):
    if run.report(step, train_loss=5.0 - step / 10 + run.seed):
        sys.exit()
run.finish(valid_loss=4.0)
"""


def own(folder, seed, **args):
    program = folder / "program.py"
    program.write_text(PROGRAM)
    trainer = TrainerConfig(command=[sys.executable, str(program)], components=["embedding"])
    shared = {"training": TrainingConfig(score_steps=2), "steps": 8, "lr": 3e-3, "final_fraction": 0.1, "ratios": {}}
    return OwnRun(trainer=trainer, args={"what": "train", **args}, seed=seed, **shared)


@pytest.mark.long
def test_runs_of_ones_own_trainer_have_the_results_that_they_have_here(cluster, tmp_path):
    pruning = Pruning(rungs=((4, 5.0),), window=1)
    with Ray(None, cpus=0.5, runs_folder=tmp_path / "runs") as engine:
        engine.submit("whole", own(tmp_path, 0))
        engine.submit("worse", own(tmp_path, 1), prune=pruning)
        engine.submit("crashed", own(tmp_path, 2, what="crash"))
        results = dict(engine.next() for _ in range(3))
    with Commands(tmp_path / "here", 1) as engine:
        engine.submit("whole", own(tmp_path, 0))
        here = engine.next()[1]
    assert (results["whole"].score, results["whole"].valid_loss) == (here.score, 4.0)
    assert (results["worse"].status, results["worse"].steps) == ("pruned", 4)
    assert results["crashed"].status == "failed"
    assert "given up after 2 attempts: its process ended with code 1; its last lines: no such corpus" in str(
        results["crashed"].reason
    )
    assert (tmp_path / "runs" / own(tmp_path, 0).id / "metrics.jsonl").read_text().count("\n") == 9


def test_a_node_without_the_folders_of_ones_own_runs_is_named(cluster, tmp_path, monkeypatch):
    with Ray(None, cpus=0.5, runs_folder=tmp_path / "runs") as engine:
        monkeypatch.setattr(engine, "_workplace", replace(engine._workplace, folder=str(tmp_path / "elsewhere")))
        engine.submit("run", own(tmp_path, 0))
        with pytest.raises(EngineError, match=r"has no folder .*elsewhere: .* need a file system that all nodes share"):
            engine.next()


def test_what_no_node_has_is_an_error_that_names_it(data, cluster):  # noqa: F811
    with pytest.raises(EngineError, match=r"none of the 1 nodes of the Ray cluster has what a run asks for: .*GPU 1"):
        Ray(data[1], gpus=1).__enter__()


@pytest.mark.long
def test_runs_of_a_lost_node_and_hung_ones_are_tried_again_elsewhere(data, cluster):  # noqa: F811
    tokens, folder = data
    other = cluster.add_node(num_cpus=1, resources={"spot": 1})
    with Ray(folder, resources={"spot": 1}, time_limit=60) as engine:
        assert engine.slots == 1
        engine.submit("run", spec(tokens, steps=2000))
        deadline = time.monotonic() + 60
        while not engine.steps:
            assert engine.next(timeout=0.2) is None
            assert time.monotonic() < deadline
        other.kill_all_processes(check_alive=False, allow_graceful=False)
        cluster.add_node(num_cpus=1, resources={"spot": 1})
        key, result = engine.next()
        assert (key, result.status, result.steps) == ("run", "finished", 2000)
        assert engine.steps == 2000
        engine.time_limit = 1.0
        engine.submit("hung", spec(tokens, steps=1_000_000))
        key, result = engine.next()
        assert (key, result.status) == ("hung", "failed")
        assert result.reason == "given up after 2 attempts: it took more than the time limit of 1 s"
