"""The order of training windows: a permutation per epoch that needs no memory, whatever the number of windows.

Shape suffixes: N samples.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TABLE = 2**21
"""Up to this many windows an epoch's order is a shuffled table (16 MiB, a fifth of a second); above, a formula."""

ROUNDS = 8
"""Of the formula. Three make a cipher of a good mixing function (Luby and Rackoff, 1988); ours is a plain one."""


def window_order(windows: int, seed: int, first: int, count: int) -> NDArray[np.int64]:
    """Windows [N] of the samples `first` to `first + count - 1` of an endless stream.

    Sample n is in epoch n // windows; every epoch holds each window once, in an order of its own. A pure function of
    the arguments.

    Args:
        windows: how many there are, 1 or more.
        seed: of the order, 0 or more.
        first: samples before these.
        count: samples N.
    """
    number_N = np.arange(first, first + count)
    order_N = np.empty(count, dtype=np.int64)
    for epoch in range(first // windows, (first + count - 1) // windows + 1):
        here = number_N // windows == epoch
        place_N = number_N[here] % windows
        order_N[here] = (
            _table(windows, seed, epoch)[place_N] if windows <= TABLE else permute(place_N, windows, _keys(seed, epoch))
        )
    return order_N


def permute(place_N: NDArray[np.int64], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Images of places 0 to `size - 1` under a pseudo-random permutation of them.

    A Feistel network on pairs (left, right) of Z_a x Z_b, a * b >= size, a and b near its root: each round adds to one
    half a function of the other, which can be undone. A result of `size` or more is put in again until it is below
    (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002); that is less than one in a.

    Args:
        place_N: places.
        size: how many places there are, below 2**62.
        keys: one per round; an even number.
    """
    a = np.uint64(math.isqrt(size - 1) + 1)
    b = np.uint64(-(-size // int(a)))
    value_N = place_N.astype(np.uint64)
    out_N = np.arange(len(value_N))  # those not yet below size
    while len(out_N):
        left_N, right_N = value_N[out_N] % a, value_N[out_N] // a
        for key_left, key_right in keys.reshape(-1, 2):
            left_N = (left_N + _mix(right_N ^ key_left) % a) % a
            right_N = (right_N + _mix(left_N ^ key_right) % b) % b
        value_N[out_N] = left_N + a * right_N
        out_N = out_N[value_N[out_N] >= size]
    return value_N.astype(np.int64)


def _mix(value_N: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele et al., 2014); products wrap."""
    value_N = (value_N ^ (value_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value_N = (value_N ^ (value_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value_N ^ (value_N >> np.uint64(31))


@lru_cache(maxsize=64)
def _keys(seed: int, epoch: int) -> NDArray[np.uint64]:
    return np.random.SeedSequence([seed, epoch]).generate_state(ROUNDS, np.uint64).astype(np.uint64)


@lru_cache(maxsize=4)
def _table(windows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(windows)
