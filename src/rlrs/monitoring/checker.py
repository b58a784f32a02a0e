"""Observations in, alarms out: the same in a loop and for a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlrs.messages import printable
from rlrs.monitoring.alarms import LOSS, Alarm, make_alarm
from rlrs.monitoring.checks import CHECKS
from rlrs.monitoring.observation import Observation, read_observations
from rlrs.monitoring.signals import Key, Signals
from rlrs.monitoring.thresholds import Thresholds
from rlrs.records import RecordError

QUIET = 10
"""Observations for which a check must be well before it is raised for the same component again. Chosen here."""


class Checker:
    """Checks observations one after another.

    Args:
        thresholds: of the checks.
    """

    def __init__(self, thresholds: Thresholds) -> None:
        self.thresholds = thresholds
        self.signals = Signals()
        self._since: dict[Key, int] = {}  # observations since the check was last beyond its threshold
        self.standing: list[Alarm] = []
        """Alarms that were raised before and that the last observation would raise too."""

    def look(self, seen: Observation) -> list[Alarm]:
        """The alarms that an observation raises: each check and component once, until it has been well for a while."""
        values = self.signals.update(seen)
        order = list(CHECKS)
        alarms, self.standing = [], []
        for key in sorted(values, key=lambda key: (order.index(key[0]), key[1] or "")):
            threshold = self.thresholds.get(*key)
            if threshold is None:
                continue
            if CHECKS[key[0]].beyond(values[key], threshold):
                raised = self.standing if key in self._since else alarms
                raised.append(self._named(make_alarm(key, seen.step, values[key], threshold, self.signals)))
                self._since[key] = 0
            elif key in self._since:
                self._since[key] += 1
                if self._since[key] >= QUIET:
                    del self._since[key]
        return alarms

    def unusable(self, step: int, value: float) -> Alarm:
        """The alarm of a step after which training cannot go on as it is, and of which nothing else was observed."""
        return self._named(make_alarm(("non_finite", None), step, value, 0.0, self.signals))

    def _named(self, alarm: Alarm) -> Alarm:
        """An alarm of the whole model with the component whose last update was beyond its threshold, if few were."""
        if alarm.component is not None or alarm.check not in (*LOSS, "non_finite"):
            return alarm
        last = self.signals.last("update_ratio_high")
        limits = {name: self.thresholds.get("update_ratio_high", name) for name in last}
        over = {name: last[name] / limit for name, limit in limits.items() if limit and last[name] > limit}
        if not over or 2 * len(over) > len(last):
            return alarm
        worst = max(sorted(over), key=lambda name: over[name])
        cause = f"the last update of {worst} was {over[worst]:.3g} times what it may be: its rate is too high"
        return alarm.model_copy(update={"component": worst, "cause": cause})

    def restart(self) -> None:
        """Forget all windows: the run goes on from other weights."""
        self.signals, self._since, self.standing = Signals(), {}, []

    def state_dict(self) -> dict[str, Any]:
        """Windows, and what was raised."""
        return {"signals": self.signals.state_dict(), "since": [[*key, n] for key, n in self._since.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.signals.load_state_dict(state["signals"])
        self._since = {(check, component): n for check, component, n in state["since"]}


def check_file(run: str | Path, thresholds: Thresholds | None = None) -> list[Alarm]:
    """The alarms of a run that is on disk, or still being written.

    Args:
        run: folder with a metrics.jsonl, or such a file.
        thresholds: of the checks; the defaults if None.

    Raises:
        RecordError: a damaged file, or one without a line; one line that names it.
        OSError: it cannot be read.
    """
    watch, empty = Checker(thresholds or Thresholds()), True
    alarms: list[Alarm] = []
    for seen in read_observations(run):
        alarms += watch.look(seen)
        empty = False
    if empty:
        raise RecordError(f"{printable(str(run))}: no line of metrics yet: nothing was checked")
    return alarms
