"""Is the trainer right on a GPU? Curves against the CPU's, options against each other, resumed against whole."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._dynamo.testing import CompileCounterWithBackend

import rlrs
from benchmarks.gpu.gpu_rows import Measurement
from benchmarks.gpu.gpu_shapes import on, random_data, shape, spec
from rlrs.data import prepare
from rlrs.models import build_model
from rlrs.settings import DataConfig
from rlrs.training import RunSpec, StopFlag, Stopped, World, train
from rlrs.training.loop import Loop

STEPS = 50
NEAR = 5e-3
"""Nats between two curves of float32 that are to be one. Chosen here: rounding grows over 50 steps."""


def losses(run: RunSpec, data: Any, world: World) -> list[float]:
    """The loss of every step."""
    found: list[float] = []
    train(run, data, progress=lambda _, loss: found.append(loss), validate=False, world=world)
    return found


def apart(a: list[float], b: list[float]) -> float:
    """Largest difference of two curves of one length."""
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def curve(device: str, kind: str) -> dict[str, Any]:
    """Losses of every step in float32, against the CPU's."""
    data = random_data(shape(kind, device))
    run = spec(shape(kind, device), data, STEPS)
    here, there = losses(run, data, World(device=on(device))), losses(run, data, World())
    return {"passed": apart(here, there) < NEAR, "apart": apart(here, there), "losses": here, "cpu": there}


def bfloat16(device: str, kind: str) -> dict[str, Any]:
    """The end of the curve in bfloat16, against float32."""
    data = random_data(shape(kind, device))
    half, whole = (
        losses(spec(shape(kind, device), data, STEPS, dtype=dtype), data, World(device=on(device)))
        for dtype in ("bfloat16", "float32")
    )
    gap = abs(sum(half[-10:]) - sum(whole[-10:])) / 10
    return {"passed": gap < 0.05, "apart_at_end": gap, "losses": half}


def compiled(device: str) -> dict[str, Any]:
    """`training.compile` against without."""
    data = random_data(shape("right", device))
    a, b = (
        losses(spec(shape("right", device), data, STEPS, compile=compile), data, World(device=on(device)))
        for compile in (True, False)
    )
    return {"passed": apart(a, b) < NEAR, "apart": apart(a, b)}


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Kernels that add in one order only, inside."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics, without its clock."""
    clock = {"seconds", "tokens_per_second", "flops_per_second"}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in clock} for row in rows]


def resumed(device: str, kind: str, ordered: bool) -> dict[str, Any]:
    """A run that is stopped at half and resumed, and a second whole run: every number of every line the same."""
    data = random_data(shape(kind, device))
    run = spec(shape(kind, device), data, STEPS, dtype="bfloat16")
    world = World(device=on(device))
    with tempfile.TemporaryDirectory() as name, deterministic(ordered):
        folder, flag = Path(name), StopFlag()

        def halfway(step: int, loss: float) -> None:
            flag.signal = "SIGTERM" if step == STEPS // 2 else None

        train(run, data, folder / "whole", world=world)
        train(run, data, folder / "again", world=world)
        with contextlib.suppress(Stopped):
            train(run, data, folder / "stopped", world=world, progress=halfway, stop=flag)
        flag.signal = None
        train(run, data, folder / "stopped", world=world)
        whole, again, stopped = (lines(folder / part) for part in ("whole", "again", "stopped"))
    gap = max(abs(a["loss"] - b["loss"]) for a, b in zip(whole, stopped, strict=True) if "loss" in a)
    return {"passed": whole == stopped, "apart": gap, "two_whole_runs_equal": whole == again}


def optimizer_graphs(device: str) -> dict[str, Any]:
    """A compiled optimizer whose rates are tensors: graphs after each of 20 steps, in which every rate moves."""
    counter = CompileCounterWithBackend("inductor" if device == "cuda" else "eager")
    torch._dynamo.reset()
    model = build_model(shape("right", device).model, 256).to(on(device))
    ratios = rlrs.Ratios({"embedding": {"start": 5, "end": 0.5}})
    groups = rlrs.param_groups(model, ratios, lr=torch.tensor(1e-3, device=on(device)))
    optimizer = torch.optim.AdamW(groups, capturable=device == "cuda")
    scheduler = rlrs.RelativeLR(optimizer, ratios, total_steps=30, warmup_steps=3, final_fraction=0.1)
    step = torch.compile(optimizer.step, backend=counter)
    frames = []
    for _ in range(20):
        for weight in model.parameters():
            weight.grad = torch.randn_like(weight)
        step()
        scheduler.step()
        frames.append(counter.frame_count)
    return {"passed": frames[-1] == frames[1], "graphs": frames[-1], "after_each_step": frames}


def fsdp2_on_one_rank(device: str) -> dict[str, Any]:
    """FSDP2 over NCCL (gloo on a CPU) with one rank, against the undivided model."""
    data = random_data(shape("right moe", device))
    run = spec(shape("right moe", device), data, STEPS)
    alone = losses(run, data, World(device=on(device)))
    with tempfile.TemporaryDirectory() as folder:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            background = dist.new_group(backend="gloo")
            assert isinstance(background, dist.ProcessGroup)
            world = World(0, 1, on(device), dist.group.WORLD, background)
            one = losses(spec(shape("right moe", device), data, STEPS, distributed="fsdp2"), data, world)
        finally:
            dist.destroy_process_group()
    return {"passed": apart(one, alone) < NEAR, "apart": apart(one, alone)}


def workers_on_one_gpu(device: str) -> dict[str, Any]:
    """Eight runs on four workers that share a GPU by fractions, against the same runs one after another."""
    from rlrs.search import Processes

    model = shape("right", device)
    with tempfile.TemporaryDirectory() as name:
        data = prepare(
            DataConfig(vocab_size=model.vocabulary + 1, sequence_length=model.length, max_bytes=500_000), name
        )
        runs = {lr: spec(model, data, STEPS, lr=lr, score_steps=10) for lr in (1e-3, 2e-3, 3e-3, 4e-3)}
        with Processes(Path(name), 4, gpus=0.25 if device == "cuda" else 0) as engine:
            for lr, run in runs.items():
                engine.submit(lr, run, validate=False)
            found = {}
            while engine.pending:
                if (ended := engine.next(timeout=60)) is not None:
                    found[ended[0]] = ended[1].score
        alone = {lr: train(run, data, validate=False, world=World(device=on(device))).score for lr, run in runs.items()}
    gap = max(abs(found[lr] - alone[lr]) for lr in runs)
    return {"passed": gap < NEAR, "apart": gap, "workers": 4}


def no_waits(device: str, kind: str) -> dict[str, Any]:
    """Steps between two lines, in which torch refuses every wait for the GPU (on a CPU: the same steps)."""
    data = random_data(shape(kind, device))
    run = spec(shape(kind, device), data, STEPS, log_every=20, dtype="bfloat16")
    loop = Loop(run, data, None, World(device=on(device)), validate=False, prune=None, stop=StopFlag())
    loop._train_step(log=False)  # the first has a line, and allocates
    try:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        for _ in range(10):
            loop._train_step(log=False)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    return {"passed": loop.step == 11, "refused": device == "cuda"}


def measurements(device: str) -> list[Measurement]:
    """All of this phase, the cheapest first; seconds are guesses that leave room."""

    def of(name: str, measure: Callable[..., dict[str, Any]], seconds: float, *more: Any) -> Measurement:
        return Measurement(name, partial(measure, device, *more), seconds if device == "cuda" else 2)

    return [
        *(of(f"curve, {kind}", curve, 20, kind) for kind in ("right", "right moe")),
        *(of(f"no waits, {kind}", no_waits, 10, kind) for kind in ("right", "right moe", "right dropless")),
        *(of(f"bfloat16, {kind}", bfloat16, 10, kind) for kind in ("right", "right dropless")),
        *(of(f"resumed, {kind}", resumed, 15, kind, False) for kind in ("right", "right moe")),
        of("resumed, deterministic kernels", resumed, 15, "right moe", True),
        of("fsdp2 on one rank", fsdp2_on_one_rank, 15),
        of("compiled optimizer", optimizer_graphs, 30),
        of("four workers", workers_on_one_gpu, 30),
        of("compiled model", compiled, 60),
    ]
