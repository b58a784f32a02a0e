"""What a training step achieves of the processor's matrix-product peak, and where the rest of its time goes.

    python -m benchmarks.speed.profiled '{"shape": "dense 64", "threads": 1, "data": "..."}'

A process of its own, so that the number of threads is set before anything runs.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.speed.shapes import BETAS, CLIP, LEARNING_RATE, LENGTH, SHAPES, WEIGHT_DECAY
from rlrs.data import TokenData
from rlrs.models import build_model, training_flops

SQUARES = (256, 512, 1024)
"""Sides of the square products whose best rate is the peak."""
SECONDS = 4
"""Of steps that are timed, and of products."""

PRODUCTS = ("aten::mm", "aten::bmm", "aten::addmm", "aten::addmm_", "aten::baddbmm", "aten::_grouped_mm")
PARTS = {
    "attention": ("scaled_dot_product", "ScaledDotProduct", "attention"),
    "norms": ("_RMSNorm",),
    "loss over the vocabulary": ("_ProjectedCrossEntropy", "loss"),
    "activation": ("activation", "SiluBackward"),
    "rotary positions": ("rotary", "ViewAsReal", "ViewAsComplex"),
    "routing": ("_Rearrange", "routing"),
    "AdamW": ("Optimizer.step",),
    "clipping": ("clipping",),
}
"""Part of a step -> words in the names of what the profiler sees; a product is a product wherever it is."""
REST = "the rest"


def peak(dtype: torch.dtype) -> dict[str, float]:
    """Best rate of square products in one dtype, operations per second, by side."""
    rates = {}
    for side in SQUARES:
        a, b, out = (torch.ones(side, side, dtype=dtype) for _ in range(3))
        best, until = float("inf"), time.perf_counter() + SECONDS / len(SQUARES)
        while time.perf_counter() < until:
            for right in (b, b.T):  # as a linear layer has it, for which a dtype may have a faster path
                start = time.perf_counter()
                torch.mm(a, right, out=out)
                best = min(best, time.perf_counter() - start)
        rates[str(side)] = 2 * side**3 / best
    return rates


def stepper(shape_name: str, data: TokenData, dtype: str) -> tuple[Callable[[int], None], int]:
    """Something that takes one training step, and the operations of one."""
    shape = SHAPES[shape_name]
    model = build_model(shape.model, data.vocab_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )

    def step(number: int) -> None:
        batch = data.batch(0, number, shape.batch_size)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            output = model(*batch)
        output.objective.backward()
        with record_function("clipping"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP, foreach=True)
        optimizer.step()

    return step, training_flops(model, LENGTH) * shape.batch_size * LENGTH


@contextlib.contextmanager
def named_parts() -> Iterator[None]:
    """Name the functions of our models to the profiler."""

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with record_function(name):
                return function(*args, **kwargs)

        return call

    with contextlib.ExitStack() as stack:
        for place, name in (
            ("attention.rotate", "rotary"),
            ("feed_forward.gated_silu", "activation"),
            ("moe.gated_silu", "activation"),
            ("moe.assign", "routing"),
            ("moe.load_balancing", "routing"),
        ):
            module, _, function = f"rlrs.models.{place}".rpartition(".")
            original = getattr(sys.modules[module], function)
            stack.enter_context(mock.patch(f"rlrs.models.{place}", named(name, original)))
        yield


def part_of(name: str) -> str | None:
    """Part of a step that a name stands for."""
    return next((part for part, words in PARTS.items() if any(word in name for word in words)), None)


def shares(events: Any) -> dict[str, float]:
    """Part of a step -> share of its time, from what the profiler saw."""
    forward: dict[int, str] = {}  # number of an operation of the forward pass -> its part
    parts: dict[int, str] = {}

    def part(event: Any) -> str:
        if event.id not in parts:
            above = event.cpu_parent
            inherited = part(above) if above is not None else REST
            if event.name.startswith("autograd::engine") and event.sequence_nr in forward:
                inherited = forward[event.sequence_nr]
            parts[event.id] = part_of(event.name) or inherited
            if event.sequence_nr >= 0 and "Backward" not in event.name:
                forward.setdefault(event.sequence_nr, parts[event.id])
        return parts[event.id]

    seconds: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        name = "matrix products" if event.name in PRODUCTS else part(event)
        seconds[name] = seconds.get(name, 0.0) + event.self_cpu_time_total
    total = sum(seconds.values())
    return {name: value / total for name, value in sorted(seconds.items(), key=lambda item: -item[1])}


def main() -> None:
    order = json.loads(sys.argv[1])
    torch.set_num_threads(order["threads"])
    torch.manual_seed(0)
    row: dict[str, Any] = {name: order[name] for name in ("shape", "threads", "dtype")}
    row["peak"] = peak(getattr(torch, order["dtype"]))
    data, times = TokenData.load(order["data"]), []
    step, row["flops_per_step"] = stepper(order["shape"], data, order["dtype"])
    step(0)
    until = time.perf_counter() + SECONDS
    while time.perf_counter() < until or len(times) < 2:
        start = time.perf_counter()
        step(len(times) + 1)
        times.append(round(time.perf_counter() - start, 5))
    row["seconds"] = times
    with named_parts(), profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(3 if max(times) < 2 else 1):
            step(number)
    row["shares"] = shares(profiler.events())
    print(json.dumps(row))


if __name__ == "__main__":
    main()
