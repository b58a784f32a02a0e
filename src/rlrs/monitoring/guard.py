"""`Guard`: acts on alarms of chosen checks. Opt-in; without one a monitor only observes."""

from __future__ import annotations

import copy
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rlrs.lr_scheduler import RelativeLR
from rlrs.messages import shown
from rlrs.monitoring.alarms import Alarm
from rlrs.monitoring.checks import CHECKS
from rlrs.monitoring.signals import Key
from rlrs.ratios import BASE, Ratio, Ratios

Action = Literal["warn", "pull", "uniform", "rollback", "stop"]
TOO_FAST = frozenset(
    {
        *("non_finite", "loss_spike", "loss_rise", "gradient_spike", "update_ratio_high", "weight_growth"),
        "router_collapse",
    }
)
"""Checks whose component, where they name one, learns too fast."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a guard did about the alarms of a step."""

    alarm: Alarm
    """The one that it acted on."""
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
    | `rollback` | the last good checkpoint; from there the component's ratios are smaller: times `smaller`, or to the |
    | | power `pull` where that is less. Where none is named, base peak rates are, times `smaller` |
    | `stop` | the monitor's `stopped` is set, and the loop should end |

    A component is named by alarms that speak of one that learns too fast. Where more than half of all components have
    such an alarm in one step, none of them is: it is the base rate.

    Args:
        scheduler: whose rates it changes.
        actions: check -> action, for the checks that it should act on.
        rollback: loads the newest checkpoint of a step that is at most the given one, scheduler included, and returns
            its step; None if there is none. `Snapshots.restore` is one. Called on every rank.
        pull: power of the ratios, between 0 (at once 1) and 1.
        smaller: factor of rates after a rollback.
        skip: after a rollback, leave out the batches between the checkpoint and the alarm: `batch(step)` is then the
            batch of a step.
        lookback: steps before the alarm at which a checkpoint is thought to be good: what went wrong began before it
            showed.
        pause: steps after an action in which no other is taken (but for `non_finite`): the last one needs time. An
            alarm of these steps that stands when they are over is acted on then.
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
        >>> guard.react([alarm]).sentence
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
        skip: bool = False,
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
        self.pull, self.smaller, self.skip = pull, smaller, skip
        self.lookback, self.pause, self.most = lookback, pause, most
        self._ratios = Ratios(scheduler.ratios)
        self._peaks: dict[str, float] = dict(scheduler.state_dict()["base_lrs"])
        self._changed = False
        self._last: int | None = None
        self._held: set[Key] = set()  # alarms of the pause
        self._ahead: list[tuple[int, int]] = []  # (step, how many batches ahead of steps data are from it on)
        self.scale = 1.0
        """Base peak rates over those that the run began with."""
        self.taken: list[dict[str, Any]] = []
        """Every action: step, check, component, action, what."""

    def react(self, alarms: Sequence[Alarm], standing: Sequence[Alarm] = ()) -> Done | None:
        """Act on the alarms of a step, once for all of them; None if there is nothing to do about any.

        Args:
            alarms: that were raised by the step.
            standing: that were raised before, and would be again: one that had to wait for the pause to end is acted
                on then.
        """
        waited = [alarm for alarm in standing if _key(alarm) in self._held]
        self._held = {_key(alarm) for alarm in waited}
        alarms = [*alarms, *waited]
        for alarm in alarms:
            action = self.actions.get(alarm.check)
            if action is None or action == "warn":
                continue
            if self._waits(alarm, action):
                self._held.add(_key(alarm))
                continue
            self._held = set()
            if len(self.taken) >= self.most and action != "stop":
                done = Done(alarm=alarm, sentence=f"stopped: {self.most} actions were taken before", stop=True)
            else:
                done = self._act(action, alarm, self._blamed(alarms))
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
        return None

    def batch(self, step: int) -> int:
        """The batch that a step takes, both from 0: the step itself, and further on where batches were left out.

        >>> import torch, rlrs
        >>> layer = torch.nn.Sequential(torch.nn.Linear(2, 2))
        >>> optimizer = torch.optim.AdamW(rlrs.param_groups(layer, {}, lr=1e-3))
        >>> scheduler = rlrs.RelativeLR(optimizer, {}, total_steps=200, final_fraction=0.1)
        >>> guard = Guard(scheduler, {"loss_spike": "rollback"}, rollback=lambda step: 50, skip=True)
        >>> alarm = Alarm(check="loss_spike", step=90, value=9, threshold=6, cause="", remedy="")
        >>> done = guard.react([alarm])
        >>> guard.batch(49), guard.batch(50)
        (49, 90)
        """
        return step + next((ahead for at, ahead in reversed(self._ahead) if at <= step), 0)

    def _waits(self, alarm: Alarm, action: Action) -> bool:
        """Whether the last action shall have its time first."""
        waiting = self._last is not None and alarm.step - self._last < self.pause
        return waiting and alarm.check != "non_finite" and action != "stop"

    def _blamed(self, alarms: Sequence[Alarm]) -> list[str]:
        """Components that alarms of a step say learn too fast; none where that is most of them."""
        named = {alarm.component for alarm in alarms if alarm.check in TOO_FAST and alarm.component is not None}
        return sorted(named) if 2 * len(named) <= len(self.scheduler.relative_rates()) else []

    def _act(self, action: Action, alarm: Alarm, blamed: list[str]) -> Done:
        if action == "pull":
            named = [alarm.component] if alarm.component is not None and alarm.check not in TOO_FAST else blamed
            return Done(alarm=alarm, sentence=self._pull(named))
        if action == "uniform":
            self._ratios = Ratios(dict.fromkeys(self._ratios, 1.0))
            self._apply()
            return Done(alarm=alarm, sentence="all ratios are 1 from here on")
        if action == "rollback":
            return self._roll_back(alarm, blamed)
        return Done(alarm=alarm, sentence="stopped", stop=True)

    def _pull(self, components: list[str]) -> str:
        names = components or list(self._ratios)
        apart = [name for name in names if self._ratios.get(name, BASE).knots != BASE.knots]
        if not apart:
            what = f"{', '.join(names)} has" if len(names) == 1 else "every component has"
            return f"nothing to pull: {what} the ratio 1"
        said = self._change(apart, lambda value: _power(value, self.pull))
        self._apply()
        return f"ratios of {', '.join(apart)} to the power {self.pull:g}: {said}"

    def _change(self, components: list[str], change: Callable[[float], float]) -> str:
        """Other ratios for some components; what they were and are."""
        said, ratios = [], dict(self._ratios)
        for name in components:
            old = ratios.get(name, BASE)
            new = ratios[name] = Ratio(tuple((at, change(value)) for at, value in old.knots))
            said.append(f"{old.start:.3g} -> {new.start:.3g} at the start, {old.end:.3g} -> {new.end:.3g} at the end")
        self._ratios = Ratios(ratios)
        return "; ".join(said)

    def _roll_back(self, alarm: Alarm, blamed: list[str]) -> Done:
        assert self.rollback is not None
        limit = max(0, alarm.step - self.lookback)
        with warnings.catch_warnings():
            # The scheduler's state speaks of ratios and peaks of its time; those of now are written below.
            warnings.filterwarnings("ignore", message="RelativeLR.load_state_dict")
            step = self.rollback(limit)
        if step is None:
            return Done(alarm=alarm, sentence=f"stopped: no checkpoint of step {limit} or before", stop=True)
        said = f"back to step {step}"
        if self.skip:
            ahead = self.batch(alarm.step) - step
            said += f", batches from {self.batch(step)} to {self.batch(alarm.step - 1)} left out"
            self._ahead = [*((at, of) for at, of in self._ahead if at < step), (step, ahead)]
        if blamed:
            changed = self._change(blamed, lambda value: min(value * self.smaller, _power(value, self.pull)))
            said += f", ratios of {', '.join(blamed)}: {changed}"
        else:
            self.scale *= self.smaller
            self._peaks = {name: peak * self.smaller for name, peak in self._peaks.items()}
            said += f", base peak rates times {self.smaller:g}"
        self._apply()
        return Done(alarm=alarm, sentence=said, step=step)

    def _apply(self) -> None:
        self._changed = True
        self.scheduler.change(self._ratios, self._peaks)

    def state_dict(self) -> dict[str, Any]:
        """Ratios and peaks as they are now, and what was done: plain data."""
        return {
            "ratios": {name: [list(knot) for knot in ratio.knots] for name, ratio in self._ratios.items()},
            "peaks": dict(self._peaks),
            "scale": self.scale,
            "changed": self._changed,
            "last": self._last,
            "ahead": [list(one) for one in self._ahead],
            "held": sorted(map(list, self._held), key=str),
            "taken": copy.deepcopy(self.taken),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state, and write its rates. Load it before the scheduler's own state."""
        self._ratios = Ratios({name: Ratio(tuple(map(tuple, knots))) for name, knots in state["ratios"].items()})
        self._peaks, self._last = dict(state["peaks"]), state["last"]
        self.scale = state.get("scale", 1.0)  # states of 0.1 have neither this nor the next two
        self._ahead = [(at, ahead) for at, ahead in state.get("ahead", [])]
        self._held = {(check, component) for check, component in state.get("held", [])}
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


def _key(alarm: Alarm) -> Key:
    return alarm.check, alarm.component


def _power(value: float, power: float) -> float:
    """A ratio of 0 stays: its component is frozen on purpose."""
    return math.pow(value, power) if value > 0 else value
