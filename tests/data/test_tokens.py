"""Batches: their windows, their order, their ranks."""

import numpy as np
import pytest
import torch

from rlrs.data import TokenData
from rlrs.settings import ConfigError


def counting(tokens=101, valid=41, length=4):
    """Windows that are known by their first token: 0, 4, 8, ..."""
    return TokenData(
        train=np.arange(tokens, dtype=np.uint16),
        valid=np.arange(valid, dtype=np.uint16),
        sequence_length=length,
        vocab_size=tokens,
        hash="0" * 12,
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
