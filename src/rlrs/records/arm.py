"""What one arm of a comparison found: its searches, and the recipe that came of them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from rlrs.records.frozen import Record, Whole
from rlrs.records.recipe import Recipe
from rlrs.records.trial import SearchResult, Trial
from rlrs.settings import Arm


class AtBound(Record):
    """A setting that a search ended with at a bound of its space, so that a better value may lie beyond."""

    name: str
    value: float
    bound: Literal["low", "high"]
    wider: float | None
    """A bound to search to instead; None where no value beyond is allowed at all."""


def bounds_note(found: Sequence[AtBound]) -> str:
    """Which settings a search ended with at a bound, and what to do, to follow the name of the search.

    >>> bounds_note([AtBound(name="final_fraction", value=1.0, bound="high", wider=None)])
    'ended at a bound: final_fraction=1 (highest)'
    """
    where = ", ".join(f"{at.name}={at.value:g} ({at.bound}est)" for at in found)
    wider = ", ".join(f"{at.name}: {{{at.bound}: {at.wider:g}}}" for at in found if at.wider is not None)
    advice = f"; to look beyond, widen search.space in a new study: {{{wider}}}" if wider else ""
    return f"ended at a bound: {where}{advice}"


class ArmSearch(SearchResult):
    """An arm's search on one size of model."""

    at_bounds: tuple[AtBound, ...] = ()
    """Settings of `best` that lie at a bound of what was searched; none is known of older studies."""
    budget: int = Field(ge=1)
    """Runs' worth of training steps that it might take."""
    importance: dict[str, float] = Field(default_factory=dict)
    """Share of the variation of the scores that each moved parameter explains; empty if not known."""

    @model_validator(mode="after")
    def _in_order(self) -> ArmSearch:
        numbers = [trial.number for trial in self.trials]
        for before, number in itertools.pairwise(numbers):
            if number <= before:
                raise ValueError(f"trials should be numbered in order: {number} comes after {before}")
        return self

    @classmethod
    def from_result(
        cls,
        result: SearchResult,
        budget: int,
        importance: Mapping[str, float] | None = None,
        at_bounds: Sequence[AtBound] = (),
    ) -> ArmSearch:
        """What a search ended with, and what it was allowed.

        Args:
            result: of the search.
            budget: runs' worth of training steps that it might take.
            importance: of the parameters, `rlrs.search.importance`.
            at_bounds: `rlrs.search.Space.at_bounds` of its best point.
        """
        fields = {name: getattr(result, name) for name in SearchResult.model_fields}
        return cls(**fields, budget=budget, importance=dict(importance or {}), at_bounds=tuple(at_bounds))

    @property
    def bounds_note(self) -> str:
        """`bounds_note` of `at_bounds`; empty if there are none."""
        return bounds_note(self.at_bounds) if self.at_bounds else ""

    @property
    def steps(self) -> int:
        """Optimizer steps of all trials, those of shorter runs as they are."""
        return sum(trial.result.steps for trial in self.trials if trial.result is not None)

    @property
    def best_trial(self) -> Trial | None:
        """The whole trial of the point that was found."""
        return next((trial for trial in self.trials if trial.whole and trial.params == self.best), None)

    @property
    def diverged_at(self) -> float | None:
        """Least factor above the base rate that was found at which a run diverged; None where none did."""
        lr = self.best.get("lr", 0.0)
        lost = [t.params["lr"] / lr for t in self.trials if t.result is not None and t.result.status == "diverged"]
        return min((factor for factor in lost if factor > 1), default=None)

    @property
    def improved(self) -> frozenset[int]:
        """Numbers of the trials that were the best so far when they ended, among those measured whole."""
        best, found = float("inf"), set()
        for trial in self.trials:
            if trial.whole and trial.measured and trial.score < best:
                best = trial.score
                found.add(trial.number)
        return frozenset(found)


class ArmResult(Record):
    """What an arm found; grows by `with_transfer`, is never changed."""

    arm: Arm
    recipe: Recipe
    """All settings that its runs on the target have."""
    search: ArmSearch | None = None
    """On the proxy; None for the arm `constant` of older studies, which held the start ratios that `rlrs` found."""
    transfer: ArmSearch | None = None
    """Of the base rate on the target; None before it."""

    @model_validator(mode="after")
    def _consistent(self) -> ArmResult:
        if self.transfer is not None and (self.transfer.best.get("lr") or 0) != self.recipe.target_lr:
            raise ValueError(
                f"target_lr={self.recipe.target_lr} is not the base rate that the transfer ended with, "
                f"{self.transfer.best.get('lr')}"
            )
        return self

    @classmethod
    def from_point(cls, arm: Arm, point: Mapping[str, float], defaults: Recipe, search: ArmSearch) -> ArmResult:
        """What an arm has after the search on the proxy.

        Args:
            arm: whose it is.
            point: the best point of the arm's search.
            defaults: what the study's settings say of everything that the point does not name,
                `Recipe.from_settings(study.training, study.search.lr)`.
            search: the arm's own.
        """
        return cls(arm=arm, recipe=defaults.at(point), search=search)

    def with_transfer(self, transfer: ArmSearch) -> ArmResult:
        """The same after its base rate was tuned on the target."""
        recipe = self.recipe.model_copy(update={"target_lr": transfer.best["lr"]})
        return ArmResult(arm=self.arm, recipe=recipe, search=self.search, transfer=transfer)

    @property
    def spent(self) -> Whole:
        """Runs that its own searches took."""
        return sum(len(part.trials) for part in (self.search, self.transfer) if part is not None)
