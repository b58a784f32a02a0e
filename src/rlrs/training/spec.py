"""What decides a run's numbers, and what comes of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from rlrs.messages import shown
from rlrs.ratios import Ratios
from rlrs.records import Learning
from rlrs.schedules import LARGEST_RATE, warmup_steps
from rlrs.settings import CHANGES_NO_RESULT, GuardConfig, HubConfig, ModelConfig, TrainingConfig, by_content
from rlrs.settings.base import LARGEST


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
        learn: how this run learns its ratios, which `ratios` are then the start of; None where they are as they are.
        guard: what is done when something goes wrong; None for nothing.
        data_hash: of tokenizer, tokens and sequence length, as `TokenData.hash`.

    Raises:
        ValueError: a value out of its range; the message names it.
        RatiosError: knots that are no ratio.

    >>> from dataclasses import replace
    >>> spec = RunSpec(
    ...     model=ModelConfig(d_model=16, n_layers=1, n_heads=2), training=TrainingConfig(dtype="float32"), steps=100,
    ...     batch_size=4, seed=0, lr=0.01, final_fraction=0.1, ratios={}, data_hash="seven",
    ... )
    >>> spec.warmup_steps, len(spec.id), spec.id == replace(spec, lr=0.02).id
    (1, 12, False)
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
    learn: Learning | None = None
    guard: GuardConfig | None = None

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
                raise ValueError(f"{name} should be a whole number from {least} to {LARGEST:,}, not {shown(value)}")
        if not 0 < self.lr <= LARGEST_RATE:
            raise ValueError(f"lr should be a number above 0, at most {LARGEST_RATE:g}, not {self.lr!r}")
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
        if self.guard is not None and self.learn is not None:
            raise ValueError("guard: a run that learns its ratios cannot have one, which would write them too")
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
        for name in ("learn", "guard"):
            if (settings := getattr(self, name)) is None:
                del plain[name]  # a run without is known by what it was before there was such a thing
            else:
                plain[name] = settings.model_dump(mode="json")
        return json.loads(json.dumps(plain))

    @property
    def id(self) -> str:
        """12 hex digits: the hash of all fields that decide numbers."""
        plain = self.to_plain()
        for name in CHANGES_NO_RESULT["training"]:
            del plain["training"][name]
        if self.training.optimizer != "muon":
            del plain["training"]["muon_rate"]
        by_content(plain["model"])
        text = json.dumps(plain, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
