"""`rlrs dashboard`, and what Ctrl-C or SIGTERM leaves of a search."""

import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import optuna
import pytest
import yaml

from rlrs.cli import main
from rlrs.search import TrialStore
from rlrs.search.store import optuna_url

STUDY = """
name: tiny
data: {vocab_size: 300, sequence_length: 16, max_bytes: 200000}
training: {score_steps: 5, eval_tokens: 512, checkpoint_every: 5, log_every: 5, evaluations: 3}
proxy: {model: {d_model: 16, n_layers: 1, n_heads: 2, n_experts: 2}, steps: 40, batch_size: 4}
target: {model: {d_model: 32, n_layers: 2, n_heads: 2, n_experts: 4}, steps: 30, batch_size: 4}
search: {trials: 200, multipliers: [0.5, 2], lr: 8e-3}
comparison: {arms: [uniform, rlrs]}
processes: 1
"""


@contextmanager
def started(command):
    """A command that Ctrl-C reaches: a shell's background job, which these tests may run in, ignores it."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, old)
    with process:
        try:
            yield process
        finally:
            process.kill()  # does nothing to one that has ended, as it should have


def stopped_by(number, folder, after):
    """A search that a signal stops when it has said this; all that it said."""
    command = [sys.executable, "-m", "rlrs.cli", "search", folder / "study.yaml", "--out", folder / "run"]
    with started(command) as search:
        assert search.stderr is not None
        said = ""
        while after not in said:
            line = search.stderr.readline()
            assert line, said
            said += line
        search.send_signal(number)
        _, rest = search.communicate(timeout=60)
    assert search.returncode == 130
    return said + rest


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A search that was stopped by Ctrl-C after some runs of the rlrs arm."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "study.yaml").write_text(STUDY)
    return folder, stopped_by(signal.SIGINT, folder, "proxy/rlrs, run 1: best so far")


@pytest.mark.long
def test_ctrl_c_leaves_the_best_so_far_and_says_that_it_is_unfinished(stopped):
    folder, said = stopped
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    ratios = yaml.safe_load((folder / "run" / "ratios.yaml").read_text())
    assert "of at most 200 runs; the same command goes on" in ratios["provenance"]["unfinished_search"]
    assert ratios["provenance"]["search"]["score"] > 0


def runs_of_all_arms(folder):
    storage = f"sqlite:///{folder / 'run' / 'trials.db'}"
    studies = (optuna.load_study(study_name=name, storage=storage) for name in optuna.get_all_study_names(storage))
    return [(study.study_name, trial.user_attrs["run"]) for study in studies for trial in study.trials]


@pytest.mark.long
def test_a_clusters_sigterm_does_the_same_and_no_run_is_lost_or_counted_twice(stopped):
    folder, _ = stopped
    before = runs_of_all_arms(folder)
    said = stopped_by(signal.SIGTERM, folder, "had ended before")
    assert "stopped; the same command goes on from here" in said
    assert "Traceback" not in said
    after = runs_of_all_arms(folder)
    assert set(after) >= set(before)
    assert len(set(after)) == len(after) > 2


@pytest.mark.long
def test_the_dashboard_has_the_studies_trials_with_names_and_params(stopped):
    run = stopped[0] / "run"
    command = [sys.executable, "-m", "rlrs.cli", "dashboard", run, "--port", "0"]
    with started(command) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        studies = yaml.safe_load(urllib.request.urlopen(url + "api/studies", timeout=20).read())
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=20)
    names = {study["study_name"] for study in studies["study_summaries"]}
    assert names >= {"proxy/uniform", "proxy/rlrs"}


SLOW = """
import sys, time
from pathlib import Path
import optuna_dashboard
from rlrs.study.dashboard import serve

def slow(environ, respond):
    print("asked", flush=True)
    time.sleep(60)

optuna_dashboard.wsgi = lambda trials: slow
serve(Path(sys.argv[1]), 0, None, lambda url: print(url, flush=True))
"""


@pytest.mark.parametrize("name", ["what?x=1", "{b}*", "a#b%20&c={d}", "it's"])
def test_a_folders_name_is_no_part_of_the_databases_url(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    TrialStore(folder / "trials.db")
    optuna.storages.RDBStorage(optuna_url(folder / "trials.db"))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert "trials.db" in {path.name for path in folder.iterdir()}


def test_ctrl_c_ends_the_dashboard_while_it_answers_a_request(tmp_path):
    TrialStore(tmp_path / "trials.db")
    with started([sys.executable, "-c", SLOW, tmp_path]) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().strip().rstrip("/").rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert server.stdout.readline() == "asked\n"
            server.send_signal(signal.SIGINT)
            server.communicate(timeout=20)
    assert server.returncode != 0


@pytest.mark.parametrize("what", ["no trials", "taken port"])
def test_a_dashboard_that_cannot_be_is_one_line(what, tmp_path, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if what == "taken port":
            TrialStore(tmp_path / "trials.db")
        monkeypatch.setattr(sys, "argv", ["rlrs", "dashboard", str(tmp_path), "--port", str(port)])
        with pytest.raises(SystemExit) as stop:
            main()
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert ("there is none; name the run directory" if what == "no trials" else "cannot be had") in said
