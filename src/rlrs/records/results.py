"""results.json: everything that a study found, and all that its report reads."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from rlrs.files import write_atomic
from rlrs.records.arm import ArmResult
from rlrs.records.frozen import Record, Whole
from rlrs.records.measured import Comparison
from rlrs.settings import Arm

RESULTS_SCHEMA = 2
"""Version of results.json that is written; `rlrs.comparison.read_results` reads it and version 1."""

Scalar = bool | Annotated[int, Field(ge=-(10**15), le=10**15)] | float | str | None


class StudyIdentity(Record):
    """Which study it is."""

    name: str
    config: dict[str, JsonValue]
    """The whole study.yaml."""
    config_hash: str


class ParameterCounts(Record):
    """A model's parameters."""

    total: int = Field(ge=1, le=10**15)
    active: Whole
    """That one token uses."""
    embedding: Whole
    non_embedding: Whole


class ComponentSize(Record):
    """A component of a model."""

    component: str
    tensors: Whole
    parameters: Whole
    share: float = Field(ge=0, le=1)
    """Of all parameters."""


class ModelSize(Record):
    """One size of model, with how long it is trained."""

    shape: dict[str, JsonValue]
    parameters: ParameterCounts | None
    """None for a trainer of the user's own of whose model only the components' names are known."""
    components: tuple[ComponentSize, ...]
    steps: int = Field(ge=1, le=10**15)
    batch_size: int | None = Field(default=None, ge=1, le=10**15)
    """Sequences per step; None for a trainer of the user's own."""
    tokens: Whole
    """0 where they are not known."""
    flops_per_token: float | None = Field(default=None, gt=0, le=1e18)
    """Of training on it, `rlrs.models.training_flops`; None where it is not known, and in results that are older."""


class Models(Record):
    """The model searched on, and the model transferred to."""

    proxy: ModelSize
    target: ModelSize


class Spent(Record):
    """What a stage took."""

    steps: Whole
    tokens: Whole
    """0 where they are not known."""
    flops: float | None = Field(default=None, ge=0, le=1e30)
    """Of runs of several sizes; None where all are of one, whose FLOPs a token are known."""
    seconds: float | None = Field(default=None, ge=0, le=1e12)
    """Of the same runs, one after another."""


class Cost(Record):
    """Training steps and tokens of each stage, runs that were killed half-way not counted."""

    search: Spent
    transfer: Spent
    comparison: Spent
    ladder: Spent | None = None
    """None for a study without one, and in results that are older."""


class Results(Record):
    """What a study found, from its search on; `comparison` and `cost` are there once it was compared."""

    schema_: Literal[2] = Field(default=2, alias="schema")
    study: StudyIdentity
    environment: dict[str, Scalar]
    data: dict[str, Scalar | tuple[Scalar, ...]]
    models: Models
    arms: dict[Arm, ArmResult]
    comparison: Comparison | None = None
    cost: Cost | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Results:
        for arm, found in self.arms.items():
            if found.arm != arm:
                raise ValueError(f"arms.{arm} is that of {found.arm}")
            if found.search is None and arm != "constant":
                raise ValueError(f"arms.{arm}: has no search of its own")
        if not {"uniform", "rlrs"} <= set(self.arms):
            raise ValueError("arms should have uniform and rlrs")
        if (self.comparison is None) != (self.cost is None):
            raise ValueError("comparison and cost go together")
        if self.comparison is not None:
            if set(self.comparison.losses) != set(self.arms):
                raise ValueError("comparison.losses should have the arms, and only those")
            if missing := [arm for arm, found in self.arms.items() if found.transfer is None]:
                raise ValueError(f"arms.{missing[0]} was compared without a transfer")
        return self

    def to_plain(self) -> dict[str, Any]:
        """All fields as results.json has them."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def winner(self) -> ArmResult:
        """The arm that is handed out; `rlrs` where nothing was compared yet."""
        return self.arms["rlrs" if self.comparison is None else self.comparison.decision.winner]


def write_results(path: Path, results: Results) -> None:
    """Write results.json in one step, with the checksum of its content."""
    plain = results.to_plain()
    plain["checksum"] = checksum(plain)
    write_atomic(path, json.dumps(plain, indent=1, allow_nan=False) + "\n")


def checksum(plain: dict[str, Any]) -> str:
    """Of the content of a results.json, whatever the order of its keys."""
    content = {name: value for name, value in plain.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
