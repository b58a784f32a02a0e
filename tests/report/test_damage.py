"""A results.json, a metrics.jsonl or a ratios.yaml that was damaged: one line, or what it said before; no traceback."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sample import write_committed, write_sample

from rlrs.comparison import read_results
from rlrs.ratios import Ratios, RatiosError
from rlrs.records import Recipe, RecordError, read_metrics, write_results
from rlrs.report import ReportError, write_report

DEMO = Path(__file__).parents[2] / "experiments" / "demo" / "demo_local_search.json"
EXAMPLES = int(os.environ.get("RLRS_MUTATIONS", "40"))
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 0.0, -0.5, 1e300, 10**400, "", "x", "rlrs", [], {}, [[]], {"a": 1}, "\x1b[0m\n\u202e",
    "y" * 5000, [0, 1], [[0.0, 1.0]], float("nan"), float("inf"),
]  # fmt: skip
mutated = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)


def places(plain: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value that can be changed."""
    if at:
        yield at
    if isinstance(plain, dict | list):
        for key in plain if isinstance(plain, dict) else range(len(plain)):
            yield from places(plain[key], (*at, key))


def changed(text: str, seed: int) -> bytes:
    """The text with one thing done to it: a value exchanged, moved, left out or doubled, or bytes."""
    chance = random.Random(seed)
    if chance.random() < 0.25:
        data = bytearray(text.encode())
        place = chance.randrange(len(data))
        kind = chance.randrange(4)
        if kind == 0:
            return bytes(data[:place])
        if kind == 1:
            data[place] = chance.randrange(256)
            return bytes(data)
        if kind == 2:
            return bytes(data[:place] + b"[" * chance.choice([1, 50, 100_000]) + data[place:])
        return bytes(data[:place] + data[place : place + 40] + data[place:])
    plain = json.loads(text)
    *above, last = chance.choice(list(places(plain)))
    part = plain
    for key in above:
        part = part[key]
    kind = chance.randrange(4)
    if kind == 0:
        del part[last]
    elif kind == 1 and isinstance(part, dict):
        part[str(last) + chance.choice(["", "x", "\n", "é"])] = part.pop(last)
    elif kind == 2 and isinstance(part[last], int | float) and not isinstance(part[last], bool):
        part[last] *= chance.choice([-1, 0, 0.5, 2, 10, 1e9])
    else:
        part[last] = chance.choice(ODD)
    return json.dumps(plain).encode()


def one_line(error: Exception, start: Path | str) -> None:
    said = str(error)
    assert said.startswith(str(start))
    assert said.isprintable()
    assert len(said) < len(str(start)) + 500


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_committed(DEMO, tmp_path_factory.mktemp("demo") / "run")


@pytest.fixture(scope="module")
def today(demo: Path) -> str:
    """The same results as they are written now."""
    path = demo.parent / "today.json"
    write_results(path, read_results(demo / "results.json"))
    return path.read_text()


@mutated
@given(seed=st.integers(0, 2**32))
def test_a_mutated_results_file_says_the_same_or_is_one_line(tmp_path: Path, today: str, seed: int) -> None:
    path = tmp_path / "results.json"
    path.write_text(today)
    before = read_results(path)
    path.write_bytes(changed(today, seed))
    try:
        assert read_results(path) == before
    except RecordError as error:
        one_line(error, path)


@mutated
@given(seed=st.integers(0, 2**32))
def test_a_mutated_results_file_of_schema_1_is_read_or_is_one_line(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(changed(DEMO.read_text(), seed))
    try:
        assert read_results(path).comparison is not None
    except RecordError as error:
        one_line(error, path)


@settings(mutated, max_examples=max(6, EXAMPLES // 20))  # a page takes longer
@given(seed=st.integers(0, 2**32))
def test_a_mutated_results_file_of_schema_1_is_reported_on_or_is_one_line(demo: Path, seed: int) -> None:
    path = demo / "results.json"
    path.write_bytes(changed(DEMO.read_text(), seed))
    try:
        write_report(demo)
    except ReportError as error:
        one_line(error, demo)


def test_keys_in_another_order_and_more_space_change_nothing(tmp_path: Path, today: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(today)
    before = read_results(path)
    path.write_text(json.dumps(json.loads(today), indent=7, sort_keys=True))
    assert read_results(path) == before


def test_a_changed_number_is_not_silently_another_result(tmp_path: Path, today: str) -> None:
    path = tmp_path / "results.json"
    plain = json.loads(today)
    plain["comparison"]["losses"]["rlrs"]["mean"] += 0.001
    path.write_text(json.dumps(plain))
    with pytest.raises(RecordError, match="does not go with its checksum"):
        read_results(path)


LINE = {
    "step": 10,
    "tokens": 2048,
    "loss": 3.1,
    "lr_base": 1e-3,
    "grad_norm": 1.0,
    "seconds": 1.5,
    "tokens_per_second": 17_000.0,
    "flops_per_second": 1e9,
    "components": {"embedding": {"lr": 5e-3, "ratio": 5.0, "grad_norm": 0.5, "update_ratio": 1e-3}},
    "router": {"load": [0.5, 0.5], "dropped": 0.0, "entropy": 0.69},
}


@mutated
@given(seed=st.integers(0, 2**32))
def test_a_mutated_line_of_metrics_is_named_by_its_number(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(json.dumps(LINE).encode() + b"\n" + changed(json.dumps(LINE), seed).replace(b"\n", b" ") + b"\n")
    try:
        lines = list(read_metrics(path))
        assert lines[0].components["embedding"].ratio == 5.0
    except RecordError as error:
        one_line(error, f"{path}, line 2: not a line of metrics: ")


def test_a_report_on_damaged_metrics_names_file_and_line(tmp_path: Path) -> None:
    write_sample(tmp_path)
    path = tmp_path / "runs" / "rlrs-102-600" / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": -1, "tokens": 5, "valid_loss": 3.0}\n')
    with pytest.raises(ReportError, match=r"metrics\.jsonl, line 12: .*step: should be at least"):
        write_report(tmp_path)


PROVENANCE = {
    "study": "demo",
    "base": {"lr": 8e-3, "final_fraction": 0.2, "warmup_fraction": 0.01, "schedule": "cosine", "weight_decay": 0.1},
    "target": {"lr": 4e-3},
    "horizon": {"steps": 160},
}


@mutated
@given(seed=st.integers(0, 2**32))
def test_a_mutated_provenance_gives_a_recipe_or_one_line(seed: int) -> None:
    plain = changed(json.dumps(PROVENANCE), seed)
    try:
        provenance = yaml.safe_load(plain)
    except (ValueError, yaml.YAMLError, RecursionError):  # the reader of YAML's own
        return
    if not isinstance(provenance, dict):
        return
    try:
        recipe = Recipe.from_ratios(Ratios({"embedding": (5, 1)}, provenance), Recipe(lr=1e-3))
        assert 0 < recipe.lr < float("inf")
    except (RecordError, RatiosError) as error:
        one_line(error, "provenance.")
