"""The guard of a run: its lines are checked as it trains, and what was asked for is done about alarms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlrs.lr_scheduler import RelativeLR
from rlrs.monitoring.alarms import Alarm
from rlrs.monitoring.alerts import AlertLog, Alerts, AuditAlerts, JSONLinesAlerts
from rlrs.monitoring.checker import Checker
from rlrs.monitoring.guard import Action, Done, Guard
from rlrs.monitoring.observation import Observation, observation_of
from rlrs.monitoring.thresholds import Thresholds
from rlrs.records import MetricsLine
from rlrs.training.distributed import World
from rlrs.training.spec import RunSpec

ALARMS = "alarms.jsonl"
_CLOCKS = ("seconds", "tokens_per_second", "flops_per_second")
"""What of a line no action may depend on: a run that is resumed does the same."""


class RunGuard:
    """The checks of a run's lines, and the `Guard` that acts on their alarms; the same on every rank.

    Args:
        spec: of the run, which has a guard.
        scheduler: of the run.
        folder: of the run, for alarms.jsonl and audit.jsonl.
        world: the ranks; what rank 0 sees counts on all of them.
        rollback: goes back to a checkpoint of a step that is at most the given one; its step, or None.
    """

    def __init__(
        self,
        spec: RunSpec,
        scheduler: RelativeLR,
        folder: Path,
        world: World,
        rollback: Callable[[int], int | None],
    ) -> None:
        config = spec.guard
        assert config is not None
        actions: dict[str, Action] = {**config.actions}
        self._watch = Checker(Thresholds.model_validate(config.thresholds or {}))
        self._clip, self._world = spec.training.clip, world
        self.guard = Guard(
            scheduler,
            actions,
            rollback=rollback,
            pull=config.pull,
            smaller=config.smaller,
            skip=config.skip,
            lookback=config.lookback,
            pause=config.pause,
            most=config.most,
        )
        self._alerts: list[Alerts] = []
        if world.rank == 0:
            self._alerts = [AlertLog(), JSONLinesAlerts(folder / ALARMS), AuditAlerts(folder)]
        self._seen: list[tuple[Observation, list[Alarm]]] = []  # since the last `act`

    def look(self, line: Mapping[str, Any]) -> None:
        """Check a line of metrics.jsonl."""
        line = self._world.as_first({k: v for k, v in line.items() if k not in _CLOCKS})
        seen = observation_of(MetricsLine.model_validate(line), self._clip)
        self._seen.append((seen, self._watch.look(seen)))

    def diverged(self, step: int, value: float, reason: str) -> None:
        """Take in that a step cannot be used: a loss or norm that is no finite number, or a loss out of bounds."""
        alarm = self._watch.unusable(step, value)
        alarm = alarm.model_copy(update={"cause": f"{reason}: {alarm.cause}"})
        self._seen.append((Observation(step=step, loss=value), [alarm]))

    def act(self) -> Done | None:
        """Act on the alarms since the last time, and tell of them; None if nothing was done."""
        seen, self._seen = self._seen, []
        alarms = [alarm for _, of in seen for alarm in of]
        done = self.guard.react(alarms, self._watch.standing) if seen else None
        for number, (observation, raised) in enumerate(seen, start=1):
            told = [alarm for alarm in raised if done is None or alarm is not done.alarm]
            if done is not None and number == len(seen):
                told.append(done.alarm.model_copy(update={"action": done.sentence}))
            for alerts in self._alerts:
                alerts.tell(observation, told)
        if done is not None and done.step is not None:
            self._watch.restart()
        return done

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain data, the same on all ranks."""
        return {"watch": self._watch.state_dict(), "guard": self.guard.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; before the scheduler does."""
        self._watch.load_state_dict(state["watch"])
        self.guard.load_state_dict(state["guard"])
