"""Results of experiments: rows in one file, and nothing lost of what they were made from."""

import hashlib
import json
import re

import pyarrow as pa
import pytest

from experiments import rows
from experiments.method_proxy import store as method_proxy
from experiments.search_methods import store as search_methods

SCHEMA = pa.schema([("commit", pa.string()), ("seed", pa.int64()), ("params", pa.map_(pa.string(), pa.float64()))])


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_rows_come_back_as_they_were_written(tmp_path):
    written = [{"commit": "a", "seed": 1, "params": {"lr": 0.1, "beta1": 0.9}}, {"commit": "b", "seed": 2}]
    rows.write(tmp_path / "rows.parquet", written, SCHEMA)
    assert rows.read(tmp_path / "rows.parquet", SCHEMA) == written


def test_a_value_without_a_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="row 1: no column for loss"):
        rows.write(tmp_path / "rows.parquet", [{"seed": 1}, {"seed": 2, "loss": 0.5}], SCHEMA)
    assert not (tmp_path / "rows.parquet").exists()


def test_a_file_with_other_columns_is_refused(tmp_path):
    rows.write(tmp_path / "rows.parquet", [{"seed": 1}], SCHEMA)
    with pytest.raises(ValueError, match="columns"):
        rows.read(tmp_path / "rows.parquet", pa.schema([("seed", pa.string())]))


def test_every_row_has_commit_and_seed_and_a_method_or_arm():
    for row in search_methods.load():
        assert row["commit"]
        assert {"seed", "method"} <= row.keys()
    for row in method_proxy.load():
        assert row["commit"]
        assert "seed" in row
        assert row["kind"] == "fit" or row["arm"]


def test_the_trials_of_search_methods_are_the_json_lines_that_were_recorded():
    """The digest is that of the 81 files of JSON lines that results.parquet took the place of, joined by name."""
    searches = search_methods.searches(search_methods.load())
    files = {
        re.sub("[^a-z0-9]+", "-", name) + ".jsonl": "".join(json.dumps(line) + "\n" for line in (head, *trials))
        for name, (head, trials) in searches.items()
    }
    assert len(files) == 81
    digest = sha256("".join(files[name] for name in sorted(files)))
    assert digest == "534c0910d3f219229431cb6331eb6d3b0b58e2b22af0a00a5aabac5ad69ca699"


def test_rows_of_the_method_proxy_are_the_records_that_they_were_made_from():
    """The digest is of the records of the four JSON files that results.parquet took the place of, numbers as floats."""
    found = method_proxy.load()
    record = [method_proxy.arms(found), method_proxy.given_up(found), list(method_proxy.fits(found))]
    digest = sha256(json.dumps(record, sort_keys=True))
    assert digest == "50d57388fb64f943530df189d992475112b61308e5ef4770eae825f5f80f36c3"


def test_replacing_a_search_leaves_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(search_methods, "RESULTS", tmp_path / "results.parquet")
    head = {"search": "moe/random/0", "whole_steps": 96, "stopped": "budget", "params": ["lr"], "best": [0.1]}
    trial = {"n": 0, "at": [0.1], "steps": 96, "status": "pruned", "score": None, "move": "start"}
    trial |= {"limits": [[24, None], [48, 4.5]], "rungs": [4.9, 4.6]}
    for name in ("moe/random/0", "moe/random/1"):
        made = search_methods.search_rows(head | {"search": name}, [trial], "abc")
        search_methods.replace([name], ("search", "trial"), made)
    search_methods.replace(["moe/random/1"], ("search", "trial"), [])
    assert search_methods.searches(search_methods.load()) == {"moe/random/0": (head, [trial])}
