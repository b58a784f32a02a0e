"""What is known of a run after one of its steps: measured in a loop, or read from a line of metrics.jsonl."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrs.records import MetricsLine, RecordError, read_metrics
from rlrs.records.frozen import read_plain, shown

METRICS = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class ComponentNumbers:
    """One component in one optimizer step; None where it was not measured."""

    lr: float | None = None
    """The rate that its parameter groups had."""
    scheduled_lr: float | None = None
    """The rate that the schedule gives."""
    ratio: float | None = None
    grad_norm: float | None = None
    """Before clipping."""
    update_ratio: float | None = None
    """Norm of the step's change over the norm of the weights."""
    weight_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class Observation:
    """A run after `step` optimizer steps; the same on all ranks."""

    step: int
    loss: float | None = None
    """Mean training loss since the observation before, nats per token."""
    valid_loss: float | None = None
    """On held-out data, nats per token."""
    grad_norm: float | None = None
    """Of all parameters, before clipping."""
    clip: float | None = None
    """Largest norm that clipping leaves."""
    lr_base: float | None = None
    speed: float | None = None
    """Steps or tokens per second since the observation before; only its changes matter."""
    components: Mapping[str, ComponentNumbers] = field(default_factory=dict)
    router_loads: tuple[tuple[float, ...], ...] = ()
    """Share of the tokens that each expert got, one row for each router (or their mean)."""
    router_entropy: float | None = None
    """Of the routers' probabilities, nats per token."""


def read_observations(run: str | Path) -> Iterator[Observation]:
    """What a run's metrics.jsonl says, line by line; the clip is that of the run.json beside it, if there is one.

    Args:
        run: folder of a run, or the file itself.

    Raises:
        RecordError: a line that is none, or a damaged run.json.
        OSError: no such file.
    """
    path = Path(run) / METRICS if Path(run).is_dir() else Path(run)
    clip = clip_of(path.parent / "run.json")
    for line in read_metrics(path):
        yield observation_of(line, clip)


def write_observation(path: Path, seen: Observation, tokens: int) -> None:
    """Append an observation to a metrics.jsonl."""
    numbers = {name: getattr(seen, name) for name in ("loss", "valid_loss", "lr_base", "grad_norm", "clip")}
    numbers["tokens_per_second"] = seen.speed if tokens else None
    line: dict[str, Any] = {"step": seen.step, "tokens": tokens}
    line |= {name: value for name, value in numbers.items() if value is not None}
    line["components"] = {
        name: {key: value for key, value in {"ratio": 1.0, **vars(numbers)}.items() if value is not None}
        for name, numbers in seen.components.items()
    }
    if seen.router_loads:
        # The mean over routers, each from its busiest expert to its idlest, as the reference trainer writes it.
        ranked = [sorted(load, reverse=True) for load in seen.router_loads]
        load = [math.fsum(column) / len(ranked) for column in zip(*ranked, strict=True)]
        total = math.fsum(load) or 1.0
        line["router"] = {"load": [one / total for one in load], "dropped": 0.0, "entropy": seen.router_entropy or 0.0}
    with path.open("ab") as file:
        file.write(json.dumps(line).encode() + b"\n")


def observation_of(line: MetricsLine, clip: float | None) -> Observation:
    """What a line says, with the norm that gradients were clipped to where the line has none."""
    return Observation(
        step=line.step,
        loss=line.loss,
        valid_loss=line.valid_loss,
        grad_norm=line.grad_norm,
        clip=line.clip or clip,
        lr_base=line.lr_base,
        speed=line.tokens_per_second or None,
        components={
            name: ComponentNumbers(
                lr=numbers.lr,
                scheduled_lr=numbers.scheduled_lr,
                ratio=numbers.ratio,
                grad_norm=numbers.grad_norm,
                update_ratio=numbers.update_ratio,
                weight_norm=numbers.weight_norm,
            )
            for name, numbers in line.components.items()
        },
        router_loads=(line.router.load,) if line.router else (),
        router_entropy=line.router.entropy if line.router else None,
    )


def clip_of(path: Path) -> float | None:
    """The norm that gradients are clipped to, from a run.json; None where there is none.

    Raises:
        RecordError: a damaged file.
    """
    try:
        plain: Any = read_plain(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RecordError(f"{path}: damaged: {shown(error, 200)}") from None
    training = plain.get("training") if isinstance(plain, dict) else None
    clip = training.get("clip") if isinstance(training, dict) else None
    return float(clip) if isinstance(clip, int | float) and not isinstance(clip, bool) else None
