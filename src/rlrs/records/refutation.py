"""refutations.json: claims of a report that were run again on fresh seeds, and what came out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rlrs.records.checked import read_checked, write_checked
from rlrs.records.frozen import Record, Whole
from rlrs.records.measured import ComparisonRun, Interval, SpeedUp, Standing, Unstable
from rlrs.records.results import Scalar
from rlrs.settings import Arm

REFUTATIONS_SCHEMA = 1
REFUTATIONS_FILE = "refutations.json"
"""In the run directory."""
_REMEDY = "move it away, and rlrs refute writes a new one; finished runs are kept"

Upheld = Literal["confirmed", "weaker", "refuted", "open"]
"""What fresh seeds say of a claim; `open` is that they cannot tell."""


class ReportClaim(Record):
    """What a report says of one arm against a simpler one, as it said it."""

    arm: Arm
    control: Arm
    standing: Standing
    """`better` or `worse` is the claim of a difference, `not_different` that there is none worth having."""
    loss: Interval
    """Loss of the arm minus that of the control, nats per token, paired by seed."""
    saved: SpeedUp | None
    """Steps that the arm saves; None where the report shows no such saving."""
    seeds: tuple[Whole, ...]
    margin: float = Field(gt=0, le=1e6)
    """Nats per token that a difference may have and still be none, `comparison.margin`."""
    config_hash: str
    """Of the study."""
    commit: Scalar
    """That the report was made with; None where it is not known."""


class FreshTest(Record):
    """One number of a claim, measured again on fresh seeds."""

    fresh: Interval
    """Over the fresh seeds alone, Student's."""
    p_smaller: float | None = Field(ge=0, le=1)
    """Chance of an effect that is so much smaller than claimed if it were as large (Welch's test, one-sided); None
    where no effect was claimed."""
    upheld: Upheld


class Refutation(Record):
    """A claim, run again."""

    claim: ReportClaim
    seeds: Annotated[tuple[Whole, ...], Field(min_length=2)]
    """Used by nothing in the study before."""
    loss: FreshTest | None
    """None where a run diverged."""
    saved: FreshTest | None
    upheld: Upheld
    """Of loss and saving, the one that speaks more against the claim."""
    unstable: dict[Arm, Unstable]
    more_seeds: int | None
    """Where it is open: seeds of a further attempt that would tell the claimed effect from none; None if over 1,000."""
    sentence: str
    """In English."""
    runs: tuple[ComparisonRun, ...]
    environment: dict[str, Scalar]
    """Versions, commit, processor that it was run with."""


class Refutations(Record):
    """All attempts to refute what one study's report says, in order."""

    schema_: Literal[1] = Field(default=1, alias="schema")
    study: str
    """Its name."""
    refutations: tuple[Refutation, ...] = ()


def write_refutations(path: Path, refutations: Refutations) -> None:
    """Write refutations.json in one step, with the checksum of its content."""
    write_checked(path, refutations)


def read_refutations(path: Path) -> Refutations:
    """All of refutations.json.

    Raises:
        RecordError: the file is damaged, was changed, or is of another version; one line with file and place.
        OSError: it cannot be read.
    """
    return read_checked(path, Refutations, REFUTATIONS_SCHEMA, "list of refutations", _REMEDY)
