"""Preparation, its cache, and the order of batches."""

import json

import numpy as np
import pytest
import torch

from rlrs.config import ConfigError, DataConfig
from rlrs.data import TokenData, prepare
from rlrs.data.tokenizer import END_OF_TEXT, encode, train_tokenizer


def counting(tokens=101, valid=41, length=4):
    """Windows that are known by their first token: 0, 4, 8, ..."""
    return TokenData(
        train=np.arange(tokens, dtype=np.uint16),
        valid=np.arange(valid, dtype=np.uint16),
        sequence_length=length,
        vocab_size=tokens,
        hash="0" * 12,
    )


@pytest.fixture
def text(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number}.txt").write_text(f"the cat number {number} sat on the mat {number * number}\n" * 20)
    return folder


def config(text, **settings):
    return DataConfig(
        **{"source": f"files:{text}/*.txt", "vocab_size": 300, "sequence_length": 16, "valid_fraction": 0.2} | settings
    )


def test_targets_are_the_tokens_after_the_inputs():
    inputs_BT, targets_BT = counting().batch(seed=0, step=0, batch_size=3)
    assert inputs_BT.shape == (3, 4)
    assert inputs_BT.dtype == targets_BT.dtype == torch.int64
    assert torch.equal(targets_BT, inputs_BT + 1)
    assert (inputs_BT[:, 0] % 4 == 0).all()


def test_every_window_comes_once_per_epoch_and_epochs_differ():
    data = counting()  # 25 windows: 5 batches of 5
    epochs = [[data.batch(7, 5 * epoch + step, 5)[0][:, 0] for step in range(5)] for epoch in range(2)]
    first, second = (torch.cat(epoch).tolist() for epoch in epochs)
    assert sorted(first) == sorted(second) == list(range(0, 100, 4))
    assert first != second
    assert first != sorted(first)


def test_an_epoch_may_end_within_a_batch():
    data = counting()  # 25 windows: the third batch of 10 has 5 of each epoch
    stream = torch.cat([data.batch(7, step, 10)[0][:, 0] for step in range(5)]).tolist()
    assert sorted(stream[:25]) == sorted(stream[25:]) == list(range(0, 100, 4))


def test_the_order_does_not_depend_on_what_was_read_before_or_on_the_batch_size():
    data, again = counting(), counting()
    for step in (9, 0, 4):
        again.batch(3, step, 5)
    assert torch.equal(data.batch(7, 3, 6)[0], again.batch(7, 3, 6)[0])
    assert torch.equal(data.batch(7, 0, 6)[0], torch.cat([data.batch(7, step, 3)[0] for step in range(2)]))
    assert not torch.equal(data.batch(7, 3, 6)[0], data.batch(8, 3, 6)[0])


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_the_ranks_batches_one_after_another_are_the_batch_of_one_process(world):
    data = counting()
    for step in (0, 3, 4, 1_000):  # 25 windows: the fifth batch of 6 ends the first epoch
        whole = data.batch(7, step, 6)
        parts = [data.batch(7, step, 6, rank, world) for rank in range(world)]
        assert torch.equal(torch.cat([inputs_BT for inputs_BT, _ in parts]), whole[0])
        assert torch.equal(torch.cat([targets_BT for _, targets_BT in parts]), whole[1])


@pytest.mark.parametrize(
    ("rank", "world", "message"),
    [(0, 4, "batch_size=6 sequences cannot be shared evenly by 4"), (2, 2, "rank=2 should be from 0 to 1")],
)
def test_a_batch_that_processes_cannot_share_is_refused(rank, world, message):
    with pytest.raises(ValueError, match=message):
        counting().batch(0, 0, 6, rank, world)


def test_the_validation_sample_is_fixed_and_spread_over_the_split():
    data = counting()  # 10 validation windows, from 0 to 36
    batches = data.valid_batches(2, tokens=17)  # 17 tokens are two batches of 2 x 4
    assert [inputs_BT[:, 0].tolist() for inputs_BT, _ in batches] == [[0, 12], [24, 36]]
    assert len(data.valid_batches(2, tokens=10_000)) == 5


@pytest.mark.parametrize(("batch_size", "tokens"), [(11, 10_000), (2, 7)])
def test_less_than_one_validation_batch_is_refused(batch_size, tokens):
    with pytest.raises(ConfigError, match=f"one validation batch of {batch_size} x 4"):
        counting().valid_batches(batch_size, tokens)


def test_too_little_text_for_one_sequence_is_refused():
    with pytest.raises(ConfigError, match="4 validation tokens are too few for one sequence"):
        counting(valid=4)


def test_tokens_give_back_the_text_with_an_end_after_each_document(text, tmp_path):
    data = prepare(config(text), tmp_path / "data")
    train = np.fromfile(tmp_path / "data" / "train.bin", dtype="<u2")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tmp_path / "data" / "tokenizer.json"))
    decoded = tokenizer.decode(train.tolist(), skip_special_tokens=False).split(END_OF_TEXT)
    originals = {path.read_text() for path in text.iterdir()}
    assert decoded[-1] == ""
    assert set(decoded[:-1]) < originals
    assert len(train) == data.train_tokens
    assert data.summary["bytes"] == sum(len(original) for original in originals)
    assert data.summary["files"] == 20


def test_the_mark_in_a_text_is_text():
    tokenizer = train_tokenizer(["some text"], 300)
    (tokens,) = encode(tokenizer, [f"a {END_OF_TEXT} b"])
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert tokens[-1] == end
    assert tokens.count(end) == 1


def test_prepared_data_is_used_again_and_loads_without_the_text(text, tmp_path):
    first = prepare(config(text), tmp_path / "data")
    before = (tmp_path / "data" / "train.bin").stat().st_mtime_ns
    second = prepare(config(text), tmp_path / "data")
    assert (tmp_path / "data" / "train.bin").stat().st_mtime_ns == before
    loaded = TokenData.load(tmp_path / "data")
    assert first.hash == second.hash == loaded.hash
    assert torch.equal(first.batch(0, 0, 4)[0], loaded.batch(0, 0, 4)[0])


def test_the_same_text_and_settings_give_the_same_files_in_another_place(text, tmp_path):
    for place in ("a", "b"):
        prepare(config(text), tmp_path / place)
    for name in ("tokenizer.json", "train.bin", "valid.bin", "data.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize("settings", [{"vocab_size": 290}, {"sequence_length": 8}, {"valid_fraction": 0.4}])
def test_other_settings_are_other_data(text, tmp_path, settings):
    first = prepare(config(text), tmp_path / "data").hash
    assert prepare(config(text, **settings), tmp_path / "data").hash != first
    assert prepare(config(text), tmp_path / "data").hash == first


def test_changed_text_is_prepared_anew(text, tmp_path):
    first = prepare(config(text), tmp_path / "data").hash
    (text / "3.txt").write_text("something else altogether\n" * 20)
    assert prepare(config(text), tmp_path / "data").hash != first


@pytest.mark.parametrize("name", ["tokenizer.json", "train.bin", "valid.bin", "data.json"])
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
    (tmp_path / "data" / "valid.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no whole prepared data"):
        TokenData.load(tmp_path / "data")


def test_a_vocabulary_is_no_larger_than_the_text_has_pairs_for(text, tmp_path):
    data = prepare(config(text, vocab_size=5_000), tmp_path / "data")
    assert 257 <= data.vocab_size < 1_000
    assert json.loads((tmp_path / "data" / "data.json").read_text())["summary"]["vocab_size"] == data.vocab_size
