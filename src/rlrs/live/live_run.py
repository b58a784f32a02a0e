"""One run's folder as the page shows it: state, progress, last numbers, curves, alarms."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlrs.audit.entries import AuditEntry
from rlrs.live.growing import GrowingFile, is_held, last_written, stamp
from rlrs.live.live_curves import RunCurves
from rlrs.live.trails import TrailTail, alarm_key, entry_text, in_words
from rlrs.messages import printable
from rlrs.monitoring.observation import METRICS, clip_of
from rlrs.monitoring.thresholds import Thresholds
from rlrs.records import MetricsLine, RecordError
from rlrs.records.frozen import first_problem, read_plain
from rlrs.words import Words

RUN_FILES = (METRICS, "run.json", "result.json")
SILENCE = 60.0
"""Seconds without a new line after which a run is stale, if ten of its usual gaps are not longer. Chosen here."""
GAPS = 10.0
_ENDED = {"finished": "finished", "pruned": "finished", "diverged": "failed", "failed": "failed"}


class LiveRun:
    """A run that trains, has trained, or will.

    Args:
        folder: of the run.
        words: of the page's language.
        thresholds: of the checks on its lines; None for no checks.
    """

    def __init__(self, folder: Path, words: Words, thresholds: Thresholds | None) -> None:
        self.folder, self._words, self._thresholds = folder, words, thresholds
        self._file = GrowingFile(folder / METRICS)
        self.trail = TrailTail(folder)
        self._curves = RunCurves(thresholds)
        self._asked: dict[str, Any] = {}
        self.result: dict[str, Any] = {}
        """What result.json says; empty before."""
        self._stamp: Any = ()
        self._damage: dict[str, str] = {}
        self._seen = False

    def look(self, *, follow: bool = True) -> None:
        """Read what is new.

        Args:
            follow: the lines of metrics too.
        """
        found = stamp(*(self.folder / name for name in RUN_FILES[1:]))
        if found != self._stamp:
            self._asked = self._plain("run.json")
            self.result = self._plain("result.json")
            self._stamp = found
        self.trail.look()
        if follow:
            self._lines()
        self._seen = self._seen or any(found) or self._file.there

    def _plain(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        self._damage.pop(name, None)
        try:
            plain = read_plain(path.read_bytes())
            if not isinstance(plain, dict):
                raise ValueError("not a mapping")
            return plain
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (OSError, ValueError) as error:
            self._damage[name] = printable(f"{path}: damaged: {error}", 300)
            return {}

    def _lines(self) -> None:
        number = self._file.lines
        self._damage.pop(f"{METRICS}, unread", None)
        try:
            lines = self._file.look()
        except OSError as error:  # it may pass
            self._damage[f"{METRICS}, unread"] = printable(f"{self._file.path}: {error}", 300)
            return
        except ValueError as error:
            self._damage.setdefault(METRICS, printable(str(error), 300))
            return
        if self._file.restarted or (number == 0 and lines):
            number = 0
            self._damage.pop(METRICS, None)
            self._curves = RunCurves(self._thresholds, self._clip())
        for line in lines:
            number += 1
            if not line:
                continue  # the end of one that was too long
            try:
                self._curves.take(MetricsLine.model_validate_json(line))
            except ValidationError as error:
                where = f"{self._file.path}, line {number}"
                self._damage.setdefault(METRICS, self._words("live.said.line", where=where, what=first_problem(error)))

    def _clip(self) -> float | None:
        try:
            return clip_of(self.folder / "run.json")
        except (RecordError, OSError):
            return None  # said by what reads the file

    @property
    def unread(self) -> bool:
        """Whether its lines were begun to be read, and more of them are there."""
        return self._file.left > 0

    @property
    def steps(self) -> int | None:
        """Optimizer steps that it was asked for."""
        steps = self._asked.get("steps")
        return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0 else None

    @property
    def written(self) -> float:
        """When one of its files was last written, seconds since the epoch."""
        return last_written(*(self.folder / name for name in (*RUN_FILES, "audit.jsonl")))

    def state(self, now: float) -> tuple[str, str]:
        """One of waiting, running, finished, failed, stale; and why, in a sentence or nothing.

        Args:
            now: seconds since the epoch.
        """
        said = self._words
        if self.result:
            status = str(self.result.get("status"))
            reason = printable(str(self.result.get("reason") or ""), 300)
            key = status if status in _ENDED else "failed"
            return _ENDED[key], "" if key == "finished" else said(f"live.ended.{key}", reason=reason or status)
        course = self.trail.course
        if course is not None and course.kind in ("ended", "failed"):
            state = "finished" if course.kind == "ended" else "failed"
            return state, entry_text(course) if state == "failed" else ""
        if not any(self._stamp or ()) and not self._file.there and course is None:
            return "waiting", said("live.said.gone") if self._seen else said("live.said.nothing")
        if is_held(self.folder / "lock"):
            return "running", ""
        quiet = now - self.written
        if quiet > max(SILENCE, GAPS * self._gap()):
            return "stale", said("live.said.stale", minutes=math.ceil(quiet / 60))
        return ("running", "") if self._file.there else ("waiting", said("live.said.no_line"))

    def _gap(self) -> float:
        """Usual seconds between two lines."""
        pace, lines = self._curves.seconds_per_step(), self._file.lines
        return pace * self._curves.last["step"] / lines if pace and lines else 0.0

    def summary(self, now: float) -> dict[str, Any]:
        """What the list shows of it."""
        state, why = self.state(now)
        last = self._curves.last
        done = last.get("step") or self.result.get("steps") or 0
        loss = self.result.get("valid_loss") or last.get("valid_loss", last.get("loss"))
        return {
            "name": self.folder.name or str(self.folder),
            "state": state,
            "why": why,
            "step": done,
            "steps": self.steps,
            "loss": loss if isinstance(loss, int | float) and math.isfinite(loss) else None,
            "written": round(self.written),
            "alarms": len(self.alarms()),
        }

    def detail(self, now: float) -> dict[str, Any]:
        """All that the page shows of it."""
        summary, last = self.summary(now), self._curves.last
        pace, left = self._curves.seconds_per_step(), None
        if summary["state"] == "running" and pace and self.steps:
            left = max(0.0, (self.steps - last["step"]) * pace)
        numbers = {name: last.get(name) for name in ("loss", "valid_loss", "grad_norm", "lr_base", "tokens_per_second")}
        numbers |= {"valid_loss": self.result.get("valid_loss") or numbers["valid_loss"], "seconds_left": left}
        return {
            "kind": "run",
            **summary,
            "path": str(self.folder),
            "numbers": {k: v if isinstance(v, int | float) and math.isfinite(v) else None for k, v in numbers.items()},
            "curves": self._curves.plain(),
            "list": self.alarms(),
            "checked": self._thresholds is not None,
            "course": [course_line(entry) for entry in reversed(self.trail.entries)],
            "problems": self.problems(summary["state"]),
        }

    def alarms(self) -> list[dict[str, Any]]:
        """Those that were written down, and those that checks of its lines raise here."""
        noted = self.trail.alarms
        known = {alarm_key(alarm) for alarm in noted}
        found = [*noted, *(alarm for alarm in self._curves.alarms if alarm_key(alarm) not in known)]
        found = [in_words(alarm, self._words) for alarm in found]
        return sorted(found, key=lambda alarm: alarm["step"] if isinstance(alarm["step"], int) else 0)

    def problems(self, state: str) -> list[str]:
        """What cannot be read, or not yet."""
        found = [*self._damage.values(), *self.trail.problems]
        if self._file.left:
            found.append(self._words("live.said.reading", share=f"{100 * self._file.share:.0f}"))
        if self._file.half and state != "running":
            found.append(self._words("live.said.half", bytes=self._file.half))
        return found


def course_line(entry: AuditEntry) -> dict[str, str]:
    """An entry of the trail as the page shows it."""
    return {"at": entry.at[:19].replace("T", " "), "kind": entry.kind, "by": entry.actor, "text": entry_text(entry)}
