"""Where the ratios of a ratios.yaml come from, as a study writes it."""

from __future__ import annotations

from typing import Any

from pydantic import Field, JsonValue

from rlrs.records.frozen import Record
from rlrs.settings import Arm


class DecisionSummary(Record):
    """What the comparison decided."""

    winner: Arm
    sentence: str
    notes: tuple[str, ...] = ()


class FoundOn(Record):
    """The proxy."""

    model: dict[str, JsonValue]
    parameters: dict[str, int]


class Horizon(Record):
    """How long the runs of the search were."""

    steps: int
    batch_size: int | None = None
    """Sequences per step; None where it is not known."""
    tokens: int


class SearchSummary(Record):
    """The search that found the ratios."""

    method: str | None = None
    start: str | dict[str, Any] | None = None
    budget_runs: int | None = None
    runs: int
    steps: int
    score: float | None
    """Of the best point, nats per token."""


class LearnedSummary(Record):
    """How well the ratios describe what a run learned; of `search.method: learned`."""

    deviations: dict[str, tuple[float, ...]]
    """Component -> standard deviation of the natural log of each knot's ratio."""
    residuals: dict[str, float]
    """Component -> root mean square of log(learned rate / fitted rate) over the run."""


class TargetSummary(Record):
    """What the comparison on the target gave."""

    model: dict[str, JsonValue]
    parameters: dict[str, int]
    lr: float
    """Base peak rate that the arm was tuned to there."""
    steps: int
    tokens: int | None = None
    """That a run trained on; None where they are not known."""
    final_losses: dict[Arm, float | None]


class Provenance(Record):
    """The provenance of a study's ratios.yaml; nothing in it depends on the clock."""

    unfinished_search: str | None = None
    """How far a search was that was stopped; None if it ended."""
    study: str
    study_hash: str
    arm: Arm = "rlrs"
    """Whose ratios these are: the arm that the comparison decided for, `rlrs` before it."""
    decision: DecisionSummary | None = None
    """None before the comparison."""
    found_on: FoundOn | None = None
    data: dict[str, JsonValue]
    horizon: Horizon | None = None
    base: dict[str, Any]
    """What the ratios were found with; see `Recipe`."""
    made_of: dict[str, float] | None = None
    """Factors that the arm searched, of which the target's ratios are made, by the names of the search."""
    search: SearchSummary | None = None
    learned: LearnedSummary | None = None
    """Of ratios that a run learned; None where they were searched."""
    code: dict[str, JsonValue] = Field(default_factory=dict)
    target: TargetSummary | None = None
    carried_by: str | None = None
    """`transfer.mode` by which these ratios were made from the proxy's; None where they are the proxy's own."""
    rlrs_ratios: dict[str, Any] | None = None
    """The ratios of the arm `rlrs`, where the decision was for another."""

    def to_plain(self) -> dict[str, Any]:
        """As ratios.yaml has it: without what is not there."""
        return self.model_dump(mode="json", exclude_none=True, exclude_defaults=False)
