"""The committed table says what the committed results say, and every cell of it is a test that exists."""

import json
import re
import sys

import pytest
from running import EXAMPLES

ROOT = EXAMPLES.parent


@pytest.fixture
def maker(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    import benchmarks.integrations_table as maker

    yield maker
    sys.modules.pop("benchmarks.integrations_table")


def test_the_page_has_the_committed_results(maker):
    rows = json.loads((maker.RESULTS / "integrations.json").read_text())["rows"]
    page = maker.DOCUMENT.read_text()
    assert maker.document(page, rows) == page
    assert [row["trainer"] for row in rows] == [row.trainer for row in maker.ROWS]
    cells = {cell for row in rows for cell in row["cells"].values()}
    assert not cells & {"**fails**", "not measured"}


def test_every_cell_is_a_test(maker):
    for row in maker.ROWS:
        source = (ROOT / "tests" / "integrations" / row.tests).read_text()
        for tests in row.cells.values():
            for test in (tests,) if isinstance(tests, str) else tests:
                assert re.search(rf"^def {test.partition('[')[0]}\(", source, re.MULTILINE), test


def test_every_example_adds_four_statements_or_fewer(maker):
    counts = {row.example: maker.statements(row.example) for row in maker.ROWS if row.example}
    assert {example: count for example, count in counts.items() if not 1 <= count <= 4} == {}
