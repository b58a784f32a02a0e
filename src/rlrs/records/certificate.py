"""certificate.json: what a ladder says about the target before any run of it, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, JsonValue, model_validator

from rlrs.records.checked import read_checked, write_checked
from rlrs.records.frozen import Loss, Record, Value, Whole
from rlrs.records.results import Scalar, Spent, StudyIdentity
from rlrs.settings import Arm

CERTIFICATE_SCHEMA = 1
_REMEDY = "move it away, and rlrs certify STUDY.yaml writes it again from the runs that are kept"


class Estimate(Record):
    """Median of the draws of a law, with its interval."""

    value: Value
    low: Value
    high: Value

    @model_validator(mode="after")
    def _ordered(self) -> Estimate:
        if not self.low <= self.value <= self.high:
            raise ValueError(f"should have low <= value <= high, not {self.low}, {self.value}, {self.high}")
        return self

    def holds(self, value: float) -> bool:
        """Whether a value lies in the interval."""
        return self.low <= value <= self.high


class RungArm(Record):
    """What one arm came to on one rung."""

    trials: Whole
    best: dict[str, Value]
    """The point that its search found there."""
    losses: tuple[Loss | None, ...]
    """Of that point on fresh seeds, validation, nats per token; None for a run that diverged."""


class MeasuredRung(Record):
    """A size at a horizon that all arms were searched on."""

    name: str
    is_proxy: bool
    shape: dict[str, JsonValue]
    width: float = Field(gt=0)
    depth: float = Field(gt=0)
    steps: int = Field(ge=1, le=10**15)
    tokens: float = Field(gt=0)
    """Of one run; its steps, where tokens are not known."""
    arms: dict[Arm, RungArm]


class LawTerm(Record):
    """The law of one searched parameter: its best value over the sizes, `a + b log width + ...` in logarithms."""

    name: str
    middle: Estimate
    """Its best value at the ladder's middle."""
    slopes: dict[str, Estimate]
    """Axis -> power by which the best value grows with it, over the span of the ladder."""
    target: Estimate
    """Its best value at the target."""


class ComponentVerdict(Record):
    """What becomes of a component's ratios at the target, by the law."""

    component: str
    fate: Literal["carry", "rescale", "drop"]
    reason: str
    found: dict[str, Value]
    """Parameter -> ratio that the proxy's search found."""
    used: dict[str, Value]
    """Parameter -> ratio at the target."""
    gain: Estimate
    """Worth of its ratios at the target against the base rate, nats per token."""
    shown: bool | None = None
    """Whether that interval says what became of it: above 0 for one that is kept, below the margin for one that is
    dropped; None in certificates that are older."""


class ArmForecast(Record):
    """The law of one arm, and what is expected of it at the target."""

    law: tuple[LawTerm, ...]
    noise: float = Field(ge=0)
    """Of a trial's score around the law's surface, nats per token."""
    verdicts: tuple[ComponentVerdict, ...]
    point: dict[str, Value]
    """All parameters that the arm has at the target by its law, base rate included."""
    penalties: dict[str, Estimate]
    """Mode of transfer -> loss above that of the best point at the target, base rate tuned again, nats per token."""
    loss: Estimate | None
    """Final validation loss with the study's mode; None where too few rungs were measured."""
    rate: Estimate
    """Base peak rate that tuning at the target will find with the study's mode, among those of the grid that it tries,
    whose scores have noise."""


class LadderCost(Record):
    """What the ladder took."""

    share: float | None = Field(default=None, ge=0)
    """Of one run of the target, in FLOPs; None where that is not known."""
    allowed: float = Field(gt=0)
    steps: Whole
    """Of all its runs, those of the proxy's search apart."""
    spent: Spent | None = None
    """The same in other units; None in certificates that are older."""


class PredictionCheck(Record):
    """A prediction and what was measured."""

    what: str
    predicted: Estimate
    measured: Value
    """Mean over the seeds of the comparison."""
    inside: bool


class Certificate(Record):
    """A forecast for the target, with all that it rests on; `checks` once the target was compared."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    study: StudyIdentity
    ladder: str = Field(pattern=r"^[0-9a-f]{12}$")
    """Hash of the ladder's settings and of the recipes that it was made for."""
    environment: dict[str, Scalar]
    data: dict[str, Scalar | tuple[Scalar, ...]]
    mode: str
    """Of the transfer."""
    level: float = Field(gt=0, lt=1)
    """Coverage of every interval."""
    before_target: bool
    """Whether it was made before any run of the target."""
    cost: LadderCost
    seeds: tuple[Whole, ...]
    rungs: tuple[MeasuredRung, ...]
    axes: tuple[str, ...]
    left_out: dict[str, str]
    """Axis that the laws have no term for -> why."""
    target: dict[str, float]
    """Width, depth, steps and tokens."""
    arms: dict[Arm, ArmForecast]
    gains: dict[Arm, Estimate]
    """Control -> its loss minus that of `rlrs` at the target, nats per token."""
    saved: dict[Arm, Estimate]
    """Control -> share of its steps that `rlrs` saves at the target to reach its final loss."""
    sentence: str
    """Will it carry, in words."""
    notes: tuple[str, ...]
    """What limits it."""
    refuted_by: tuple[str, ...]
    checks: tuple[PredictionCheck, ...] | None = None

    def to_plain(self) -> dict[str, Any]:
        """All fields as certificate.json has them."""
        return self.model_dump(mode="json", by_alias=True)


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write certificate.json in one step, with the checksum of its content."""
    write_checked(path, certificate)


def read_certificate(path: Path) -> Certificate:
    """A certificate from its file, only as it was written: it has a checksum.

    Raises:
        RecordError: the file is damaged, was changed, or is of another version; one line with file and place.
        OSError: it cannot be read.
    """
    return read_checked(path, Certificate, CERTIFICATE_SCHEMA, "certificate", _REMEDY)
