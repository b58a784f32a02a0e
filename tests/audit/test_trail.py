"""Appending to an audit trail: what is kept, what is left out, and that nothing is lost."""

import errno
import fcntl
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import rfc8785
import torch

from audit_attacks import interleaved, killed, written
from rlrs import Ratios
from rlrs.audit import AuditError, Trail, digests, note
from rlrs.audit import trail as trail_module


def test_a_line_is_canonical_json_and_its_hash(tmp_path):
    entry = note(tmp_path, "x-step", loss=0.1, name="é\u2028", big=1e21)
    line = (tmp_path / "audit.jsonl").read_bytes()
    plain = json.loads(line)
    assert line == rfc8785.dumps(plain) + b"\n"
    assert plain["hash"] == entry.hash == hashlib.sha256(rfc8785.dumps(plain["entry"])).hexdigest()
    assert plain["entry"]["previous"] == "0" * 64


def test_each_entry_names_the_one_before(tmp_path):
    first, second = note(tmp_path, "x-a"), note(tmp_path, "x-b")
    assert (second.index, second.previous) == (1, first.hash)
    assert [entry.kind for entry in Trail(tmp_path / "audit.jsonl")] == ["x-a", "x-b"]


def test_a_second_beginning_is_a_resumption_and_both_say_what_code(tmp_path):
    kinds = [note(tmp_path, "begun", study="demo").kind for _ in range(2)]
    assert kinds == ["begun", "resumed"]
    assert all(entry.facts["environment"]["torch"] for entry in Trail(tmp_path))


def test_values_become_json(tmp_path):
    facts = {
        "ratios": Ratios({"embedding": (5.0, 0.5)}),
        "numpy": np.float32(0.5),
        "torch": torch.tensor(3),
        "path": Path("runs/a"),
        "pair": (1, 2),
        "names": {"b", "a"},
        "flops": 10**18,
        "loss": math.nan,
        "limit": -math.inf,
        "error": ValueError("no"),
        7: "a number as key",
    }
    kept = Trail(tmp_path).append("x-values", facts).facts
    assert kept == {
        "ratios": {"embedding": {"start": 5.0, "end": 0.5}},
        "numpy": 0.5,
        "torch": 3,
        "path": "runs/a",
        "pair": [1, 2],
        "names": ["a", "b"],
        "flops": "1000000000000000000",
        "loss": "NaN",
        "limit": "-Infinity",
        "error": "ValueError: no",
        "7": "a number as key",
    }
    assert [entry.facts for entry in Trail(tmp_path)] == [kept]


@pytest.mark.parametrize(
    ("kind", "facts", "said"),
    [
        ("decison", {}, "did you mean 'decision'?"),
        ("X-upper", {}, "or begins with x-"),
        ("decision", {"decision": "use"}, "audit entry 'decision': reason"),
        ("data", {"hash": 7}, "audit entry 'data': hash"),
        ("x-a", {"f": object()}, "facts.f': a object cannot be kept"),
        ("x-a", {"f": {1: 0, "1": 0}}, "two keys that are '1'"),
        ("x-a", {"f": "x" * (17 * 2**20)}, "keep a hash and a path"),
    ],
)
def test_what_cannot_be_kept_is_one_line_and_writes_nothing(tmp_path, kind, facts, said):
    with pytest.raises(AuditError) as caught:
        Trail(tmp_path).append(kind, facts)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    path = tmp_path / "audit.jsonl"
    assert not path.exists() or not path.read_bytes()


def test_too_deep_facts_are_refused(tmp_path):
    deep: list = []
    for _ in range(3000):
        deep = [deep]
    with pytest.raises(AuditError, match="nested more than 40 deep"):
        note(tmp_path, "x-a", deep=deep)


def test_headers_hooks_and_options_of_commands_are_secrets_too(tmp_path):
    note(
        tmp_path,
        "x-call",
        headers={"Authorization": "Bearer abcd1234", "Set-Cookie": "id=efgh5678"},
        webhook_url="https://hooks.example/T0/ijkl9012",
        command="train.py --hf-token mnop3456 --api-key=qrst7890 --end-token eot --max-tokens 512 --token uvwx1234",
    )
    text = (tmp_path / "audit.jsonl").read_text()
    for secret in ("abcd1234", "efgh5678", "ijkl9012", "mnop3456", "qrst7890", "uvwx1234"):
        assert secret not in text
    assert "--end-token eot --max-tokens 512 --token ***" in text


def test_secrets_are_left_out_wherever_they_stand(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghij")
    note(
        *(tmp_path, "x-settings"),
        storage="postgresql+psycopg://ann:p@ss/w0rd@db:5432/rlrs",
        error=RuntimeError("cannot reach mysql://u:geheim@h/d"),
        clone="https://ghp_12345@github.com/a/b",
        query="http://h/p?x=1&access_token=tok123&y=2",
        nested=[{"api_key": "sesame", "password": "open", "end_token": "<eot>", "train_tokens": 5}],
        message="header was hf_abcdefghij",
    )
    text = (tmp_path / "audit.jsonl").read_text()
    for secret in ("ss/w0rd", "geheim", "ghp_12345", "tok123", "sesame", '"open"', "hf_abcdefghij"):
        assert secret not in text
    (entry,) = Trail(tmp_path)
    assert entry.facts["storage"] == "postgresql+psycopg://ann:***@db:5432/rlrs"
    assert entry.facts["nested"][0]["end_token"] == "<eot>"
    assert entry.facts["nested"][0]["train_tokens"] == 5
    assert entry.facts["message"] == "header was $HF_TOKEN"


def test_the_actor_is_who_the_variable_says(tmp_path, monkeypatch):
    monkeypatch.setenv("RLRS_AUDIT_ACTOR", "Ann, pilot line")
    assert note(tmp_path, "x-a").actor == "Ann, pilot line"
    assert Trail(tmp_path).append("x-a", actor="Bo").actor == "Bo"
    monkeypatch.setenv("RLRS_AUDIT_ACTOR", "two\nlines")
    with pytest.raises(AuditError, match="RLRS_AUDIT_ACTOR should be a name"):
        note(tmp_path, "x-a")


def test_a_torn_end_is_set_aside_wherever_it_was_cut(tmp_path):
    lines, _ = written(tmp_path, 2)
    path = tmp_path / "audit.jsonl"
    for cut in range(1, len(lines[1]) - 1):
        path.write_bytes(lines[0] + lines[1][:cut])
        for aside in tmp_path.glob("audit.torn-*"):
            aside.unlink()
        if cut % 40 == 1:
            result = Trail(tmp_path).verify()
            assert result.intact
            assert "beginning of an entry" in result.notes[0]
            note(tmp_path, "x-after")
            kept = list(Trail(tmp_path))
            assert [entry.kind for entry in kept] == ["decision", "torn", "x-after"]
            assert (tmp_path / kept[1].facts["file"]).read_bytes() == lines[1][:cut]
            assert kept[1].facts["bytes"] == cut
            name = kept[1].facts["file"]
            said = f"entry 1: before it a write was cut off: {cut} bytes, half an entry, are in {name}"
            assert Trail(tmp_path).verify().notes == (said,)


def test_what_was_set_aside_and_is_gone_or_another_is_said(tmp_path):
    lines, _ = written(tmp_path, 2)
    (tmp_path / "audit.jsonl").write_bytes(lines[0] + lines[1][:50])
    note(tmp_path, "x-after")
    (aside,) = tmp_path.glob("audit.torn-*")
    aside.write_bytes(b"other")
    assert Trail(tmp_path).verify().notes[0].endswith("which is another now")
    aside.unlink()
    assert Trail(tmp_path).verify().notes[0].endswith("which cannot be read now")


def test_an_entry_that_lacks_its_line_break_alone_is_kept(tmp_path):
    lines, _ = written(tmp_path, 2)
    (tmp_path / "audit.jsonl").write_bytes(b"".join(lines)[:-1])
    assert note(tmp_path, "x-after").index == 2
    assert Trail(tmp_path).verify().intact


def test_a_trail_whose_last_entry_was_changed_is_not_appended_to(tmp_path):
    lines, _ = written(tmp_path, 2)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(lines).replace(b"go on 1", b"go on 7"))
    with pytest.raises(AuditError, match=r"its last entry: changed after it was written; `rlrs audit verify`"):
        note(tmp_path, "x-after")


def test_a_full_disk_leaves_the_trail_as_it_was_and_is_named(tmp_path, monkeypatch):
    lines, _ = written(tmp_path, 1)
    write = os.write
    budget = [10]

    def full(descriptor, data):
        if not budget[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(descriptor, data[: budget[0]])
        budget[0] -= done
        return done

    monkeypatch.setattr(trail_module.os, "write", full)
    with pytest.raises(OSError, match="No space left") as caught:
        note(tmp_path, "x-a")
    assert caught.value.filename == str(tmp_path / "audit.jsonl")
    assert (tmp_path / "audit.jsonl").read_bytes() == lines[0]


def test_a_file_system_without_locks_is_refused_by_name(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(AuditError, match=r"audit\.jsonl: its file system cannot lock files"):
        note(tmp_path, "x-a")


def test_a_trail_that_is_held_for_too_long_is_one_line(tmp_path, monkeypatch):
    note(tmp_path, "x-a")
    monkeypatch.setattr(trail_module, "PATIENCE", 0.05)
    with (tmp_path / "audit.jsonl").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(AuditError, match="locked by another process"):
            note(tmp_path, "x-b")
    assert note(tmp_path, "x-b").index == 1


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        note(tmp_path / "none", "x-a")
    assert str(tmp_path / "none") in caught.value.filename


def test_writers_at_once_lose_and_mix_nothing():
    result = interleaved(4, 25)
    assert result["whole"]
    assert result["entries"] == 100


def test_a_writer_killed_at_random_moments_loses_nothing_that_it_acknowledged():
    result = killed(10, seed=1)
    assert result["acknowledged"] >= 10
    assert result["lost"] == 0
    assert result["intact"]


def test_digests_are_of_the_files_that_are_there(tmp_path):
    (tmp_path / "ratios.yaml").write_bytes(b"abc")
    assert digests(tmp_path, "ratios.yaml", "none.json") == {"ratios.yaml": hashlib.sha256(b"abc").hexdigest()}


def test_noting_changes_no_random_state(tmp_path):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    note(tmp_path, "begun")
    assert torch.equal(before, torch.get_rng_state())
