"""The page says what the command says."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def maker(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.bad_runs as maker

    yield maker
    sys.modules.pop("benchmarks.bad_runs")


def test_the_table_of_bad_configurations_is_what_they_say(maker):
    page = maker.DOCUMENT.read_text()
    assert maker.document(page) == page
    assert len(maker.BAD) >= 10
