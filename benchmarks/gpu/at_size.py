"""Do ratios save steps at a width of 512? Each arm at the best of the base rates that the time allowed."""

from __future__ import annotations

import math
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.gpu_rows import DeviceRows
from benchmarks.gpu.gpu_shapes import on
from rlrs.data import TokenData, prepare
from rlrs.models import build_model, count_parameters
from rlrs.ratios import Ratios
from rlrs.settings import DataConfig, ModelConfig, TrainingConfig
from rlrs.training import RunSpec, StopFlag, Stopped, World, train

PHASE = "at size"
MULTIPLES = (1.0, 2.0, 0.5)
"""Of an arm's first base rate, in the order in which they are trained; more follow where the best is at an edge."""
FIRST_RATE = {"dense": 2e-3, "moe": 3e-3}
"""The paper's base rates of its proxies, which have this width."""
LEAST_TOKENS, TIMED_STEPS = 10_000_000, 12


def models(device: str) -> dict[str, ModelConfig]:
    """The paper's proxies; in the small on a CPU."""
    shape: dict[str, Any] = {"d_model": 512, "n_layers": 8, "n_heads": 8}
    if device == "cpu":
        shape = {"d_model": 32, "n_layers": 2, "n_heads": 2}
    return {"moe": ModelConfig(**shape, n_experts=8), "dense": ModelConfig(**shape, init_scale=0.333)}


def arms(kind: str) -> dict[str, Ratios]:
    """Ratios of every arm: the paper's preset, its starts held to the end, its embedding alone, none."""
    paper = Ratios.preset(f"paper-{kind}")
    held = Ratios({name: {"start": ratio.start, "end": ratio.start} for name, ratio in paper.items()})
    only = Ratios({"embedding": paper["embedding"]})
    return {"uniform": Ratios({}), "embedding only": only, "constant": held, "relative": paper}


def corpus(device: str) -> DataConfig:
    """All Python source of this interpreter: the standard library's and that of the packages."""
    if device == "cpu":
        return DataConfig(vocab_size=512, sequence_length=32, max_bytes=1_000_000)
    places = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    globs = tuple(f"files:{place}/**/*.py" for place in sorted(places))
    return DataConfig(
        source=globs, format="text", damaged="skip", vocab_size=8192, sequence_length=512, max_bytes=200_000_000
    )


def prepare_beside(device: str, folder: Path) -> subprocess.Popen[bytes]:
    """Begin to make tokens in another process, while the device does something else."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.gpu.at_size", device, str(folder)])


def run_spec(kind: str, arm: str, lr: float, steps: int, data: TokenData, device: str) -> RunSpec:
    """A run of an arm."""
    batch = 64 if device == "cuda" else 4
    dense = kind == "dense"
    return RunSpec(
        model=models(device)[kind],
        training=TrainingConfig(
            weight_decay=0.15 if dense else 0.1,
            dtype="bfloat16" if device == "cuda" else "float32",
            eval_tokens=(512 if device == "cuda" else 8) * data.sequence_length,
            score_steps=max(steps // 20, 1),
        ),
        steps=steps,
        batch_size=batch,
        seed=0,
        lr=lr,
        final_fraction=0.066666 if dense else 0.044444,
        ratios={name: list(ratio.knots) for name, ratio in arms(kind)[arm].items()},
        data_hash=data.hash,
    )


def seconds_per_step(kind: str, data: TokenData, device: str) -> float:
    """Time of a step, after a few."""
    moments: list[float] = []
    run = run_spec(kind, "uniform", 1e-3, 3 * TIMED_STEPS, data, device)
    run = RunSpec(**{**run.__dict__, "training": run.training.model_copy(update={"log_every": TIMED_STEPS})})
    train(
        run,
        data,
        progress=lambda *_: moments.append(time.perf_counter()),
        validate=False,
        world=World(device=on(device)),
    )
    return (moments[-1] - moments[-2]) / TIMED_STEPS


def plan(done: dict[tuple[str, str], dict[float, float]], kinds: tuple[str, ...]) -> Iterator[tuple[str, str, float]]:
    """Runs (model, arm, base rate) that are to come, asked again after each: all arms at a rate, then the next rate.

    Args:
        done: of an arm of a model, base rate -> validation loss; infinite for a run that diverged.
        kinds: models.
    """
    while True:
        waiting = []
        for place, kind in enumerate(kinds):
            for arm in arms(kind):
                found = done.setdefault((kind, arm), {})
                rates = [FIRST_RATE[kind] * multiple for multiple in MULTIPLES]
                missing = [rate for rate in rates if rate not in found]
                if not missing:
                    best = min(found, key=lambda rate: found[rate])
                    edge = {max(found): 2.0, min(found): 0.5}.get(best)
                    missing = [] if edge is None else [best * edge]
                waiting += [((place, len(found)), kind, arm, rate) for rate in missing[:1]]
        if not waiting:
            return
        _, kind, arm, rate = min(waiting, key=lambda entry: entry[0])
        yield kind, arm, rate


def measure(device: str, folder: Path, rows: DeviceRows, until: float) -> None:
    """Train arms until the time is over; a row for every run as it ends.

    Args:
        device: `cuda` or `cpu`.
        folder: of the tokens, which are made here if they are not there.
        rows: where runs go, and what is there already.
        until: the end, by `time.time()`.
    """
    data = prepare(corpus(device), folder)
    kinds = tuple(models(device))
    old = [row for row in rows.read() if row["phase"] == PHASE and row["state"] == "passed"]
    steps = old[0]["steps"] if old else _affordable_steps(kinds, data, device, until)
    done: dict[tuple[str, str], dict[float, float]] = {}
    for row in (row for row in old if row["steps"] == steps):
        done.setdefault((row["model"], row["arm"]), {})[row["lr"]] = _loss(row)
    for kind, arm, lr in plan(done, kinds):
        row = _one_run(kind, arm, lr, steps, data, device, until)
        if row is None:
            rows.add(PHASE, f"{kind}, {arm}, {lr:g}", "left out", seconds_left=round(until - time.time()))
            return
        rows.add(PHASE, f"{kind}, {arm}, {lr:g}", "passed", **row)
        done[kind, arm][lr] = _loss(row)


def _affordable_steps(kinds: tuple[str, ...], data: TokenData, device: str, until: float) -> int:
    """Steps of every run, so that three rates of all arms and a quarter more fit in the time."""
    each = sum(seconds_per_step(kind, data, device) for kind in kinds)
    tokens = (64 if device == "cuda" else 4) * data.sequence_length
    runs = len(MULTIPLES) * len(arms(kinds[0])) * 1.25
    least = LEAST_TOKENS // tokens if device == "cuda" else 20
    return max(int((until - time.time()) * 0.9 / (each * runs)), least)


def _one_run(
    kind: str, arm: str, lr: float, steps: int, data: TokenData, device: str, until: float
) -> dict[str, Any] | None:
    """The columns of a run; None if the time was over before it ended."""
    flag, started = StopFlag(), time.time()

    def progress(*_: Any) -> None:
        if time.time() > until:
            flag.signal = "SIGTERM"

    run = run_spec(kind, arm, lr, steps, data, device)
    try:
        result = train(run, data, progress=progress, stop=flag, world=World(device=on(device)))
    except Stopped:
        return None
    active = count_parameters(build_model(run.model, data.vocab_size)).active
    return {
        "model": kind,
        "arm": arm,
        "lr": lr,
        "seed": run.seed,
        "steps": steps,
        "tokens": result.tokens,
        "tokens_per_active_parameter": round(result.tokens / active, 3),
        "status": result.status,
        "score": result.score,
        "valid_loss": result.valid_loss,
        "took": round(time.time() - started, 1),
        "data": data.hash,
    }


def _loss(row: dict[str, Any]) -> float:
    return math.inf if row["valid_loss"] is None else row["valid_loss"]


if __name__ == "__main__":
    prepare(corpus(sys.argv[1]), sys.argv[2])
