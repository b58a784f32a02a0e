"""Relative learning rates in transformers' `Trainer` and in every class made from it, TRL's among them.

trainer = RelativeTrainer(model, args, train_dataset=..., ratios=ratios, final_fraction=0.1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch.optim import Optimizer

from rlrs.components import Rule, partition
from rlrs.integrations import require
from rlrs.integrations._ends import check_ends
from rlrs.lr_scheduler import RelativeLR
from rlrs.param_groups import param_groups
from rlrs.ratios import Ratios
from rlrs.restarts import Restarts

require("transformers", "transformers")
require("accelerate", "transformers")

from transformers import Trainer, TrainerCallback  # noqa: E402

__all__ = ["RelativeTrainer"]

# lr_scheduler_type -> shape of `rlrs.schedules.BaseSchedule`, and the final fraction that transformers gives it.
_SHAPES: dict[str, tuple[Literal["linear", "cosine", "constant", "wsd"], float | None]] = {
    "linear": ("linear", 0.0),
    "cosine": ("cosine", 0.0),
    "cosine_with_min_lr": ("cosine", None),
    "cosine_with_restarts": ("cosine", 0.0),
    "constant": ("constant", None),
    "constant_with_warmup": ("constant", None),
    "warmup_stable_decay": ("wsd", 0.0),
}
# What makes an optimizer choose its parameters itself: GaLore and Apollo, LOMO, layer-wise ones.
_OWN_GROUPS = ("params", "model", "optimizer_dict")


class RelativeTrainer(Trainer):
    """A `Trainer` whose optimizer has a learning rate per component.

    Everything else stays as `TrainingArguments` say: optimizer, peak rate, weight decay, warm-up, total steps,
    `lr_scheduler_type` (linear, cosine, cosine_with_min_lr, cosine_with_restarts, constant, constant_with_warmup,
    warmup_stable_decay with `decay_type="linear"`). Three differences from transformers' schedules: the first step has
    the rate `1 / W` of the peak, not 0; a cycle of restarts begins at a whole step; and parameters without decay are
    those of `rlrs.components.undecayed`.

    The log has the base rate as `learning_rate` and every component's as `learning_rate/COMPONENT`, both as used in
    the step that is logged. Checkpoints and resuming are the Trainer's own.

    To put it in front of a subclass: `class RelativeSFTTrainer(RelativeTrainer, SFTTrainer): ...`.

    Args:
        args: for the Trainer, all of them.
        ratios: relative rates per component.
        rules: of the partition, before everything else; see `rlrs.partition`.
        adapters: LoRA weights `follow` the layer that they adapt, or are a component of their `own`.
        final_fraction: base rate at the end over its peak, in place of what `lr_scheduler_type` implies: 0 for linear
            and cosine, at which the end of a ratio has no effect.
        weight_decays: of components that have their own.
        kwargs: for the Trainer, all of them. An optimizer given in `optimizers=(optimizer, None)` should be made over
            `rlrs.param_groups`.

    Raises:
        ValueError: from `train()`, for a schedule or an optimizer that cannot follow ratios.
        RatiosError: from `train()`, for ratios of a component that the model does not have, or whose end has no
            effect because the base rate ends at 0.
    """

    def __init__(
        self,
        *args: Any,
        ratios: Ratios | Mapping[str, Any],
        rules: Sequence[Rule] = (),
        adapters: Literal["follow", "own"] = "follow",
        final_fraction: float | None = None,
        weight_decays: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self.ratios = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
        self.rules = tuple(rules)
        self.adapters: Literal["follow", "own"] = adapters
        self.final_fraction = final_fraction
        self.weight_decays = dict(weight_decays or {})
        self._rates: dict[str, float] = {}
        super().__init__(*args, **kwargs)
        self.add_callback(_UsedRates(self._rates))

    def create_optimizer(self, model: torch.nn.Module | None = None) -> Optimizer:
        """The optimizer of `args.optim` over named groups, unless one was given."""
        if self.optimizer is not None:
            return super().create_optimizer(model)
        module: Any = self.model if model is None else model
        chosen = self.optimizer_cls_and_kwargs
        cls, kwargs = chosen or self.get_optimizer_cls_and_kwargs(self.args, module)
        own = not (isinstance(cls, type) and issubclass(cls, Optimizer)) or any(key in kwargs for key in _OWN_GROUPS)
        if own:
            raise ValueError(
                f"optim={str(self.args.optim)!r} makes its own parameter groups, so they cannot have ratios; give "
                "optimizers=(an optimizer over rlrs.param_groups, None)"
            )
        groups = param_groups(
            module,
            self.ratios,
            lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            weight_decays=self.weight_decays,
            parts=partition(module, self.rules, adapters=self.adapters),
        )
        # The Trainer takes groups from the keyword arguments of its optimizer, and does the rest as usual.
        self.optimizer_cls_and_kwargs = (cls, {**kwargs, "params": groups})
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = chosen

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> RelativeLR:
        """`RelativeLR` over `num_training_steps` optimizer steps, warm-up included."""
        if self.lr_scheduler is None:
            driven: Any = self.optimizer if optimizer is None else optimizer
            self.lr_scheduler = RelativeLR(
                driven,
                self.ratios,
                total_steps=num_training_steps,
                **self._base_schedule(num_training_steps),
            )
            self._created_lr_scheduler = True  # the Trainer makes another one for another call of train()
        if not isinstance(self.lr_scheduler, RelativeLR):
            raise ValueError(
                f"optimizers= has a {type(self.lr_scheduler).__name__}, which would overwrite the relative rates; "
                "give optimizers=(optimizer, None)"
            )
        return self.lr_scheduler

    def _base_schedule(self, total_steps: int) -> dict[str, Any]:
        """Keyword arguments of `RelativeLR` that say what the `TrainingArguments` say."""
        kind = getattr(self.args.lr_scheduler_type, "value", self.args.lr_scheduler_type)
        if kind not in _SHAPES:
            raise ValueError(f"lr_scheduler_type={kind!r} has no relative form; should be one of {', '.join(_SHAPES)}")
        shape, final = _SHAPES[kind]
        given: Any = self.args.lr_scheduler_kwargs or {}  # a dictionary by now, whatever its annotation says
        options: dict[str, Any] = dict(given)
        schedule: dict[str, Any] = {
            "schedule": shape,
            "warmup_steps": 0 if kind == "constant" else self.args.get_warmup_steps(total_steps),
        }
        if kind == "cosine_with_min_lr":
            final = options.pop("min_lr_rate", None)
            if "min_lr" in options:
                final = options.pop("min_lr") / self.args.learning_rate
        elif kind == "cosine_with_restarts":
            cycles = options.pop("num_cycles", 1)
            schedule["restarts"] = _restarts(cycles, schedule["warmup_steps"], total_steps)
        elif kind == "warmup_stable_decay":
            if options.pop("decay_type", "cosine") != "linear" or "num_decay_steps" not in options:
                raise ValueError(
                    "lr_scheduler_type='warmup_stable_decay' wants lr_scheduler_kwargs with num_decay_steps and "
                    f"decay_type='linear', not {given!r}"
                )
            schedule["decay_fraction"] = options.pop("num_decay_steps") / total_steps
            final = options.pop("min_lr_ratio", final)
        if options:
            raise ValueError(f"lr_scheduler_kwargs: no relative form for {', '.join(options)} of {kind!r}")
        schedule["final_fraction"] = final if self.final_fraction is None else self.final_fraction
        if schedule["final_fraction"] == 0:
            check_ends(self.ratios, f"lr_scheduler_type={kind!r}", "final_fraction=0.1, or another")
        return schedule

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's log, with the base rate as `learning_rate` and `learning_rate/COMPONENT` beside it."""
        if "learning_rate" in logs:
            logs.update(self._rates)
        super().log(logs, *args, **kwargs)


def _restarts(cycles: Any, warmup_steps: int, total_steps: int) -> Restarts | None:
    """transformers' `num_cycles` equal cycles after one warm-up; None for one, which is an ordinary cosine.

    Where the steps after the warm-up cannot be divided evenly, a cycle of transformers' begins between two steps; here
    it begins at the later of them.
    """
    if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
        raise ValueError(f"lr_scheduler_kwargs: num_cycles should be a whole number from 1, not {cycles!r}")
    decay = total_steps - warmup_steps
    if cycles == 1:
        return None
    if decay < cycles:
        raise ValueError(f"lr_scheduler_kwargs: num_cycles={cycles} should be at most {decay}, the steps after warm-up")
    return Restarts(at=tuple(warmup_steps - (-number * decay // cycles) for number in range(1, cycles)), warmup_steps=0)


class _UsedRates(TrainerCallback):
    """Keeps the rates of a step before the scheduler goes on, which it does before the Trainer logs."""

    def __init__(self, rates: dict[str, float]) -> None:
        self.rates = rates

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scheduler: RelativeLR = kwargs["lr_scheduler"]
        self.rates["learning_rate"] = scheduler.base_rate()
        self.rates.update({f"learning_rate/{name}": rate for name, rate in scheduler.rates().items()})
