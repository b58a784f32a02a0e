"""An alarm, and what the numbers say about its cause."""

from __future__ import annotations

import math
from statistics import median

from pydantic import ConfigDict

from rlrs.monitoring.checks import CHECKS
from rlrs.monitoring.signals import Key, Signals
from rlrs.records import Record
from rlrs.records.metrics_line import Measured

LOSS = ("loss_spike", "loss_rise")
_TELLING = 2.0
"""A component above this multiple of its usual, and of the others' median, is named. Chosen here, not studied."""
_STILL = 1.25
"""Gradients of the others above this multiple of their usual are up as well. Chosen here, not studied."""


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
    for what in ("update_ratio", "grad_norm"):
        factors = [(component, factor) for component, factor, of in suspects if of == what]
        if not factors or factors[0][1] < _TELLING:
            continue
        component, factor = factors[0]
        others = median([other for _, other in factors[1:]] or [1.0])
        apart = factor >= _TELLING * others
        if what == "update_ratio":
            if apart:
                return component, f"{component} moves at {_times(factor)} its usual update: its rate is too high"
            return None, "all components move further than usual: the base rate is too high"
        if apart and others <= _STILL:
            return component, f"the gradient of {component} is {_times(factor)} its usual, its update is not: {cause}"
        return None, "gradients of all components are up, and no update is: the data are another"
    if suspects:
        return None, "no component moves further than usual: the data are another, or the loss is"
    return None, cause


def _times(factor: float) -> str:
    return f"{factor:.3g} times" if math.isfinite(factor) else "infinitely many times"
