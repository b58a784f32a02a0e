"""What a study cost and what it saves, in every unit that is known: the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass

from rlrs.comparison import Quantity
from rlrs.report import text
from rlrs.report.summary import Head


@dataclass(frozen=True)
class UnitRow:
    """A row: its name, then cells in the order of `UNITS`; a dash where a unit is not known.

    Args:
        name: what it is about.
        cells: numbers, as they are shown.
        source: place in results.json of what they were made from.
    """

    name: str
    cells: list[str]
    source: str


def units(head: Head) -> list[str]:
    """Units with a column: those in which anything is known."""
    account = head.account
    known = {"steps": True, "tokens": account.run.tokens, "flops": account.run.flops, "hours": account.run.hours}
    machine = {"machine_hours": account.run.machine_hours, "money": account.run.money}
    return [name for name, value in {**known, **machine}.items() if value is not None]


def unit_rows(head: Head) -> dict[str, list[str] | list[UnitRow]]:
    """Columns and rows: the stages, one run of the target, and what a run saves against each control."""
    words, account, names = head.words, head.account, units(head)
    machine = account.machine.name if account.machine is not None else ""

    def row(name: str, amount: Quantity, source: str) -> UnitRow:
        return UnitRow(name, [_cell(head, unit, amount) for unit in names], source)

    rows = [row(words(f"units.{stage}"), spent, f"cost.{stage}") for stage, spent in account.stages.items()]
    rows.append(row(words("units.total"), account.total, "cost"))
    rows.append(row(words("units.run"), account.run, "models.target"))
    place = "speed_up" if head.arm == "rlrs" else "winner_speed_up"
    for control in head.controls:
        saved = head.saved[control]
        if not head.shown(control):
            continue
        low, high = max(saved.low, 0.0), min(saved.high, 1.0)
        ends = [_cells(head, names, account.run * share) for share in (low, high)]
        cells = [
            words("units.with_range", value=value, range=words.span(least, most))
            if saved.bound != "lower"
            else f"\N{GREATER-THAN OR EQUAL TO} {value}"
            for value, least, most in zip(_cells(head, names, account.run * saved.mean), *ends, strict=True)
        ]
        name = words("units.saved", control=words.way(control))
        rows.append(UnitRow(name, cells, f"comparison.{place}.{control}"))
    return {"columns": [words(f"units.column.{name}", machine=machine) for name in names], "rows": rows}


def _cells(head: Head, names: list[str], amount: Quantity) -> list[str]:
    return [_cell(head, unit, amount) for unit in names]


def _cell(head: Head, unit: str, amount: Quantity) -> str:
    value = getattr(amount, unit)
    if value is None:
        return text.NONE
    if unit in ("hours", "machine_hours"):
        return head.words.duration(3600 * value)
    if unit == "money":
        assert head.account.machine is not None
        return head.words.money(value, head.account.machine.currency)
    return text.count(value) if unit == "steps" else f"{value:.2e}" if unit == "flops" else text.compact(round(value))
