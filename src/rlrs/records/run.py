"""How a run ended, and when it is to be ended early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from rlrs.records.frozen import Record


class Pruning(Record):
    """When to end a run early: at a rung where its training loss is above the rung's limit.

    What is compared is the mean over the last `window` steps up to the rung (all steps, where there are fewer).
    """

    rungs: tuple[tuple[int, float | None], ...]
    """Pairs (step, limit in nats per token), steps increasing and from 1. At a rung without a limit (None) the loss is
    only kept, in `RunResult.rungs`."""
    window: int
    """Steps."""

    @model_validator(mode="after")
    def _in_range(self) -> Pruning:
        steps = [step for step, _ in self.rungs]
        if steps != sorted(set(steps)) or min(steps, default=1) < 1:
            raise ValueError(f"the steps of rungs should increase, from 1 on, not {steps}")
        if self.window < 1:
            raise ValueError(f"window should be 1 step or more, not {self.window!r}")
        return self

    def loss(self, losses: Sequence[float], step: int) -> float:
        """The windowed loss at a rung, from the losses of all steps."""
        window = losses[max(0, step - self.window) : step]
        return math.fsum(window) / len(window)

    def exceeded(self, losses: Sequence[float]) -> str | None:
        """Why a run of these losses ends now, if its last step is a rung with a limit that the loss is above."""
        limit = dict(self.rungs).get(len(losses))
        if limit is None or (loss := self.loss(losses, len(losses))) <= limit:
            return None
        return f"training loss {loss:.4g} at step {len(losses)} is above {limit:.4g}"


class Learning(Record):
    """How the ratios of a run are learned while it goes on; see `rlrs.discovery.Hypergradient`."""

    reach: float = Field(default=6.0, gt=0, le=1e3)
    spread: float | None = Field(default=None, gt=0, le=1e6)
    """None for no prior."""
    bound: float = Field(default=32.0, gt=1, le=1e4)
    base: bool = False
    """Learn the base rate as well."""
    knots: dict[str, tuple[float, ...]]
    """Component that learns -> progress of the knots that its ratio is fitted by; `(0,)` for one that is held."""


class Learned(Record):
    """What a run has learned: ratios for any other run, with the base that they go with."""

    lr: float = Field(gt=0)
    """Base peak rate."""
    final_fraction: float = Field(ge=0, le=1)
    ratios: dict[str, tuple[tuple[float, float], ...]]
    """Component -> knots (progress, ratio), as `Ratio.knots`."""
    deviations: dict[str, tuple[float, ...]]
    """Component -> standard deviation of the natural log of each knot's ratio."""
    residuals: dict[str, float]
    """Component -> root mean square of log(learned rate / fitted rate) over the run."""


class RunResult(Record):
    """How a run ended.

    >>> result = RunResult(status="finished", steps=10, score=3.2, valid_loss=3.3, tokens=640, seconds=0.5)
    >>> RunResult.model_validate(result.to_plain()) == result
    True
    """

    status: Literal["finished", "diverged", "pruned", "failed"]
    """`diverged` when a loss was not a number or above the limit; `pruned` when a loss was above the limit of a rung;
    `failed` when an engine gave it up (crashed, hung or lost with its machine too often)."""
    steps: int = Field(ge=0)
    """Optimizer steps done."""
    score: float | None
    """Training loss averaged over the last `score_steps` steps, nats per token; None if not finished."""
    valid_loss: float | None
    """On the fixed validation sample after the last step, nats per token; None if not finished or not wanted."""
    general_before: float | None = None
    """On general text before the first step, nats per token; None if that is not watched."""
    general_loss: float | None = None
    """The same after the last step."""
    tokens: int = Field(ge=0)
    """Tokens trained on."""
    seconds: float = Field(ge=0)
    """Of training and evaluation, all sessions of a resumed run together."""
    diverged_at: int | None = None
    """The step, counted from 1, that could not be used; None if finished."""
    reason: str | None = None
    """Why it diverged, was pruned or was given up, in words; None if finished."""
    learned: Learned | None = None
    """Ratios that the run has learned; None for a run that was to learn none, or was not finished."""
    rungs: tuple[tuple[int, float], ...] = ()
    """Pairs (step, windowed training loss) of the rungs that the run came to; see `Pruning`."""

    @model_validator(mode="after")
    def _consistent(self) -> RunResult:
        if (self.status == "finished") != (self.score is not None):
            raise ValueError(f"a run has a score if it is finished, and only then: {self.status=}, {self.score=}")
        return self
