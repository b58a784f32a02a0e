"""An alarm, and what the numbers say about its cause."""

from __future__ import annotations

import math

from pydantic import ConfigDict

from rlrs.monitoring.checks import CHECKS
from rlrs.monitoring.signals import Key, Signals
from rlrs.records import Record
from rlrs.records.metrics_line import Measured

LOSS = ("loss_spike", "loss_rise")
_TELLING = 2.0
"""A component above this multiple of its usual is named as the cause of a loss. Chosen here, not studied."""
_WORDS = {"grad_norm": "gradient norm", "update_ratio": "update"}


class Alarm(Record):
    """A check that went off.

    >>> Alarm(check="loss_rise", step=120, value=0.62, threshold=0.5, cause="divergence", remedy="lower it").message
    'loss_rise at step 120: 0.62, threshold 0.5; divergence. Do: lower it'
    """

    model_config = ConfigDict(ser_json_inf_nan="strings")

    check: str
    component: str | None = None
    """None: the whole model, or not known."""
    step: int
    """Optimizer steps done."""
    value: Measured
    threshold: Measured
    cause: str
    """What is likely."""
    remedy: str
    """What to do."""
    action: str = ""
    """What a guard did about it."""

    @property
    def message(self) -> str:
        """All of it in one line."""
        where = f" in {self.component}" if self.component else ""
        done = f" Done: {self.action}" if self.action else ""
        return (
            f"{self.check}{where} at step {self.step}: {self.value:.4g}, threshold {self.threshold:.4g}; "
            f"{self.cause}. Do: {self.remedy}{done}"
        )


def make_alarm(key: Key, step: int, value: float, threshold: float, signals: Signals) -> Alarm:
    """The alarm of a value beyond its threshold, with the component that the numbers point at."""
    check, component = CHECKS[key[0]], key[1]
    cause = check.cause
    if check.name in LOSS:
        component, cause = _explain(cause, signals)
    return Alarm(
        check=check.name,
        component=component,
        step=step,
        value=value,
        threshold=threshold,
        cause=cause,
        remedy=check.remedy,
    )


def _explain(cause: str, signals: Signals) -> tuple[str | None, str]:
    """Which component a loss comes from, if one stands out, and why it is thought so."""
    suspects = signals.suspects()
    updates = [one for one in suspects if one[2] == "update_ratio"]
    for component, factor, what in updates[:1]:
        rest = [other for _, other, _ in updates[1:]]
        if factor >= _TELLING and (not rest or factor >= _TELLING * sorted(rest)[len(rest) // 2]):
            return component, f"{component} moves at {_times(factor)} its usual {_WORDS[what]}: its rate is too high"
        if factor >= _TELLING:
            return None, "all components move further than usual: the base rate is too high"
    gradients = [one for one in suspects if one[2] == "grad_norm"]
    if gradients and gradients[0][1] >= _TELLING:
        component, factor, _ = gradients[0]
        return component, f"the gradient of {component} is {_times(factor)} its usual, its update is not: {cause}"
    if updates:
        return None, "no component moves further than usual: the data are another, or the loss is"
    return None, cause


def _times(factor: float) -> str:
    return f"{factor:.3g} times" if math.isfinite(factor) else "infinitely many times"
