"""What a run's steps change: weights, optimizers, schedule; and the same as named tensors, for checkpoints."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from rlrs.discovery import Hypergradient, LearnedLR
from rlrs.lr_scheduler import RelativeLR
from rlrs.models import build_model
from rlrs.records import Learned
from rlrs.training.distributed import Sharding, World, divide
from rlrs.training.optimizers import make_optimizers
from rlrs.training.spec import RunSpec

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


class TrainState:
    """A run's model with its optimizers and its schedule.

    Args:
        spec: the run.
        vocab_size: entries of the vocabulary.
        world: the ranks.
        how: the model is divided between them.
    """

    def __init__(self, spec: RunSpec, vocab_size: int, world: World, how: Sharding) -> None:
        torch.manual_seed(spec.seed)
        self.world = world
        self.sharded = how == "fsdp2" and world.group is not None
        self.dtype, self.lr = spec.training.dtype, spec.lr
        self.scale = 1.0
        """Base peak rate now over that of the spec: a guard may have made it smaller."""
        self.model = build_model(spec.model, vocab_size)
        self.divided = divide(self.model, world, how)
        self.forward: nn.Module = self.divided
        if spec.training.compile:
            self.forward = cast(nn.Module, torch.compile(self.divided))
        self.weights = list(self.model.parameters())
        self.optimizers = make_optimizers(self.model, spec)
        schedule: dict[str, Any] = {
            "total_steps": spec.steps,
            "warmup_steps": spec.warmup_steps,
            "final_fraction": spec.final_fraction,
            "schedule": spec.training.schedule,
        }
        ratios, self.learning, self._lr = spec.relative_rates(), spec.learn, spec.lr
        self.learner: LearnedLR | None = None
        if (rule := spec.learn) is not None:
            self.learner = LearnedLR(
                self.optimizers,
                ratios,
                rule=Hypergradient(
                    reach=rule.reach,
                    spread=math.inf if rule.spread is None else rule.spread,
                    bound=rule.bound,
                    base=rule.base,
                ),
                components=list(rule.knots),
                process_group=world.group,
                **schedule,
            )
        self.scheduler: RelativeLR = self.learner or RelativeLR(self.optimizers, ratios, **schedule)
        self._saved = torch.zeros(0, dtype=torch.uint8)  # of the learner: what a checkpoint has beside its updates

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Matrix products in bfloat16 inside, if the run is of that."""
        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16)

    def clip_gradients(self, largest: float) -> Tensor:
        """Scale gradients down to a norm of all of them together; the norm that they had, a scalar."""
        norm = nn.utils.clip_grad_norm_(self.weights, largest, foreach=True)
        return cast("DTensor", norm).full_tensor() if self.sharded else norm

    def rates(self) -> dict[str, dict[str, float]]:
        """Component -> present rate and relative rate; `base` is the base rate."""
        relative = self.scheduler.relative_rates()
        rates = {name: {"lr": rate, "ratio": relative[name]} for name, rate in self.scheduler.rates().items()}
        # Not the scheduler's, which is the largest where Muon has a base rate of its own.
        base = self.scale * self.lr * self.scheduler._base_value()
        return {**rates, "base": {"lr": base, "ratio": 1.0}}

    def tensors(self) -> dict[str, Tensor]:
        """Weights, buffers and the optimizers' moments by name: the same names however the model is divided."""
        parameters = dict(self.model.named_parameters())  # a tied weight once
        aliases = dict(self.model.named_parameters(remove_duplicate=False))
        buffers = {name: tensor for name, tensor in self.model.state_dict().items() if name not in aliases}
        named = {f"model.{name}": tensor for name, tensor in {**parameters, **buffers}.items()}
        for name, weight in parameters.items():
            for optimizer in self.optimizers:
                for key, value in optimizer.state.get(weight, {}).items():
                    if isinstance(value, Tensor):
                        named[f"optimizer.{name}.{key}"] = value
        if self.learner is not None:
            state = self.learner.state_dict()["learned"]
            named |= {f"learner.update.{name}": update for name, update in state.pop("updates").items()}
            text = json.dumps(state, sort_keys=True).encode()
            named["learner.state"] = self._saved if len(self._saved) else _bytes(text)
        return named

    def learned(self) -> Learned | None:
        """The ratios that the run has learned; None for one that learns none."""
        if self.learner is None or self.learning is None:
            return None
        found = self.learner.learned(self.learning.knots)
        base, uncertainty = found.provenance["base"], found.provenance["learned"]["uncertainty"]
        return Learned(
            lr=float(f"{self._lr * found.provenance['learned']['base']:.6g}"),  # Muon's own rate is its settings'
            final_fraction=base["final_fraction"],
            ratios={name: found[name].knots for name in self.learning.knots},
            deviations={name: tuple(of["deviations"]) for name, of in uncertainty.items()},
            residuals={name: of["residual"] for name, of in uncertainty.items()},
        )

    def tensors_like(self, shapes: Mapping[str, list[int]]) -> dict[str, Tensor]:
        """The tensors to load a checkpoint into; moments are made, and those that there are let go."""
        for optimizer in self.optimizers:
            optimizer.state.clear()
        owner = {
            weight: optimizer for optimizer in self.optimizers for g in optimizer.param_groups for weight in g["params"]
        }
        for name, weight in self.model.named_parameters():
            prefix = f"optimizer.{name}."
            for full in (full for full in shapes if full.startswith(prefix)):
                like = list(weight.shape) == shapes[full]
                # Step counts are plain tensors also where weights are sharded.
                moment = (
                    torch.zeros_like(weight, requires_grad=False)
                    if like
                    else torch.zeros(shapes[full], device=self.world.device)
                )
                owner[weight].state[weight][full.removeprefix(prefix)] = moment
        if "learner.state" in shapes:
            self._saved = torch.zeros(shapes["learner.state"], dtype=torch.uint8)
        return self.tensors()

    def go_to(self, step: int) -> None:
        """Set the schedule to a number of finished steps; a learner, to what the loaded tensors have of it."""
        state: dict[str, Any] = self.scheduler.state_dict()
        if len(self._saved):
            saved = json.loads(bytes(self._saved.tolist()))
            prefix = "learner.update."
            updates = {n.removeprefix(prefix): t for n, t in self.tensors().items() if n.startswith(prefix)}
            state["learned"] = {**saved, "updates": updates}
            self._saved = self._saved[:0]
        self.scheduler.load_state_dict({**state, "last_epoch": step})


def _bytes(text: bytes) -> Tensor:
    return torch.tensor(list(text), dtype=torch.uint8)


def random_seed(seed: int, step: int, rank: int) -> int:
    """Of the random numbers that one rank draws in one step."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "little")
