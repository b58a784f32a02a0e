"""`Guard`: acts on alarms of chosen checks. Opt-in; without one a monitor only observes."""

from __future__ import annotations

import copy
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rlrs.lr_scheduler import RelativeLR
from rlrs.messages import shown
from rlrs.monitoring.alarms import Alarm
from rlrs.monitoring.checks import CHECKS
from rlrs.ratios import BASE, Ratio, Ratios

Action = Literal["warn", "pull", "uniform", "rollback", "stop"]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a guard did about an alarm."""

    sentence: str
    step: int | None = None
    """The step that the run goes on from, after a rollback."""
    stop: bool = False


class Guard:
    """Does something about alarms: the same on every rank, as alarms are, and the same again for the same alarms.

    | action | what it does |
    | --- | --- |
    | `warn` | nothing but the alarm |
    | `pull` | the component's ratios go towards 1, to their power `pull`; all components' where none is named |
    | `uniform` | all ratios are 1 from here on |
    | `rollback` | the last good checkpoint, and base peak rates times `smaller` from there |
    | `stop` | the monitor's `stopped` is set, and the loop should end |

    Args:
        scheduler: whose rates it changes.
        actions: check -> action, for the checks that it should act on.
        rollback: loads the newest checkpoint of a step that is at most the given one, scheduler included, and returns
            its step; None if there is none. `Snapshots.restore` is one. Called on every rank.
        pull: power of the ratios, between 0 (at once 1) and 1.
        smaller: factor of the base peak rates after a rollback.
        lookback: steps before the alarm at which a checkpoint is thought to be good: what went wrong began before it
            showed.
        pause: steps after an action in which no other is taken (but for `non_finite`): the last one needs time.
        most: actions in a run; the next one is a stop.

    Raises:
        ValueError: a check or action that there is not, a rollback without a callback, or a number out of range.

    Examples:
        >>> import torch, rlrs
        >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
        >>> optimizer = torch.optim.AdamW(rlrs.param_groups(model, {"embedding": 4.0}, lr=1e-3))
        >>> scheduler = rlrs.RelativeLR(optimizer, {"embedding": 4.0}, total_steps=20, final_fraction=0.1)
        >>> guard = Guard(scheduler, {"loss_rise": "pull"})
        >>> alarm = Alarm(check="loss_rise", component="embedding", step=9, value=1, threshold=0.5, cause="", remedy="")
        >>> guard.react(alarm).sentence
        'ratios of embedding to the power 0.5: 4 -> 2 at the start, 4 -> 2 at the end'
        >>> scheduler.relative_rates()["embedding"]
        2.0
    """

    def __init__(
        self,
        scheduler: RelativeLR,
        actions: Mapping[str, Action],
        *,
        rollback: Callable[[int], int | None] | None = None,
        pull: float = 0.5,
        smaller: float = 0.5,
        lookback: int = 30,
        pause: int = 50,
        most: int = 3,
    ) -> None:
        for check, action in actions.items():
            if check not in CHECKS:
                raise ValueError(f"no check {shown(check)}; should be one of {', '.join(CHECKS)}")
            if action not in get_args(Action):
                raise ValueError(f"{check}: no action {shown(action)}; should be one of {', '.join(get_args(Action))}")
            if action == "rollback" and rollback is None:
                raise ValueError(f"{check}: 'rollback' needs rollback=, which loads a checkpoint")
        for name, value, top in (("pull", pull, 1), ("smaller", smaller, 1)):
            if not 0 <= value < top:
                raise ValueError(f"{name}={value} should be 0 or more, and below {top}")
        for name, count in (("lookback", lookback), ("pause", pause), ("most", most)):
            if count < 0:
                raise ValueError(f"{name}={count} should be 0 or more")
        self.scheduler, self.actions, self.rollback = scheduler, dict(actions), rollback
        self.pull, self.smaller = pull, smaller
        self.lookback, self.pause, self.most = lookback, pause, most
        self._ratios = Ratios(scheduler.ratios)
        self._peaks: dict[str, float] = dict(scheduler.state_dict()["base_lrs"])
        self._changed = False
        self._last: int | None = None
        self.taken: list[dict[str, Any]] = []
        """Every action: step, check, component, action, what."""

    def react(self, alarm: Alarm) -> Done | None:
        """Act on an alarm; None if there is nothing to do about it."""
        action = self.actions.get(alarm.check)
        if action is None or action == "warn":
            return None
        waiting = self._last is not None and alarm.step - self._last < self.pause
        if waiting and alarm.check != "non_finite" and action != "stop":
            return None
        if len(self.taken) >= self.most and action != "stop":
            done = Done(sentence=f"stopped: {self.most} actions were taken before", stop=True)
        else:
            done = self._act(action, alarm)
        self._last = alarm.step if done.step is None else done.step
        self.taken.append(
            {
                "step": alarm.step,
                "check": alarm.check,
                "component": alarm.component,
                "action": "stop" if done.stop else action,
                "what": done.sentence,
            }
        )
        return done

    def _act(self, action: Action, alarm: Alarm) -> Done:
        if action == "pull":
            return self._pull(alarm.component)
        if action == "uniform":
            self._ratios = Ratios(dict.fromkeys(self._ratios, 1.0))
            self._apply()
            return Done(sentence="all ratios are 1 from here on")
        if action == "rollback":
            return self._roll_back(alarm)
        return Done(sentence="stopped", stop=True)

    def _pull(self, component: str | None) -> Done:
        names = list(self._ratios) if component is None else [component]
        apart = [name for name in names if self._ratios.get(name, BASE).knots != BASE.knots]
        if not apart:
            return Done(sentence=f"nothing to pull: {component or 'every component'} has the ratio 1")
        said = []
        ratios = dict(self._ratios)
        for name in apart:
            old = ratios[name]
            new = ratios[name] = Ratio(tuple((at, _power(value, self.pull)) for at, value in old.knots))
            said.append(f"{old.start:.3g} -> {new.start:.3g} at the start, {old.end:.3g} -> {new.end:.3g} at the end")
        self._ratios = Ratios(ratios)
        self._apply()
        return Done(sentence=f"ratios of {', '.join(apart)} to the power {self.pull:g}: {'; '.join(said)}")

    def _roll_back(self, alarm: Alarm) -> Done:
        assert self.rollback is not None
        with warnings.catch_warnings():
            # The scheduler's state speaks of ratios and peaks of its time; those of now are written below.
            warnings.filterwarnings("ignore", message="RelativeLR.load_state_dict")
            step = self.rollback(max(0, alarm.step - self.lookback))
        if step is None:
            return Done(sentence=f"stopped: no checkpoint of step {alarm.step - self.lookback} or before", stop=True)
        self._peaks = {name: peak * self.smaller for name, peak in self._peaks.items()}
        self._apply()
        return Done(sentence=f"back to step {step}, base peak rates times {self.smaller:g}", step=step)

    def _apply(self) -> None:
        self._changed = True
        self.scheduler.change(self._ratios, self._peaks)

    def state_dict(self) -> dict[str, Any]:
        """Ratios and peaks as they are now, and what was done: plain data."""
        return {
            "ratios": {name: [list(knot) for knot in ratio.knots] for name, ratio in self._ratios.items()},
            "peaks": dict(self._peaks),
            "changed": self._changed,
            "last": self._last,
            "taken": copy.deepcopy(self.taken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, and write its rates. Load it before the scheduler's own state."""
        self._ratios = Ratios({name: Ratio(tuple(map(tuple, knots))) for name, knots in state["ratios"].items()})
        self._peaks, self._last = dict(state["peaks"]), state["last"]
        self.taken = copy.deepcopy(state["taken"])
        if state["changed"]:
            self._apply()


class Snapshots:
    """The last few states of a run in memory, for `Guard(rollback=snapshots.restore)` where checkpoints are too rare.

    Each takes as much memory as model and optimizer; a run that has checkpoints on disk gives a function that loads
    those instead.

    Args:
        parts: with `state_dict` and `load_state_dict`, in the order in which they are loaded: model, optimizer,
            scheduler, ...
        every: steps between two snapshots.
        keep: how many are kept.
    """

    def __init__(self, *parts: Any, every: int = 50, keep: int = 3) -> None:
        if every < 1 or keep < 1:
            raise ValueError(f"{every=} and {keep=} should be 1 or more")
        self._parts, self._every, self._keep = parts, every, keep
        self._taken: OrderedDict[int, list[Any]] = OrderedDict()

    def take(self, step: int) -> None:
        """After a step: a snapshot, if one is due."""
        if step % self._every == 0:
            self._taken[step] = [copy.deepcopy(part.state_dict()) for part in self._parts]
            while len(self._taken) > self._keep:
                self._taken.popitem(last=False)

    def restore(self, step: int) -> int | None:
        """Load the newest snapshot of at most this step, and forget the later ones; its step."""
        for taken in [one for one in self._taken if one > step]:
            del self._taken[taken]
        if not self._taken:
            return None
        newest = next(reversed(self._taken))
        for part, state in zip(self._parts, self._taken[newest], strict=True):
            part.load_state_dict(copy.deepcopy(state))
        return newest


def _power(value: float, power: float) -> float:
    """A ratio of 0 stays: its component is frozen on purpose."""
    return math.pow(value, power) if value > 0 else value
