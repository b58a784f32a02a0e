"""A real Ray cluster of two nodes on this machine, with token authentication, one node killed in the middle."""

import os
import time
from dataclasses import replace

import pytest
from test_processes import data, spec  # noqa: F401  a fixture

from rlrs.search import EngineError, Ray
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
