"""The tables of docs/speed.md are what the committed results give."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def maker(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.speed.document as maker

    yield maker
    for name in [name for name in sys.modules if name.startswith("benchmarks.speed")]:
        sys.modules.pop(name)


def test_the_tables_are_what_the_results_give(maker):
    page = maker.DOCUMENT.read_text()
    assert maker.document(page) == page
    assert page.count(maker.END) == len(maker.TABLES)
    assert len(maker.memory().splitlines()) > 2 * len(maker.THREADS)


def test_a_ratio_is_taken_round_by_round(maker):
    ours, other = {"tokens_per_second": [10.0, 40.0, 90.0]}, {"tokens_per_second": [10.0, 20.0, 30.0]}
    assert maker.ratios(ours, other) == (1.0, 2.0, 3.0)
