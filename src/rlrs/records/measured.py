"""The comparison of arms on the target, and what was decided by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlrs.records.frozen import Loss, Rate, Record, Whole
from rlrs.settings import Arm

Standing = Literal["better", "not_different", "worse"]
"""Of one arm against another: whether its losses are measurably lower, cannot be told apart, are measurably higher."""
Reason = Literal["gain", "no_gain", "max_seeds"]
"""Why a comparison that runs seed by seed stopped."""


class Interval(Record):
    """Mean over paired seeds, with its two-sided interval: Student's, or one that holds however often one looks."""

    mean: Loss
    low: Loss
    high: Loss
    level: float = Field(gt=0, lt=1)
    """Coverage."""
    per_seed: Annotated[tuple[Loss, ...], Field(min_length=2)]

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if not self.low <= self.mean <= self.high:
            raise ValueError(f"should have low <= mean <= high, not {self.low}, {self.mean}, {self.high}")
        return self

    @property
    def standing(self) -> Standing:
        """Of losses of one arm minus another's, without correction for other comparisons: lower is better."""
        return "better" if self.high < 0 else "worse" if self.low > 0 else "not_different"


class SpeedUp(Interval):
    """Saved steps as a share of the baseline's: 1 - steps needed / the baseline's steps.

    `bound` is `lower` where in some seed even the shortest run reached the baseline's loss (the true share is
    larger), `upper` where in some seed the full-length run did not reach it (that seed counts as 0).
    """

    bound: Literal["none", "lower", "upper"]
    steps_needed: tuple[Annotated[float, Field(gt=0, le=1e15)], ...]
    """Per seed."""
    bootstrap: tuple[Loss, Loss] | None = None
    """The interval by resampling seeds, to check the other one by; None in results that are older."""

    @property
    def agrees(self) -> bool:
        """Whether both intervals say the same about a saving of nothing."""
        return self.bootstrap is None or (self.bootstrap[0] > 0) == (self.low > 0)


class ComparisonRun(Record):
    """One run of the comparison."""

    id: str = Field(pattern=r"^[\w.-]{1,64}$")
    """Of the run, and name of its folder."""
    arm: Arm
    seed: Whole
    horizon: float = Field(gt=0, le=1)
    """Length of the run as a share of the full steps."""
    steps: int = Field(ge=1, le=10**15)
    lr: Rate
    status: Literal["finished", "diverged", "pruned", "failed"]
    valid_loss: Loss | None
    score: Loss | None
    general_before: Loss | None = None
    """Loss on general text before the first step; None where that is not watched."""
    general_loss: Loss | None = None
    """The same after the last."""
    seconds: float | None = Field(default=None, ge=0, le=1e12)
    """Of training and evaluation; None in results that are older."""


class ArmLosses(Record):
    """An arm's validation losses at the end of full-length runs, nats per token; None for a run that diverged."""

    mean: Loss | None
    per_seed: Annotated[tuple[Loss | None, ...], Field(min_length=2)]


class Unstable(Record):
    """Full-length runs of one arm that did not end as its others did."""

    runs: int = Field(ge=1, le=10**6)
    """All of the arm."""
    diverged: tuple[Whole, ...] = ()
    """Seeds of those that diverged."""
    outliers: tuple[Whole, ...] = ()
    """Seeds of those that ended far above the arm's median: `rlrs.comparison.judging.far`."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of both kinds."""
        return (*self.diverged, *self.outliers)

    @property
    def share(self) -> float:
        """Of the runs, from 0 to 1."""
        return len(self.seeds) / self.runs


class GeneralText(Record):
    """What runs did to the loss on general text, nats per token."""

    may_rise: float = Field(ge=0, le=1e6)
    """That it may rise by."""
    before: Loss
    """Of the weights that were loaded, before any step."""
    rises: dict[Arm, tuple[Loss | None, ...]]
    """Arm -> from before to the end of its full-length runs, one for each seed; None for a run that diverged."""
    bought: tuple[Arm, ...] = ()
    """Arms whose mean rise is more than that: what they gain on the task is no gain."""


class Decision(Record):
    """What the comparison decides: the one source of verdict, ratios.yaml, page and terminal."""

    winner: Arm
    """The simplest arm that none of those beyond it is measurably better than."""
    sentence: str
    """Why, in words."""
    standings: dict[Arm, Standing] = Field(default_factory=dict)
    """Of `rlrs` against each control, corrected for the arms beyond that control."""
    p_values: dict[Arm, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    """Of the same, so corrected (Holm); empty in results that are older."""
    against_uniform: Interval | None = None
    """The winner's loss minus that of `uniform`, nats per token; None if that is the winner, or diverged."""
    notes: tuple[str, ...] = ()
    """What limits it: arms that diverged, seeds unlike the others; a sentence each."""


class Stopping(Record):
    """How a comparison ended whose seeds were run one by one until it was decided."""

    reason: Reason | None
    """None while it goes on."""
    max_seeds: int = Field(ge=2, le=10_000)
    margin: float = Field(gt=0, le=1e6)
    """A gain that is no larger needs no further seeds, nats per token."""
    sentence: str
    """In words, with the number of seeds."""


class Comparison(Record):
    """The measurement on fresh seeds."""

    steps: int = Field(ge=1, le=10**15)
    """Full length."""
    tokens: Whole
    """Of a full-length run."""
    seeds: Annotated[tuple[Whole, ...], Field(min_length=2)]
    """Paired over the arms."""
    baseline: Arm = "uniform"
    runs: tuple[ComparisonRun, ...]
    losses: dict[Arm, ArmLosses]
    differences: dict[Arm, Interval]
    """Control -> loss of `rlrs` minus the control's; without those of arms that diverged."""
    speed_up: dict[Arm, SpeedUp]
    """Control -> steps that `rlrs` saves to reach its loss."""
    winner_speed_up: dict[Arm, SpeedUp] = Field(default_factory=dict)
    """The same of the arm that was decided for against simpler ones, where it is neither `rlrs` nor `uniform`."""
    decision: Decision
    unstable: dict[Arm, Unstable] = Field(default_factory=dict)
    """Arm -> its runs that diverged or ended far above its others; empty in results that are older."""
    general: GeneralText | None = None
    """None where general text was not watched."""
    stopping: Stopping | None = None
    """None where the number of seeds was fixed beforehand."""
    looked_at: int | None = Field(default=None, ge=2)
    """Seeds after which a comparison of a fixed number was looked at, before more were added; None if it was not."""

    @model_validator(mode="after")
    def _consistent(self) -> Comparison:
        seeds = len(self.seeds)
        if not {"uniform", "rlrs"} <= set(self.losses):
            raise ValueError("losses should have uniform and rlrs")
        for name in ("losses", "differences", "speed_up"):
            for arm, part in getattr(self, name).items():
                if len(part.per_seed) != seeds:
                    raise ValueError(f"{name}.{arm}.per_seed should have {seeds} values, one for each seed")
                if arm not in self.losses or (name != "losses" and arm == "rlrs"):
                    raise ValueError(f"{name} has {arm}, which is no control of this comparison")
        if set(self.differences) != set(self.speed_up):
            raise ValueError("differences and speed_up should be against the same arms")
        if any(arm not in self.losses for arm in self.winner_speed_up):
            raise ValueError("winner_speed_up should be against arms of this comparison")
        saved = (*self.speed_up.values(), *self.winner_speed_up.values())
        if any(len(part.steps_needed) != seeds or len(part.per_seed) != seeds for part in saved):
            raise ValueError(f"steps_needed should have {seeds} values, one for each seed")
        for run in self.runs:
            if run.arm not in self.losses or run.seed not in self.seeds:
                raise ValueError(f"run {run.id} is of arm {run.arm} and seed {run.seed}, which losses do not have")
            if (run.status == "finished") != (run.valid_loss is not None):
                raise ValueError(f"run {run.id}: status {run.status} with valid_loss {run.valid_loss}")
        if self.decision.winner not in self.losses:
            raise ValueError(f"decision.winner is {self.decision.winner}, which losses do not have")
        return self
