"""A line of metrics.jsonl, for reading: training writes plain mappings of the same shape, which costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from rlrs.records.frozen import Record, RecordError, Whole, first_problem

Measured = Annotated[float, Field(allow_inf_nan=True)]
"""A measurement, which may be no finite number in a run that diverges."""


class ComponentMetrics(Record):
    """One component in one step."""

    lr: Measured
    ratio: Measured
    grad_norm: Measured
    """Before clipping."""
    update_ratio: Measured
    """Norm of the step's change over the norm of the weights."""
    weight_norm: Measured | None = None
    scheduled_lr: Measured | None = None
    """What the schedule gives, where that was compared with what the parameter groups have."""


class RouterMetrics(Record):
    """The routers of a mixture in one step."""

    load: tuple[Measured, ...]
    """Share of the tokens of each expert, the busiest first."""
    dropped: Measured
    entropy: Measured


class MetricsLine(Record):
    """What was measured after a step: of training (`loss` and what follows it), or of an evaluation."""

    step: int = Field(ge=1, le=10**15)
    """Optimizer steps done."""
    tokens: Whole
    loss: Measured | None = None
    """Mean training loss since the line before, nats per token."""
    lr_base: Measured | None = None
    grad_norm: Measured | None = None
    clip: Measured | None = None
    """Largest norm that clipping leaves, where the writer knows it."""
    seconds: Measured | None = None
    tokens_per_second: Measured | None = None
    flops_per_second: Measured | None = None
    components: dict[str, ComponentMetrics] = Field(default_factory=dict)
    router: RouterMetrics | None = None
    valid_loss: Measured | None = None
    """On the fixed validation sample, nats per token."""
    bits_per_byte: Measured | None = None
    general_loss: Measured | None = None
    """On general text, nats per token."""
    general_rise: Measured | None = None
    """The same less that before the first step."""

    @model_validator(mode="after")
    def _something(self) -> MetricsLine:
        if self.loss is None and self.valid_loss is None:
            raise ValueError("a line has a loss or a valid_loss")
        return self


def read_metrics(path: Path) -> Iterator[MetricsLine]:
    """The lines of a metrics.jsonl.

    Raises:
        RecordError: a line that is none; the message names its number.
        OSError: the file cannot be read.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
    >>> _ = path.write_text('{"step": 1, "tokens": 64, "loss": 5.5}')
    >>> [line.loss for line in read_metrics(path)]
    [5.5]
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield MetricsLine.model_validate_json(line)
            except ValidationError as error:
                raise RecordError(f"{path}, line {number}: not a line of metrics: {first_problem(error)}") from None
