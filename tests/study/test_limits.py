"""What ends a study early: a budget, in each unit that it can be given in, and a disk without room."""

import shutil
import subprocess
import sys

import pytest
import torch
from killing import same_end
from test_runner import STUDY

from rlrs.cli import main
from rlrs.data import TokenData
from rlrs.study import kinds
from rlrs.study.stages import Stages
from rlrs.training import train


class Here:
    """Trains runs in this process, in turn: a second less for every study than processes of its own."""

    slots, steps = 1, 0

    def __init__(self, folder, *rest, **options):
        self.data, self.jobs = TokenData.load(folder), []

    def __enter__(self):
        return self

    def __exit__(self, *rest):
        pass

    @property
    def pending(self):
        return len(self.jobs)

    def submit(self, key, spec, folder=None, *, validate=True, prune=None):
        self.jobs.append((key, spec, folder, validate, prune))

    def next(self, tick=None, timeout=None):
        key, spec, folder, validate, prune = self.jobs.pop(0)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return key, train(spec, self.data, folder, validate=validate, prune=prune)
        finally:
            torch.set_num_threads(threads)


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """What `rlrs search` does with a study whose search has these settings: what its arms found."""

    def search(settings):
        path = tmp_path / "study.yaml"
        path.write_text(STUDY.replace("search: {", "search: {method: local, " + settings + ", "))
        monkeypatch.setattr(kinds, "Processes", Here)
        monkeypatch.setattr(sys, "argv", ["rlrs", "search", str(path), "--out", str(tmp_path / "run")])
        found = {}
        keep = Stages.search
        monkeypatch.setattr(Stages, "search", lambda self: found.update(keep(self)) or found)
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return found

    return search


# A run is 20 steps or 6.5e7 FLOPs; the first batch of the local search is 3 runs, the others are 2.
@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "runs", "reason"),
    [
        ("max_steps: 119", 5, "the next runs would pass the budget of 119 training steps"),
        ("max_steps: 10", 3, "the next runs would pass the budget of 10 training steps"),
        ("max_flops: 4.5e8", 5, "the next runs would pass the budget of 4.5e+08 FLOPs"),
        ("max_hours: 1e-9", 3, "the next runs would pass the budget of 1e-09 hours of training"),
    ],
)
def test_a_search_ends_before_the_batch_that_would_pass_its_budget(searched, settings, runs, reason):
    searches = {arm: found.search for arm, found in searched(settings).items() if found.search is not None}
    assert set(searches) == {"uniform", "embedding_only", "constant", "rlrs"}
    for search in searches.values():
        assert len(search.trials) == runs
        assert search.reason == reason


def test_a_search_that_ends_at_a_bound_says_which_and_what_to_do(searched, caplog):
    # The start is the highest value there is, and a move of the local search would leave so narrow a range.
    found = searched("max_steps: 10, space: {final_fraction: {low: 0.044, high: 0.0444}}")
    [note] = [line for line in caplog.messages if "the search of rlrs" in line]
    advice = "widen search.space in a new study: {final_fraction: {high: 0.444}}"
    assert note == f"the search of rlrs ended at a bound: final_fraction=0.0444 (highest); to look beyond, {advice}"
    assert note.endswith(found["rlrs"].search.bounds_note)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with little room, and what makes it larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    yield folder, lambda: subprocess.run(["mount", "-o", "remount,size=50m", str(folder)], check=True)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # its database may still be open here


@pytest.mark.long
def test_a_full_disk_is_one_line_that_says_where_and_the_study_goes_on_when_there_is_room(
    small_disk, tmp_path, monkeypatch, capsys
):
    folder, enlarge = small_disk
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.replace("trials: 8", "trials: 3").replace("embedding_only, constant, ", ""))
    monkeypatch.setattr(kinds, "Processes", Here)

    def run(out):
        monkeypatch.setattr(sys, "argv", ["rlrs", "run", str(path), "--out", str(out)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, [n for n in capsys.readouterr().err.splitlines() if n.startswith("error: ")]

    code, said = run(folder / "run")
    assert (code, len(said)) == (2, 1)
    assert said[0].startswith(f"error: {folder / 'run'}")
    assert "No space left on device" in said[0]
    assert list(folder.rglob("*.tmp")) == []
    enlarge()
    assert run(folder / "run") == (0, [])
    assert run(tmp_path / "whole") == (0, [])
    assert same_end(folder / "run", tmp_path / "whole")
