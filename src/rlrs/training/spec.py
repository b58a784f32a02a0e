"""What decides a run's numbers, and what comes of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rlrs.ratios import Ratios
from rlrs.schedules import warmup_steps
from rlrs.settings import CHANGES_NO_RESULT, HubConfig, ModelConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run: everything that decides its numbers, and nothing else.

    Args:
        model: shape and initialisation.
        training: what all runs of a study share. Its `final_fraction` is where a search starts; this run's is below.
        steps: optimizer steps T.
        batch_size: sequences per step.
        seed: of weights and data order, 0 or more.
        lr: base peak rate.
        final_fraction: base rate at the end over its peak; 1 for the schedule `constant`.
        ratios: component -> knots (progress, ratio), as `Ratio.knots`; components not named follow the base rate.
        data_hash: of tokenizer, tokens and sequence length, as `TokenData.hash`.

    Raises:
        ValueError: a value out of its range; the message names it.
        RatiosError: knots that are no ratio.
    """

    model: ModelConfig | HubConfig
    training: TrainingConfig
    steps: int
    batch_size: int
    seed: int
    lr: float
    final_fraction: float
    ratios: dict[str, list[tuple[float, float]]]
    data_hash: str

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} should be a whole number, {least} or more, not {value!r}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr should be a number above 0, not {self.lr!r}")
        if not 0 <= self.final_fraction <= 1:
            raise ValueError(f"final_fraction should be from 0 to 1, not {self.final_fraction!r}")
        if self.training.schedule == "constant" and self.final_fraction != 1:
            raise ValueError(f"final_fraction should be 1 with a constant schedule, not {self.final_fraction!r}")
        if self.training.dtype == "auto":
            raise ValueError("dtype should be float32 or bfloat16 in a run: rlrs.training.faster_dtype measures which")
        if self.batch_size % self.training.accumulate:
            raise ValueError(
                f"batch_size={self.batch_size} should be a multiple of training.accumulate={self.training.accumulate}"
            )
        self.relative_rates()

    def relative_rates(self) -> Ratios:
        """The ratios as the rest of the library takes them."""
        return Ratios(self.ratios)

    @property
    def warmup_steps(self) -> int:
        """Warm-up steps W."""
        return warmup_steps(self.training.warmup_fraction, self.steps)

    def to_plain(self) -> dict[str, Any]:
        """All fields as JSON would hold them."""
        plain = {
            **self.__dict__,
            "model": self.model.model_dump(mode="json"),
            "training": self.training.model_dump(mode="json"),
        }
        return json.loads(json.dumps(plain))

    @property
    def id(self) -> str:
        """12 hex digits: the hash of all fields that decide numbers."""
        plain = self.to_plain()
        for name in CHANGES_NO_RESULT["training"]:
            del plain["training"][name]
        text = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """When to end a run early: at a rung where its training loss is above the rung's limit.

    What is compared is the mean over the last `window` steps up to the rung (all steps, where there are fewer).

    Args:
        rungs: pairs (step, limit in nats per token), steps increasing and from 1. At a rung without a limit (None)
            the loss is only kept, in `RunResult.rungs`.
        window: steps.

    Raises:
        ValueError: rungs or a window out of range.
    """

    rungs: tuple[tuple[int, float | None], ...]
    window: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple((step, limit) for step, limit in self.rungs))  # lists, from JSON
        steps = [step for step, _ in self.rungs]
        if steps != sorted(set(steps)) or min(steps, default=1) < 1:
            raise ValueError(f"the steps of rungs should increase, from 1 on, not {steps}")
        if self.window < 1:
            raise ValueError(f"window should be 1 step or more, not {self.window!r}")

    def loss(self, losses: Sequence[float], step: int) -> float:
        """The windowed loss at a rung, from the losses of all steps."""
        window = losses[max(0, step - self.window) : step]
        return math.fsum(window) / len(window)

    def to_plain(self) -> dict[str, Any]:
        """All fields as JSON would hold them."""
        return {"rungs": [list(rung) for rung in self.rungs], "window": self.window}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended.

    Args:
        status: "finished"; "diverged" when a loss was not a number or above the limit; "pruned" when a loss was above
            the limit of a rung; "failed" when an engine gave it up (crashed, hung or lost with its machine too often).
        steps: optimizer steps done.
        score: training loss averaged over the last `score_steps` steps, nats per token; None if not finished.
        valid_loss: on the fixed validation sample after the last step, nats per token; None if not finished or not
            wanted.
        tokens: tokens trained on.
        seconds: of training and evaluation, all sessions of a resumed run together.
        diverged_at: the step, counted from 1, that could not be used; None if finished.
        reason: why it diverged or was pruned, in words; None if finished.
        rungs: pairs (step, windowed training loss) of the rungs that the run came to; see `Pruning`.
    """

    status: Literal["finished", "diverged", "pruned", "failed"]
    steps: int
    score: float | None
    valid_loss: float | None
    tokens: int
    seconds: float
    diverged_at: int | None = None
    reason: str | None = None
    rungs: tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple((step, loss) for step, loss in self.rungs))  # lists, from JSON

    def to_plain(self) -> dict[str, Any]:
        """All fields as JSON would hold them."""
        return json.loads(json.dumps(asdict(self)))
