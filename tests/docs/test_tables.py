"""The tables in the documentation say what the committed results, and the command, say."""

import re
from pathlib import Path

from experiments.ablations import measure as ablations
from experiments.coverage import table as coverage
from experiments.found_components import table as found_components
from experiments.ladder import table as ladder
from experiments.learned import table as learned
from experiments.rollout import measure as rollout
from experiments.search_methods import table as search_methods
from tools import bad_data, bad_runs, evidence_tables, integrations_table, speed_tables

ROOT = Path(__file__).parents[2]


def assert_up_to_date(maker, *arguments):
    page = maker.DOCUMENT.read_text()
    assert maker.document(page, *arguments) == page, f"python -m {maker.__name__}"


def test_the_tables_of_speed_are_what_the_results_give():
    assert_up_to_date(speed_tables)
    assert speed_tables.DOCUMENT.read_text().count(speed_tables.END) == len(speed_tables.TABLES)
    assert len(speed_tables.memory().splitlines()) > 2 * len(speed_tables.THREADS)


def test_a_ratio_of_speeds_is_taken_round_by_round():
    ours, other = {"tokens_per_second": [10.0, 40.0, 90.0]}, {"tokens_per_second": [10.0, 20.0, 30.0]}
    assert speed_tables.ratios(ours, other) == (1.0, 2.0, 3.0)


def test_the_table_of_bad_runs_is_what_the_command_says():
    assert_up_to_date(bad_runs)
    assert len(bad_runs.BAD) >= 10


def test_the_table_of_bad_data_is_what_the_command_says():
    assert_up_to_date(bad_data)


def test_the_tables_of_search_methods_are_what_the_results_give():
    assert_up_to_date(search_methods)


def test_the_tables_of_coverage_are_what_the_results_give():
    assert_up_to_date(coverage)


def test_the_tables_of_ladders_are_what_the_results_give():
    assert_up_to_date(ladder)


def test_the_table_of_ablations_is_what_the_results_give():
    assert_up_to_date(ablations)


def test_the_tables_of_learned_ratios_are_what_the_results_give():
    assert_up_to_date(learned)


def test_the_tables_of_found_components_are_what_the_results_give():
    assert_up_to_date(found_components)


def test_the_tables_of_evidence_are_what_the_results_give():
    assert_up_to_date(evidence_tables)


def test_the_table_of_rollouts_is_what_the_results_give():
    assert_up_to_date(rollout)


def test_the_table_of_integrations_is_what_the_results_give():
    rows = integrations_table.committed()
    assert_up_to_date(integrations_table, rows)
    assert [row["trainer"] for row in rows] == [row.trainer for row in integrations_table.ROWS]
    cells = {cell for row in rows for cell in row["cells"].values()}
    assert not cells & {"**fails**", "not measured"}


def test_every_cell_of_the_table_of_integrations_is_a_test():
    for row in integrations_table.ROWS:
        source = (ROOT / "tests" / "integrations" / row.tests).read_text()
        for tests in row.cells.values():
            for test in (tests,) if isinstance(tests, str) else tests:
                assert re.search(rf"^def {test.partition('[')[0]}\(", source, re.MULTILINE), test


def test_every_example_adds_four_statements_or_fewer():
    examples = [row.example for row in integrations_table.ROWS if row.example]
    counts = {example: integrations_table.statements(example) for example in examples}
    assert {example: count for example, count in counts.items() if count not in range(1, 5)} == {}
