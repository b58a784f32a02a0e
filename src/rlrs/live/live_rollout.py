"""A rollout's folder as the page shows it: where its stages stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlrs.audit import AuditError
from rlrs.live.growing import last_written, stamp
from rlrs.live.live_run import course_line
from rlrs.live.trails import TrailTail, in_words
from rlrs.messages import printable
from rlrs.rollout.declared import RolloutError
from rlrs.rollout.standing import SETTINGS, State, read_state
from rlrs.words import Words

_STATES = {"open": "running", "passed": "running", "failed": "failed", "waiting": "waiting", "signed": "finished"}


class LiveRollout:
    """A rollout, judged anew from its trail whenever that changes.

    Args:
        folder: of the rollout.
        words: of the page's language.
    """

    def __init__(self, folder: Path, words: Words) -> None:
        self.folder, self._words = folder, words
        self.trail = TrailTail(folder)
        self._state: State | None = None
        self._stamp: Any = None
        self._damage = ""

    def look(self) -> None:
        """Read what is new."""
        self.trail.look()
        found = stamp(*(self.folder / name for name in (SETTINGS, "audit.jsonl", "audit.sig")))
        if found == self._stamp:
            return
        self._stamp, self._damage = found, ""
        try:
            self._state = read_state(self.folder)
        except (RolloutError, AuditError, OSError, ValueError) as error:
            self._state, self._damage = None, printable(str(error), 300)

    def summary(self, now: float) -> dict[str, Any]:
        """What the list shows of it."""
        state = self._state
        current = state.current if state is not None else None
        status = current.status(True) if current is not None else "signed"
        done = sum(stage.signed_by is not None for stage in state.stages) if state is not None else 0
        return {
            "name": state.config.name if state is not None else self.folder.name,
            "state": _STATES[status] if state is not None else "failed",
            "why": "",
            "stage": current.name if current is not None else "",
            "step": done,
            "steps": len(state.stages) if state is not None else None,
            "loss": None,
            "written": round(last_written(self.folder / "audit.jsonl")),
            "alarms": len(self.trail.alarms),
        }

    def detail(self, now: float) -> dict[str, Any]:
        """All that the page shows of it."""
        stages = self._state.stages if self._state is not None else []
        current = self._state.current if self._state is not None else None
        return {
            "kind": "rollout",
            **self.summary(now),
            "path": str(self.folder),
            "stages": [
                {
                    "name": stage.name,
                    "status": self._words(f"live.rollout.{stage.status(stage is current)}"),
                    "pairs": stage.judgement.pairs if stage.judgement is not None else 0,
                    "looks": stage.looks,
                }
                for stage in stages
            ],
            "list": [in_words(alarm, self._words) for alarm in self.trail.alarms],
            "checked": False,
            "course": [course_line(entry) for entry in reversed(self.trail.entries)],
            "problems": [*filter(None, [self._damage]), *self.trail.problems],
        }
