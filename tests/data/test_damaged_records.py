"""Files of ours that were changed: each is read as it was, or named in one line; never taken for another."""

import copy
import json
import random
import re

import pytest
from corpora import config

from rlrs.data import TokenData, prepare, shards
from rlrs.data.stock import Notes
from rlrs.settings import ConfigError

OTHERS = [None, True, -1, 0, 3, 1.5, 10**30, float("nan"), float("inf"), "", "x" * 50, "\udc80", [], {}, [1], {"a": 1}]


def places(value, path=()):
    """Paths of everything in a JSON document."""
    yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from places(value[number], (*path, number))


def mutate(text, chance):
    """A document of JSON with one thing changed: dropped, of another type, nested deeply, added, or cut off."""
    kind = chance.choice(["drop", "change", "nest", "add", "near", "cut", "flip", "digits"])
    if kind == "cut":
        return text[: chance.randrange(len(text))]
    if kind == "flip":
        at = chance.randrange(len(text))
        return text[:at] + chr(ord(text[at]) ^ (1 << chance.randrange(7))) + text[at + 1 :]
    plain = json.loads(text)
    path = chance.choice([path for path in places(plain) if path])
    parent = plain
    for key in path[:-1]:
        parent = parent[key]
    value = parent[path[-1]]
    if kind == "drop":
        del parent[path[-1]]
    elif kind == "add":
        parent = parent if isinstance(parent, dict) else plain
        parent["another"] = copy.deepcopy(chance.choice(OTHERS))
    elif kind == "near" and isinstance(value, (int, float)):
        parent[path[-1]] = value + chance.choice([-1, 1, 0.5])
    elif kind == "nest":
        mark, depth = "a mark to replace", chance.choice([50, 150, 5_000, 100_000])
        parent[path[-1]] = mark
        return json.dumps(plain).replace(f'"{mark}"', "[" * depth + "]" * depth)
    elif kind == "digits":
        parent[path[-1]] = mark = "a mark to replace"
        return json.dumps(plain).replace(f'"{mark}"', "1" * chance.choice([20, 400, 5_000]))
    else:
        parent[path[-1]] = copy.deepcopy(chance.choice(OTHERS))
    return json.dumps(plain)


def mutations(path, count, seed):
    """The file, changed in so many ways one after another; as it was in the end."""
    whole, chance = path.read_text(), random.Random(seed)
    for _ in range(count):
        path.write_text(mutate(whole, chance), errors="surrogatepass")
        yield path.read_bytes()
    path.write_text(whole)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 2_000)


def check_data_json(folder, count, seed):
    """Load mutations of data.json; how many were as before, how many refused."""
    whole = TokenData.load(folder)
    seen = {"equal": 0, "refused": 0}
    for content in mutations(folder / "data.json", count, seed):
        try:
            data = TokenData.load(folder)
        except ConfigError as error:
            message = str(error)
            assert re.match(rf"{re.escape(str(folder))}(/data\.json)?: ", message), (message, content)
            assert "\n" not in message, content
            assert len(message) < 500, content
            assert "prepare" in message or "of a later rlrs" in message, (message, content)
            seen["refused"] += 1
        else:
            same = ("summary", "hash", "sequence_length", "vocab_size", "train_tokens", "valid_tokens")
            assert all(getattr(data, name) == getattr(whole, name) for name in same), content
            seen["equal"] += 1
    return seen


def test_a_changed_data_json_is_read_as_it_was_or_refused_in_one_line(text, tmp_path, small):
    prepare(config(text), tmp_path / "data")
    seen = check_data_json(tmp_path / "data", 300, seed=1)
    assert seen["refused"] > 200
    assert seen["equal"] > 0  # white space, the key of a null


def test_preparing_over_a_changed_data_json_gives_the_same_data_again(text, tmp_path, small, caplog):
    folder = tmp_path / "data"
    first = prepare(config(text, tokenizer="bytes"), folder).hash
    whole = TokenData.load(folder).summary
    for content in mutations(folder / "data.json", 8, seed=2):
        assert prepare(config(text, tokenizer="bytes"), folder).hash == first, content
        assert TokenData.load(folder).summary == whole
    assert f"made anew: {folder}/data.json: damaged: " in caplog.text


def test_changed_notes_are_said_and_not_believed(text, tmp_path, caplog):
    folder = tmp_path / "data"
    first = prepare(config(text, tokenizer="bytes"), folder).hash
    known = Notes.load(folder / "notes.json").known
    for content in mutations(folder / "notes.json", 60, seed=3):
        assert Notes.load(folder / "notes.json").known in (known, {}), content
        assert "\n" not in caplog.messages[-1] if caplog.messages else True
    plain = json.loads((folder / "notes.json").read_text())
    for note in plain["files"].values():
        if isinstance(note["value"], dict):
            note["value"]["bytes"] = 7
    (folder / "notes.json").write_text(json.dumps(plain))
    assert prepare(config(text, tokenizer="bytes"), folder).hash == first
    assert "notes.json: damaged: it is not as it was written" in caplog.text


def test_changed_progress_begins_again(tmp_path, text, monkeypatch, caplog):
    import sys

    preparation = sys.modules["rlrs.data.prepare"]
    monkeypatch.setattr(preparation, "COMMIT_TOKENS", 1_000)
    monkeypatch.setattr(preparation, "BATCH", 1_000)
    folder, settings = tmp_path / "data", config(text, tokenizer="bytes")
    whole = prepare(settings, tmp_path / "whole").hash

    class Killed(BaseException):
        pass

    def stop(done, total):
        if done > 8_000:
            raise Killed

    with pytest.raises(Killed):
        prepare(settings, folder, stop)
    progress = (folder / "progress.json").read_text()
    chance = random.Random(4)
    for number in range(4):
        with pytest.raises(Killed):
            prepare(settings, folder, stop)
        (folder / "progress.json").write_text(
            progress.replace('"piece": ', '"piece": 1') if number == 0 else mutate(progress, chance),
            errors="surrogatepass",
        )
        told = []
        assert prepare(settings, folder, lambda done, total: told.append(done)).hash == whole  # noqa: B023
        (folder / "data.json").unlink()
    assert "progress.json: damaged: it is not as it was written" in caplog.text
