"""ablations.json: what a study's runs do when one thing of them is changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlrs.records.checked import read_checked, write_checked
from rlrs.records.frozen import Loss, Record, Value, Whole
from rlrs.records.measured import Interval, Standing, Unstable
from rlrs.records.results import Scalar

ABLATIONS_SCHEMA = 1
ABLATIONS_FILE = "ablations.json"
"""In the run directory."""
_REMEDY = "move it away, and rlrs ablate writes a new one; finished runs are kept"

AblationKind = Literal[
    "u-plot",
    "contribution",
    "removal",
    "base-rate",
    "seeds",
    "schedule",
    "horizon",
    "batch",
    "weight-decay",
    "optimizer",
]
"""What is changed: see `rlrs.study.ablations`."""


class AblationRow(Record):
    """One thing that was run on every seed: a point of a series."""

    series: str
    """What it belongs to: an arm, or a searched parameter (`embedding.start`)."""
    at: str
    """Where in the series, as it is written: `x 1/4`, `0.008`, `linear`."""
    x: Value | None = None
    """The same as a number; None for what is none."""
    against: tuple[str, str] | None = None
    """Series and place of the row that it is paired with; None for a row that others are paired with alone."""
    steps: int = Field(ge=1, le=10**15)
    """Of a run."""
    runs: tuple[str, ...]
    """Ids, one for each seed."""
    losses: tuple[Loss | None, ...]
    """Validation, nats per token; None for a run that diverged."""
    unstable: Unstable
    difference: Interval | None = None
    """Of its losses minus those that it is paired with; None without these, or where a run diverged."""
    p_value: float | None = Field(default=None, ge=0, le=1)
    """Of the same, corrected for the number of rows of its ablation (Holm)."""
    standing: Standing | None = None
    """What that says at 5 %."""

    @property
    def mean(self) -> float | None:
        """Of its losses; None where a run diverged."""
        known = [loss for loss in self.losses if loss is not None]
        return sum(known) / len(known) if len(known) == len(self.losses) else None


class Ablation(Record):
    """One kind of change on one size of model."""

    kind: AblationKind
    model: Literal["proxy", "target"]
    arm: str
    """Whose ratios are changed, or that is compared with the simpler ones."""
    config_hash: str
    """Of the study."""
    seeds: Annotated[tuple[Whole, ...], Field(min_length=2)]
    """Paired; used by nothing in the study but its ablations."""
    rows: Annotated[tuple[AblationRow, ...], Field(min_length=1)]
    sentence: str
    """What it says, in English."""
    environment: dict[str, Scalar]
    """Versions, commit, processor that it was run with."""

    @model_validator(mode="after")
    def _consistent(self) -> Ablation:
        names = {(row.series, row.at) for row in self.rows}
        for row in self.rows:
            if not len(row.losses) == len(row.runs) == len(self.seeds):
                raise ValueError(f"{row.series} {row.at}: should have a run and a loss for each of the seeds")
            if row.against is not None and row.against not in names:
                raise ValueError(f"{row.series} {row.at}: is against {' '.join(row.against)}, which is not there")
        return self


class Ablations(Record):
    """All ablations of one study: of each kind and model the last."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    study: str
    """Its name."""
    ablations: tuple[Ablation, ...] = ()

    def having(self, ablation: Ablation) -> Ablations:
        """These with another, in the place of the one of its kind and model."""
        key = ablation.kind, ablation.model, ablation.arm
        others = [one for one in self.ablations if (one.kind, one.model, one.arm) != key]
        return self.model_copy(update={"ablations": (*others, ablation)})


def write_ablations(path: Path, ablations: Ablations) -> None:
    """Write ablations.json in one step, with the checksum of its content."""
    write_checked(path, ablations)


def read_ablations(path: Path) -> Ablations:
    """All of ablations.json.

    Raises:
        RecordError: the file is damaged, was changed, or is of another version; one line with file and place.
        OSError: it cannot be read.
    """
    return read_checked(path, Ablations, ABLATIONS_SCHEMA, "list of ablations", _REMEDY)
