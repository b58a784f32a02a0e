"""Is the trainer fast on a GPU? Tokens per second beside other trainers, and proxies per minute."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.gpu_rows import Measurement
from benchmarks.gpu.gpu_shapes import on, random_data, shape, spec, wait
from benchmarks.gpu.nano import NanoModel
from benchmarks.gpu.stacked import side_by_side
from benchmarks.speed.shapes import BETAS, CLIP, LEARNING_RATE, WEIGHT_DECAY, Shape
from rlrs.data import TokenData, prepare
from rlrs.models import build_model, training_flops
from rlrs.settings import DataConfig
from rlrs.training import World, train

LOG_EVERY = 10
WARM_UP = {"cuda": 20, "cpu": 10}
FOREVER = 1_000_000
PROXY_STEPS = {"cuda": 300, "cpu": 5}


class _Enough(Exception):  # noqa: N818  no error: what was wanted is known
    """A run is ended from within."""


Lap = Callable[[int], bool]
"""Told the number of steps done when all of them are; says whether there is to be another one."""


class Stopwatch:
    """Tokens per second from the step after the warm-up to the last in time."""

    def __init__(self, of: Shape, device: str, seconds: float) -> None:
        self.tokens, self.device, self.seconds = of.batch_size * of.length, device, seconds
        self.laps: list[tuple[int, float]] = []

    def __call__(self, step: int) -> bool:
        """After a step; whether to go on."""
        if step < WARM_UP[self.device] or step % LOG_EVERY:
            return True
        wait(self.device)
        self.laps.append((step, time.perf_counter()))
        return self.laps[-1][1] - self.laps[0][1] < self.seconds

    def rate(self) -> float:
        """Tokens per second."""
        (first, began), (last, ended) = self.laps[0], self.laps[-1]
        return (last - first) * self.tokens / (ended - began)


def rlrs_trainer(of: Shape, data: TokenData, device: str, lap: Lap, *, compile: bool) -> None:
    """Ours, whole: files, metrics of components every ten steps."""
    run = spec(of, data, FOREVER, log_every=LOG_EVERY, dtype=_dtype(device), compile=compile)

    def progress(step: int, loss: float) -> None:
        if not lap(step):
            raise _Enough  # a stop would write a checkpoint

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(_Enough):
        train(run, data, folder, progress=progress, world=World(device=on(device)), validate=False)


def plain_loop(of: Shape, data: TokenData, device: str, lap: Lap, *, compile: bool, nano: bool) -> None:
    """The loop that one would write by hand: nanoGPT's, or the same around our model."""
    torch.manual_seed(0)
    model = (NanoModel(of) if nano else build_model(of.model, of.vocabulary)).to(on(device))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    forward = torch.compile(model) if compile else model

    def placed(rows: Tensor) -> Tensor:
        return rows.contiguous().pin_memory().to(on(device), non_blocking=True) if device == "cuda" else rows

    for step in count(1):
        batch = map(placed, data.batch(0, step, of.batch_size))
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            output = forward(*batch)
        (output if nano else output.objective).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % LOG_EVERY == 0:
            (output if nano else output.loss).item()
        if not lap(step):
            return


def transformers_trainer(of: Shape, data: TokenData, device: str, lap: Lap) -> None:
    """The model of transformers with the same shape in its `Trainer`."""
    from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    kind, settings = of.hub()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings))
    inputs = [row for step in range(8) for row in data.batch(0, step, of.batch_size)[0]]

    class Timed(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not lap(state.global_step)

    def collate(rows: list[Tensor]) -> dict[str, Tensor]:
        inputs_BT = torch.stack(rows)
        return {"input_ids": inputs_BT, "labels": inputs_BT}

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=of.batch_size,
            learning_rate=LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=CLIP,
            optim="adamw_torch_fused",
            bf16=device == "cuda",
            logging_steps=LOG_EVERY,
            save_strategy="no",
            max_steps=FOREVER,
            report_to="none",
            disable_tqdm=True,
            use_cpu=device == "cpu",
            dataloader_pin_memory=device == "cuda",
            remove_unused_columns=False,
        )
        data_set: Any = inputs * 10_000
        Trainer(model=model, args=arguments, train_dataset=data_set, data_collator=collate, callbacks=[Timed()]).train()


CONTENDERS: dict[str, Callable[..., None]] = {
    "rlrs": partial(rlrs_trainer, compile=False),
    "rlrs, compiled": partial(rlrs_trainer, compile=True),
    "nanoGPT-like": partial(plain_loop, compile=False, nano=True),
    "nanoGPT-like, compiled": partial(plain_loop, compile=True, nano=True),
    "plain loop": partial(plain_loop, compile=False, nano=False),
    "transformers": transformers_trainer,
}


def _dtype(device: str) -> str:
    return "bfloat16" if device == "cuda" else "float32"


def peak(device: str) -> float:
    """Operations per second of square products on random numbers, the median of ten."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (512, torch.float32)
    a, b = (torch.randn(side, side, device=on(device), dtype=dtype) for _ in range(2))
    times = []
    for _ in range(13):
        wait(device)
        started = time.perf_counter()
        a @ b
        wait(device)
        times.append(time.perf_counter() - started)
    return 2 * side**3 / sorted(times[3:])[5]


def tokens_per_second(contender: str, kind: str, device: str) -> dict[str, Any]:
    """How fast a trainer trains a shape, and which share of the device's products that is."""
    of = shape(kind, device)
    data = random_data(of)
    watch = Stopwatch(of, device, 8 if device == "cuda" else 0.3)
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    CONTENDERS[contender](of, data, device, watch)
    rate, best = watch.rate(), peak(device)
    with torch.device("meta"):
        flops = training_flops(build_model(of.model, of.vocabulary), of.length)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    return {
        "tokens_per_second": round(rate),
        "share_of_peak": round(rate * flops / best, 4),
        "peak": best,
        "gigabytes": memory and round(memory, 2),
        "steps": watch.laps[-1][0] - watch.laps[0][0],
    }


def proxies_per_minute(workers: int, device: str) -> dict[str, Any]:
    """Runs of a proxy in so many processes that share the device, after each has had one."""
    from rlrs.search import Processes

    of, steps = shape("proxy", device), PROXY_STEPS[device]
    with tempfile.TemporaryDirectory() as name:
        config = DataConfig(vocab_size=of.vocabulary + 1, sequence_length=of.length, max_bytes=2_000_000)
        data = prepare(config, name)
        with Processes(Path(name), workers, gpus=1 / workers if device == "cuda" else 0) as engine:

            def take(runs: int, steps: int, first: int) -> float:
                started = time.perf_counter()
                for number in range(runs):
                    run = spec(of, data, steps, lr=1e-3 * 1.001 ** (first + number), log_every=10, dtype=_dtype(device))
                    engine.submit(first + number, run, validate=False)
                while engine.pending:
                    engine.next(timeout=60)
                return time.perf_counter() - started

            take(workers, 5, 0)  # every worker begins, and loads its libraries
            seconds = take(2 * workers, steps, 1_000)
    rate = 2 * workers * steps / seconds  # steps per second of all
    return {"workers": workers, "steps": steps, "proxies_per_minute": round(60 * rate / 1_000, 3), "seconds": seconds}


def measurements(device: str) -> list[Measurement]:
    """All of this phase; on a CPU without what compiles, and with fewer side by side."""
    gpu = device == "cuda"
    found = []
    for kind in ("dense 124M", "moe 8x34M"):
        for name in CONTENDERS:
            dense_only, compiles = name.startswith("nano"), name.endswith("compiled")
            if (dense_only and kind.startswith("moe")) or (compiles and not gpu):
                continue
            seconds = (60 if compiles else 25) if gpu else 2
            found.append(Measurement(f"{kind}: {name}", partial(tokens_per_second, name, kind, device), seconds))
    for trials in (1, 4, 8, 16) if gpu else (1, 2):
        for compile in (False, True) if gpu else (False,):
            name = f"stacked: {trials}{', compiled' if compile else ''}"
            measure = partial(side_by_side, trials, device, compile=compile)
            found.append(Measurement(name, measure, (40 if compile else 12) if gpu else 2))
    for workers in (1, 4, 8, 16) if gpu else (1, 2):
        measure = partial(proxies_per_minute, workers, device)
        found.append(Measurement(f"side by side: {workers}", measure, 45 if gpu else 2))
    return found
