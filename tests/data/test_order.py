"""The order of windows: a permutation at any size, the same from every step, and without a pattern."""

import time

import numpy as np
import pytest

from rlrs.data import order
from rlrs.data.order import permute, window_order


def keys(seed=0):
    return np.random.SeedSequence([seed, 0]).generate_state(order.ROUNDS, np.uint64)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 97, 1_000, 2**12 - 1, 2**12, 2**12 + 1, 99_991])
def test_the_formula_is_a_permutation_of_any_size(size):
    assert np.array_equal(np.sort(permute(np.arange(size), size, keys())), np.arange(size))


def test_the_formula_has_no_pattern():
    size = 100_000
    image = permute(np.arange(size), size, keys())
    assert abs(np.corrcoef(np.arange(size), image)[0, 1]) < 0.02  # six standard deviations
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.02
    # Pairs of neighbours fall evenly on a grid of 20 x 20: chi-square of 399 degrees of freedom is 399 +- 28.
    cells = np.bincount((image[:-1] * 20 // size) * 20 + image[1:] * 20 // size, minlength=400)
    assert 399 - 170 < ((cells - (size - 1) / 400) ** 2 / ((size - 1) / 400)).sum() < 399 + 170
    assert (image == np.arange(size)).sum() < 10  # one fixed point is expected
    assert (image == permute(np.arange(size), size, keys(1))).sum() < 10


def test_a_small_epoch_is_numpys_permutation_and_a_large_one_needs_no_table(monkeypatch):
    table = np.random.default_rng([3, 1]).permutation(50)
    assert np.array_equal(window_order(50, 3, 60, 20), table[10:30])
    monkeypatch.setattr(order, "TABLE", 10)
    by_formula = window_order(50, 3, 0, 150).reshape(3, 50)
    assert np.array_equal(np.sort(by_formula), np.tile(np.arange(50), (3, 1)))
    assert not np.array_equal(by_formula[0], by_formula[1])
    assert np.array_equal(window_order(50, 3, 45, 10), by_formula.reshape(-1)[45:55])


def test_a_late_step_of_a_billion_windows_costs_no_more_than_the_first():
    start = time.perf_counter()
    late = window_order(10**9, 0, 7 * 10**9 - 512, 1_024)  # the end of an epoch and the beginning of the next
    assert time.perf_counter() - start < 1
    assert len(set(late[:512].tolist())) == len(set(late[512:].tolist())) == 512
    assert late.min() >= 0
    assert late.max() < 10**9
