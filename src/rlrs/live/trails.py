"""What the page takes of an audit trail and of files of alarms, entry by entry as they are written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rlrs.audit.entries import AuditEntry, AuditError, read_line
from rlrs.audit.trail import FILE
from rlrs.live.growing import GrowingFile
from rlrs.messages import printable
from rlrs.words import Words

ALARMS = "alarms.jsonl"
"""File of `JSONLinesAlerts` that the page looks for in a run's folder."""
_OF_AN_ALARM = ("check", "component", "step", "value", "threshold", "cause", "remedy", "action")
KEPT = 12
"""Last entries that are shown. Chosen here."""


class TrailTail:
    """The audit trail of a folder as it grows, and the alarms beside it.

    Args:
        folder: of a run or a study.
    """

    def __init__(self, folder: Path) -> None:
        self.trail = GrowingFile(folder / FILE)
        self._loose = GrowingFile(folder / ALARMS)
        self.course: AuditEntry | None = None
        """The last entry that says that something began, ended or failed."""
        self.entries: list[AuditEntry] = []
        """The last few, alarms left out: they have a list of their own."""
        self._noted: list[dict[str, Any]] = []
        self._loose_alarms: list[dict[str, Any]] = []
        self._damage: dict[str, str] = {}

    @property
    def problems(self) -> list[str]:
        """Files that cannot be read, one line each."""
        return list(self._damage.values())

    @property
    def alarms(self) -> list[dict[str, Any]]:
        """Alarms that were written down, each once, in the order of their steps."""
        found = {alarm_key(alarm): alarm for alarm in (*self._loose_alarms, *self._noted)}
        return sorted(found.values(), key=lambda alarm: alarm["step"] if isinstance(alarm["step"], int) else 0)

    def look(self) -> None:
        """Read what is new."""
        self._read(self.trail, self._take_entry, self._forget_trail)
        self._read(self._loose, self._take_alarm, self._loose_alarms.clear)

    def _read(self, file: GrowingFile, take: Any, forget: Any) -> None:
        name = str(file.path)
        self._damage.pop(f"{name}, unread", None)
        try:
            before = file.lines
            lines = file.look()
            if file.restarted:
                before = 0
                self._damage.pop(name, None)
                forget()
            for number, line in enumerate(lines, start=before + 1):
                if not line:
                    continue  # the end of one that was too long
                try:
                    take(line, f"{file.path}, line {number}")
                except (AuditError, ValueError, TypeError, AttributeError, RecursionError) as error:
                    self._damage.setdefault(name, printable(str(error), 300))
        except OSError as error:  # it may pass
            self._damage[f"{name}, unread"] = printable(f"{file.path}: {error}", 300)
        except ValueError as error:
            self._damage.setdefault(name, printable(str(error), 300))

    def _forget_trail(self) -> None:
        self.course = None
        self.entries.clear()
        self._noted.clear()

    def _take_entry(self, line: bytes, where: str) -> None:
        entry = read_line(line, where)
        if entry.kind == "alarm":
            self._noted.append(_alarm(entry.facts))
            return
        if entry.kind in ("begun", "resumed", "ended", "failed"):
            self.course = entry
        self.entries = [*self.entries[1 - KEPT :], entry]

    def _take_alarm(self, line: bytes, where: str) -> None:
        try:
            plain = json.loads(line)
        except ValueError:
            raise ValueError(f"{where}: not an alarm: not JSON") from None
        if not isinstance(plain, dict) or "check" not in plain:
            raise ValueError(f"{where}: not an alarm")
        self._loose_alarms.append(_alarm(plain))


def _alarm(plain: dict[str, Any]) -> dict[str, Any]:
    step = plain.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        raise ValueError(f"an alarm of {printable(str(plain.get('check')), 40)} without the step, a whole number")
    numbers = {name: _finite(plain.get(name)) for name in ("value", "threshold")}
    return {**{name: plain.get(name) for name in _OF_AN_ALARM}, **numbers, "recorded": True}


def _finite(value: Any) -> float | str | None:
    """A number that JSON can hold, or its text."""
    if value is None or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    return printable(str(value), 20)


def alarm_key(alarm: dict[str, Any]) -> tuple[str, str, str]:
    """By which an alarm is the same, wherever it was found."""
    return str(alarm["check"]), str(alarm["component"] or ""), str(alarm["step"])


def in_words(alarm: dict[str, Any], words: Words) -> dict[str, Any]:
    """An alarm with what was written down in English in the page's language."""
    texts = {name: words.recorded(text) for name in ("cause", "remedy", "action") if (text := alarm.get(name))}
    return {**alarm, **texts}


def entry_text(entry: AuditEntry) -> str:
    """An entry in one line, as it was written."""
    facts = entry.facts
    if entry.kind == "decision":
        return printable(f"{facts.get('decision')}: {facts.get('reason')}", 400)
    for name in ("message", "sentence", "error", "reason", "statement", "status", "hash", "study", "run", "arm"):
        if facts.get(name):
            return printable(str(facts[name]), 400)
    return ""
