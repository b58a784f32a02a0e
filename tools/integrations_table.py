"""The table of docs/integrations.md, from the real runs of tests/integrations.

    python -m tools.integrations_table [test_torchtitan.py ...]

Every cell is a test; what it measured (`record_property("measured", ...)`) is what the cell says. A test that is
skipped, its extra not being installed, or whose file is not among those named, keeps the cell of the run before. Raw
results go to tools/results/integrations.json.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.pairs import write

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
DOCUMENT = ROOT / "docs" / "integrations.md"
BEGIN, END = "<!-- table: python -m tools.integrations_table -->", "<!-- end of table -->"
COLUMNS = {
    "rates": "rates at every step, against the formula",
    "resume": "resumed against uninterrupted",
    "log": "names in the log",
    "distributed": "two processes",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trainer.

    Args:
        trainer: as the table names it.
        package: whose version the table gives; its name on the package index.
        example: in examples/, if there is one; lines that end in `# +` are the statements added or changed.
        tests: file in tests/integrations.
        cells: column -> test in that file, as pytest writes it, or several.
    """

    trainer: str
    package: str
    example: str | None
    tests: str
    cells: dict[str, str | tuple[str, ...]]


_FORMULA = "test_every_rate_is_the_formulas"
_RESUME = "test_a_resumed_run_is_the_uninterrupted_one"
_TWO = "test_two_processes_have_the_rates_of_one"
ROWS = (
    Row(
        trainer="transformers `Trainer`",
        package="transformers",
        example="transformers_trainer.py",
        tests="test_transformers.py",
        cells={
            "rates": "test_every_logged_rate_is_the_formulas",
            "resume": _RESUME,
            "log": "test_the_log_has_the_rates_that_the_optimizer_used",
            "distributed": _TWO,
        },
    ),
    Row(
        trainer="TRL `SFTTrainer` with a PEFT adapter",
        package="trl",
        example="peft_finetune.py",
        tests="test_peft.py",
        cells={
            "rates": "test_every_adapter_has_the_rate_of_the_component_it_adapts",
            "resume": _RESUME,
            "log": "test_the_log_has_the_adapted_components",
            "distributed": _TWO,
        },
    ),
    Row(
        trainer="Accelerate",
        package="accelerate",
        example="accelerate_loop.py",
        tests="test_accelerate.py",
        cells={"rates": f"{_FORMULA}_while_gradients_accumulate", "resume": _RESUME, "distributed": _TWO},
    ),
    Row(
        trainer="PyTorch Lightning",
        package="lightning",
        example="lightning_module.py",
        tests="test_lightning.py",
        cells={
            "rates": f"{_FORMULA}[lightning_module]",
            "resume": f"{_RESUME}[lightning_module]",
            "log": "test_the_learning_rate_monitor_shows_components",
            "distributed": f"{_TWO}[lightning_module]",
        },
    ),
    Row(
        trainer="Fabric",
        package="lightning",
        example="fabric_loop.py",
        tests="test_lightning.py",
        cells={
            "rates": f"{_FORMULA}[fabric_loop]",
            "resume": f"{_RESUME}[fabric_loop]",
            "distributed": f"{_TWO}[fabric_loop]",
        },
    ),
    *(
        Row(
            trainer=trainer,
            package="torch",
            example=f"{example}.py",
            tests="test_distributed.py",
            cells={
                "rates": f"{_FORMULA}[{example}]",
                "resume": (f"{_RESUME}[{example}]", f"test_resume_on_another_number_of_ranks[{example}]"),
                "distributed": f"test_all_ranks_have_the_rates_of_a_single_process[{example}]",
            },
        )
        for trainer, example in (
            ("DistributedDataParallel", "ddp"),
            ("FSDP2, `torch.distributed.checkpoint`", "fsdp2"),
        )
    ),
    Row(
        trainer="torchtitan's `LRSchedulersContainer`",
        package="torchtitan",
        example=None,
        tests="test_torchtitan.py",
        cells={"rates": _FORMULA, "resume": _RESUME, "log": "test_the_log_has_components"},
    ),
)


def statements(example: str | None) -> int | None:
    """How many statements of an example are marked as added or changed."""
    if example is None:
        return None
    lines = (ROOT / "examples" / example).read_text().splitlines()
    return sum(line.rstrip().endswith("# +") for line in lines)


def measure(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Test -> (passed, failed or skipped; what it measured), from one run of pytest over these test files."""
    files = [f"tests/integrations/{name}" for name in names]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = [f"--junitxml={report}", "-o", "junit_family=xunit1"]  # the newer format has no properties of tests
        subprocess.run([sys.executable, "-m", "pytest", *files, *options], cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))
    outcomes = {}
    for case in cases:
        state = next((s for s in ("failure", "error", "skipped") if case.find(s) is not None), "passed")
        measured = [p.get("value", "") for p in case.iter("property") if p.get("name") == "measured"]
        name = f"{case.get('classname', '').rpartition('.')[2]}.py::{case.get('name')}"
        outcomes[name] = (state, measured[0] if measured else "yes")
    return outcomes


def results(rows: Iterable[Row], outcomes: dict[str, tuple[str, str]], before: list[dict[str, Any]]) -> list[dict]:
    """Plain data of all rows; a cell whose test did not run keeps what it said before."""
    old = {row["trainer"]: row for row in before}
    made = []
    for row in rows:
        previous = old.get(row.trainer, {})
        cells = {}
        for column, tests in row.cells.items():
            found = [
                outcomes.get(f"{row.tests}::{test}", ("skipped", ""))
                for test in ((tests,) if isinstance(tests, str) else tests)
            ]
            states = {state for state, _ in found}
            if "skipped" in states:
                cells[column] = previous.get("cells", {}).get(column, "not measured")
            else:
                cells[column] = "; ".join(text for _, text in found) if states == {"passed"} else "**fails**"
        made.append(
            {
                "trainer": row.trainer,
                "package": row.package,
                "version": _version(row.package) or previous.get("version"),
                "example": row.example,
                "statements": statements(row.example),
                "cells": cells,
            }
        )
    return made


def _version(package: str) -> str | None:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def table(rows: list[dict[str, Any]]) -> str:
    """The table, in Markdown."""
    head = ["trainer", "version", "statements added or changed", *COLUMNS.values()]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        name = f"[{row['trainer']}](../examples/{row['example']})" if row["example"] else row["trainer"]
        count = "" if row["statements"] is None else str(row["statements"])
        cells = (row["cells"].get(column, "") for column in COLUMNS)
        lines.append([name, f"{row['package']} {row['version']}", count, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document(text: str, rows: list[dict[str, Any]]) -> str:
    """The page with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def committed() -> list[dict[str, Any]]:
    """The rows of the last measurement."""
    path = RESULTS / "integrations.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def main() -> None:
    files = sys.argv[1:] or sorted({row.tests for row in ROWS})
    rows = results(ROWS, measure(files), committed())
    print(write("integrations", rows, RESULTS))
    DOCUMENT.write_text(document(DOCUMENT.read_text(), rows))
    print(table(rows))
    if any("**fails**" in cell for row in rows for cell in row["cells"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
