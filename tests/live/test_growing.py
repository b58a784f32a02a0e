"""Files that grow under the reader: half lines, cut-back files, thinned curves, locks."""

import fcntl
import itertools
import math
import os
import sys
from pathlib import Path

import pytest

from rlrs.live.growing import MOST, GrowingFile, is_held
from rlrs.live.live_curves import POINTS, ThinnedCurve


def test_a_half_written_line_waits_and_nothing_is_read_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = GrowingFile(path)
    found = []
    text = b"first\nsecond\nthird\n"
    for end in range(1, len(text) + 1):
        path.write_bytes(text[:end])
        found += file.look()
        assert file.half == len(text[:end].rpartition(b"\n")[2])
    assert found == [b"first", b"second", b"third"]
    assert not file.restarted


@pytest.mark.parametrize("now", [b"1\n2\n", b"1\n2\nother\n4\n5\n", b"x\n2\n3\n"])
def test_a_file_that_was_cut_back_or_replaced_is_read_again_even_where_it_is_longer_by_now(tmp_path, now):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"1\n2\n3\n")
    file = GrowingFile(path)
    assert file.look() == [b"1", b"2", b"3"]
    path.write_bytes(now)
    assert file.look() == now.split()
    assert file.restarted
    path.unlink()
    assert file.look() == []
    assert (file.restarted, file.there, file.lines) == (True, False, 0)


def test_a_big_file_is_read_look_by_look(tmp_path):
    path = tmp_path / "metrics.jsonl"
    line = b"x" * 999 + b"\n"
    count = 2 * MOST // 1000 + 10
    path.write_bytes(line * count)
    file = GrowingFile(path)
    sizes = []
    while len(sizes) < 10:
        sizes.append(len(file.look()))
        if not file.left:
            break
        assert 0 < file.share < 1
    assert sum(sizes) == count
    assert len(sizes) == 3


def test_an_endless_line_is_an_error_that_names_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"x" * (MOST + 1))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: longer than"):
        GrowingFile(path).look()


def test_what_comes_behind_a_line_that_is_too_long_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"1\n" + b"x" * (2 * MOST + 10) + b"\n3\n4\n")
    file = GrowingFile(path)
    found, said = [], []
    for _ in range(5):
        try:
            found += file.look()
        except ValueError as error:
            said.append(str(error))
    assert found == [b"1", b"", b"3", b"4"]  # an empty one in the place of what was left out
    assert len(said) == 1
    assert "line 2: longer than 4,194,304 bytes; it is left out" in said[0]
    assert (file.lines, file.left, file.half) == (4, 0, 0)


def test_a_thinned_curve_keeps_gaps_and_the_highest_and_lowest_value():
    curve = ThinnedCurve()
    for step in range(50_000):
        curve.add(step, {12_345: 99.0, 23_456: -99.0, 34_567: math.nan}.get(step, 1.0))
    points = dict(curve.points())
    assert len(points) <= POINTS + 2
    assert (points[12_345], points[23_456], points[34_567]) == (99.0, -99.0, None)
    steps = list(points)
    assert steps == sorted(steps)
    widest = max(b - a for a, b in itertools.pairwise(steps))
    assert widest <= 256  # the beginning is as fine as the end


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/locks is Linux's")
def test_a_lock_is_seen_and_not_touched(tmp_path):
    lock = tmp_path / "lock"
    assert not is_held(lock)
    with open(lock, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if str(os.stat(lock).st_ino) not in Path("/proc/locks").read_text():
            pytest.skip("this file system's locks are not listed by their files")
        assert is_held(lock)
    assert not is_held(lock)
