"""Preparation: tokens that give back the text, used again when they may be, gone on with when it was killed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from corpora import both, config, documents_of, write_jsonl, write_packed, write_parquet

from rlrs.data import TokenData, prepare, shards
from rlrs.settings import ConfigError

preparation = sys.modules["rlrs.data.prepare"]


def files_of(folder):
    """What a finished preparation leaves, but for what it notes of this machine."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in ("notes.json", "lock")}


@pytest.fixture
def small(monkeypatch):
    """Several shards, batches and commits on little text."""
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1_000)
    monkeypatch.setattr(preparation, "BATCH", 2_000)
    monkeypatch.setattr(preparation, "COMMIT_TOKENS", 700)


def test_tokens_give_back_the_text_with_an_end_after_each_document(text, tmp_path):
    data = prepare(config(text), tmp_path / "data")
    originals = {path.read_text() for path in text.iterdir()}
    train, valid = (documents_of(tmp_path / "data", stream) for stream in ("train", "valid"))
    assert sorted([*train, *valid]) == sorted(originals)
    assert 0.1 < sum(map(len, valid)) / sum(map(len, originals)) <= 0.2
    assert data.summary["bytes"] == sum(map(len, originals))
    assert data.summary["files"] == data.summary["documents"] == 20
    assert data.summary["valid_documents"] == len(valid)
    assert data.summary["valid_bytes_per_token"] == sum(map(len, valid)) / data.valid_tokens


@pytest.mark.parametrize("tokenizer", ["bpe", "bytes"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"])
def test_the_same_documents_in_any_format_are_the_same_data(tmp_path, stories, name, tokenizer, small):
    write = write_parquet if name.endswith("parquet") else write_jsonl
    write(tmp_path / name, [*stories[:70], "", None, *stories[70:]])
    data = prepare(config(f"files:{tmp_path / name}", tokenizer=tokenizer), tmp_path / "data")
    assert both(tmp_path / "data") == sorted(stories)
    write_jsonl(tmp_path / "plain.jsonl", stories)
    plain = prepare(config(f"files:{tmp_path}/plain.jsonl", tokenizer=tokenizer), tmp_path / "plain")
    assert data.hash == plain.hash
    assert data.summary["documents"] == len(stories)


def test_compressed_text_is_the_same_data(text, tmp_path):
    for path in text.iterdir():
        write_packed(tmp_path / "packed" / f"{path.name}.gz", path.read_bytes())
    plain = prepare(config(text, valid_fraction=0.3), tmp_path / "a")
    packed = prepare(config(f"files:{tmp_path}/packed/*", valid_fraction=0.3), tmp_path / "b")
    assert packed.summary["bytes"] == plain.summary["bytes"]
    assert both(tmp_path / "b") == both(tmp_path / "a")


def test_prepared_data_is_used_again_and_loads_without_the_text(text, tmp_path):
    first = prepare(config(text), tmp_path / "data")
    before = (tmp_path / "data" / "train-00000.bin").stat().st_mtime_ns
    second = prepare(config(text), tmp_path / "data")
    assert (tmp_path / "data" / "train-00000.bin").stat().st_mtime_ns == before
    loaded = TokenData.load(tmp_path / "data")
    assert first.hash == second.hash == loaded.hash
    assert torch.equal(first.batch(0, 0, 4)[0], loaded.batch(0, 0, 4)[0])


def test_the_same_text_and_settings_give_the_same_files_in_another_place(text, tmp_path):
    for place in ("a", "b"):
        prepare(config(text), tmp_path / place)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize("settings", [{"vocab_size": 290}, {"valid_fraction": 0.4}, {"tokenizer": "bytes"}])
def test_other_settings_are_other_data(text, tmp_path, settings):
    first = prepare(config(text), tmp_path / "data").hash
    assert prepare(config(text, **settings), tmp_path / "data").hash != first
    assert prepare(config(text), tmp_path / "data").hash == first


def test_another_sequence_length_is_other_data_of_the_same_tokens(text, tmp_path):
    first = prepare(config(text), tmp_path / "data")
    before = (tmp_path / "data" / "train-00000.bin").stat().st_mtime_ns
    other = prepare(config(text, sequence_length=8), tmp_path / "data")
    assert (tmp_path / "data" / "train-00000.bin").stat().st_mtime_ns == before
    assert other.hash != first.hash
    assert other.batch(0, 0, 2)[0].shape == (2, 8)
    assert prepare(config(text), tmp_path / "data").hash == first.hash


def test_changed_text_is_prepared_anew(text, tmp_path):
    first = prepare(config(text), tmp_path / "data").hash
    (text / "3.txt").write_text("something else altogether\n" * 20)
    assert prepare(config(text), tmp_path / "data").hash != first


@pytest.mark.parametrize("name", ["tokenizer.json", "train-00000.bin", "valid-00000.bin", "data.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "flipped"])
def test_a_damaged_file_is_noticed_and_made_anew(text, tmp_path, name, damage):
    first = prepare(config(text), tmp_path / "data")
    path = tmp_path / "data" / name
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert prepare(config(text), tmp_path / "data").hash == first.hash
    assert path.read_bytes() == whole


def test_loading_a_folder_without_whole_data_says_what_to_do(text, tmp_path):
    with pytest.raises(ConfigError, match=r"no whole prepared data; prepare it"):
        TokenData.load(tmp_path)
    prepare(config(text), tmp_path / "data")
    (tmp_path / "data" / "valid-00000.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no whole prepared data"):
        TokenData.load(tmp_path / "data")


def test_a_vocabulary_is_no_larger_than_the_text_has_pairs_for(text, tmp_path):
    data = prepare(config(text, vocab_size=5_000), tmp_path / "data")
    assert 257 <= data.vocab_size < 1_000
    assert json.loads((tmp_path / "data" / "data.json").read_text())["summary"]["vocab_size"] == data.vocab_size


def test_a_vocabulary_is_learnt_from_a_bounded_sample_of_the_training_text(tmp_path, stories, monkeypatch):
    for number in range(4):
        write_jsonl(tmp_path / f"{number}.jsonl", [f"{story} in {number}" for story in stories])
    samples = []
    learn = preparation.learn
    monkeypatch.setattr(preparation, "learn", lambda texts, size: (samples.append(list(texts)), learn(texts, size))[1])
    for most in (10_000_000, 3_000):
        prepare(config(f"files:{tmp_path}/*.jsonl", vocab_sample=most), tmp_path / "data")
    whole, part = samples
    valid = documents_of(tmp_path / "data", "valid")
    assert sorted([*whole, *valid]) == sorted(f"{story} in {number}" for story in stories for number in range(4))
    assert 2_900 <= sum(map(len, part)) <= 3_000
    assert not set(part) & set(valid)
    for number in range(4):  # from every file about as much; the last document of each may be cut
        assert 550 <= sum(len(text) for text in part if text.endswith(f" in {number}")) <= 750


def test_shards_are_of_one_size_and_a_window_may_lie_across_them(text, tmp_path, small):
    whole = prepare(config(text), tmp_path / "data")
    sizes = [path.stat().st_size // 2 for path in sorted((tmp_path / "data").glob("train-*.bin"))]
    assert len(sizes) >= 4
    assert set(sizes[:-1]) == {1_000}
    train = np.concatenate(whole._train)
    one = TokenData(train=train, valid=train, sequence_length=16, vocab_size=300, hash="")
    for length in (16, 999, 1_000, 2_500):  # longer than a shard, too
        sharded = TokenData(train=whole._train, valid=whole._train, sequence_length=length, vocab_size=300, hash="")
        one = TokenData(train=train, valid=train, sequence_length=length, vocab_size=300, hash="")
        for step in range(8):
            assert torch.equal(sharded.batch(0, step, 7)[1], one.batch(0, step, 7)[1])


class Killed(BaseException):
    """As if the process ended here."""


def test_a_preparation_that_ends_at_any_moment_goes_on_and_gives_the_same_files(tmp_path, stories, small, monkeypatch):
    write_jsonl(tmp_path / "a.jsonl", stories)
    write_jsonl(tmp_path / "b.jsonl", stories[::3])
    settings = config(f"files:{tmp_path}/*.jsonl", tokenizer="bytes")
    monkeypatch.setattr(shards, "SHARD_TOKENS", 9_000)
    monkeypatch.setattr(preparation, "COMMIT_TOKENS", 6_000)
    prepare(settings, tmp_path / "whole")
    operations, tokenized = {"replace": os.replace, "fsync": lambda descriptor: None}, []
    count = 0

    def counted(name, limit):
        def call(*arguments):
            nonlocal count
            count += 1
            if count == limit:
                raise Killed
            return operations[name](*arguments)

        return call

    encode = preparation.Encoder.encode
    monkeypatch.setattr(
        preparation.Encoder, "encode", lambda self, texts: (tokenized.append(texts), encode(self, texts))[1]
    )
    for limit in range(1, 200):
        folder, count = tmp_path / f"killed-{limit}", 0
        tokenized.clear()
        with monkeypatch.context() as patch:
            for name in operations:
                patch.setattr(os, name, counted(name, limit))
            try:
                prepare(settings, folder)
                break
            except Killed:
                pass
            before = sum(map(len, tokenized))
            prepare(settings, folder)
        assert files_of(folder) == files_of(tmp_path / "whole"), limit
        repeated = sum(map(len, tokenized)) - 267
        assert repeated <= min(before, 70), limit  # what came after the last commit, and no more
    assert 40 < limit < 199, "too few moments, or too many for the test"


def test_a_killed_process_loses_seconds_and_not_the_preparation(tmp_path, stories):
    write_jsonl(tmp_path / "a.jsonl", stories * 50)
    code = (
        "import sys, time; from rlrs.data import prepare, shards; from rlrs.settings import DataConfig\n"
        "p = sys.modules['rlrs.data.prepare']; p.COMMIT_TOKENS, shards.SHARD_TOKENS = 5_000, 100_000\n"
        f"prepare(DataConfig(source='files:{tmp_path}/a.jsonl', vocab_size=300, sequence_length=16), sys.argv[1],"
        " lambda done, total: (time.sleep(float(sys.argv[2])), print(done, flush=True)))"
    )

    def start(folder, pause):
        return subprocess.Popen([sys.executable, "-c", code, folder, pause], stdout=subprocess.PIPE, text=True)

    first = start(tmp_path / "data", "0.05")
    while not (tmp_path / "data" / "train-00001.bin").exists() and first.poll() is None:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    told = [int(line) for line in first.communicate()[0].split()]
    assert not (tmp_path / "data" / "data.json").exists()
    second = start(tmp_path / "data", "0")
    again = [int(line) for line in second.communicate()[0].split()]
    assert second.returncode == 0
    assert again[0] > told[-1] - 100_000  # it does not begin at the beginning
    assert again[-1] == sum(len(story) for story in stories) * 50


def test_changed_text_or_settings_begin_again(tmp_path, stories, small, monkeypatch):
    path = write_jsonl(tmp_path / "a.jsonl", stories)
    settings = config(f"files:{path}", tokenizer="bytes")

    def stop(done, total):
        if done > 10_000:
            raise Killed

    for change in ({"valid_fraction": 0.3}, None):
        folder = tmp_path / f"data-{change}"
        with pytest.raises(Killed):
            prepare(settings, folder, stop)
        assert (folder / "progress.json").exists()
        if change is None:
            write_jsonl(path, stories[1:])
        later = settings.model_copy(update=change or {})
        told = []
        assert prepare(later, folder, lambda done, total: told.append(done)).hash  # noqa: B023
        assert told[0] < 3_000
        prepare(later, tmp_path / f"fresh-{change}")
        assert files_of(folder) == files_of(tmp_path / f"fresh-{change}")


def test_a_second_process_waits_for_the_first(tmp_path, text, caplog):
    import fcntl
    import threading

    folder = tmp_path / "data"
    folder.mkdir()
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=prepare, args=(config(text), folder))
        thread.start()
        thread.join(1)
        assert thread.is_alive()
        assert not (folder / "data.json").exists()
    thread.join(30)
    assert TokenData.load(folder).train_tokens
    assert "waiting for another process" in caplog.text


def test_progress_is_told_in_bytes_of_text(text, tmp_path, small):
    told = []
    data = prepare(config(text), tmp_path / "data", lambda done, total: told.append((done, total)))
    total = data.summary["bytes"]
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (total, total)
    assert len(told) > 3


def test_what_was_left_out_stands_in_the_summary(text, tmp_path):
    (text / "bad.txt").write_bytes(b"\xff\xff")
    with pytest.raises(ConfigError, match=r"bad\.txt: not UTF-8 text; mend it"):
        prepare(config(text), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    data = prepare(config(text, damaged="skip"), tmp_path / "data")
    assert data.summary["skipped"] == ["bad.txt: not UTF-8 text"]
    (text / "bad.txt").unlink()
    assert data.hash == prepare(config(text), tmp_path / "other").hash


def test_studies_that_name_one_folder_share_tokens_and_not_sequence_lengths(text, tmp_path):
    def of(study, **settings):
        return prepare(config(text, folder=str(tmp_path / "shared"), **settings), tmp_path / study)

    one, two = of("one"), of("two", sequence_length=8)
    (home,) = (tmp_path / "shared").glob("*/")
    before = (home / "train-00000.bin").stat().st_mtime_ns
    assert not list((tmp_path / "one").glob("*.bin"))
    assert one.hash == TokenData.load(tmp_path / "one").hash == prepare(config(text), tmp_path / "alone").hash
    assert TokenData.load(tmp_path / "one").sequence_length == 16  # the second study has changed nothing for the first
    assert two.hash == prepare(config(text, sequence_length=8), tmp_path / "alone").hash
    of("three", tokenizer="bytes")
    assert len(list((tmp_path / "shared").glob("*/"))) == 2
    assert of("one").hash == one.hash
    assert (home / "train-00000.bin").stat().st_mtime_ns == before
    (home / "train-00000.bin").unlink()
    with pytest.raises(ConfigError, match="no whole prepared data"):
        TokenData.load(tmp_path / "one")
    assert of("two", sequence_length=8).hash == two.hash
    assert TokenData.load(tmp_path / "one").hash == one.hash
