"""Runs of the command killed (SIGKILL) at random moments and started again each time, against one left alone.

On one process both end with the same lines of metrics.jsonl, but for times. After lives on other numbers of ranks
losses may differ by rounding. Takes minutes, so it runs on demand only: `make killed`. Writes
experiments/killed/killed_run.json and killed_run_fsdp2.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pairs import write

STUDY = """
name: killed
data: {source: stdlib, tokenizer: bytes, sequence_length: 32, max_bytes: 400000}
training: {eval_tokens: 2048, checkpoint_every: 5, log_every: 1, evaluations: 4}
proxy: {model: {d_model: 32, n_layers: 2, n_heads: 2, n_experts: 4}, steps: 1200, batch_size: 8}
target: {model: {d_model: 32, n_layers: 2, n_heads: 2, n_experts: 4}, steps: 1200, batch_size: 8}
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
KILLS = 20
RESULTS = Path(__file__).parents[2] / "experiments" / "killed"
LIMIT = 1e-3
"""Nats per token that a loss may differ by after lives on other numbers of ranks: rounding, over 1,200 steps."""
MOST_LOST = 10
"""Steps: twice the distance of two checkpoints, the promise of docs/training.md."""


def command(study: Path, folder: Path, ranks: int) -> list[str]:
    start = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    module = ["-m", "rlrs.cli", "train", str(study), "--ratios", "paper-moe", "--out", str(folder)]
    return [sys.executable, *start, *module, *(["--distributed", "fsdp2"] if ranks > 1 else [])]


def lines(folder: Path) -> list[dict[str, Any]]:
    """Of a run's metrics, those that are whole."""
    text = "".join(path.read_text() for path in folder.glob("runs/*/metrics.jsonl"))
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def state(folder: Path) -> dict[str, int]:
    """How far a run is, and its last whole checkpoint."""
    saved = [int(path.name.removeprefix("step-")) for path in folder.glob("runs/*/checkpoints/step-*")]
    return {"step": max((line["step"] for line in lines(folder)), default=0), "saved": max(saved, default=0)}


def touched(folder: Path) -> int:
    """When metrics.jsonl was last written or, by a life that goes on, opened; 0 if it is not there."""
    return max((path.stat().st_mtime_ns for path in folder.glob("runs/*/metrics.jsonl")), default=0)


def children(pid: int) -> list[int]:
    """Processes that a process has started and that are alive."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    """Whether a process that is not our own child is still there."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def live(study: Path, folder: Path, ranks: int, seconds: float) -> dict[str, Any]:
    """Start the run, let it train for a number of seconds, kill all its processes."""
    before, then = state(folder), touched(folder)
    process = subprocess.Popen(
        command(study, folder, ranks), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and touched(folder) == then:  # starting: libraries, tokens, the last checkpoint
        time.sleep(0.01)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    family = [process.pid, *children(process.pid)]  # torchrun's ranks are in sessions of their own
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it was killed"
    while any(alive(pid) for pid in family[1:]):
        time.sleep(0.01)
    after = state(folder)
    return {
        "after_seconds": round(seconds, 3),
        "began_at": before["saved"],
        **after,
        "lost": after["step"] - after["saved"],
    }


def same(whole: Path, killed: Path) -> tuple[bool, float]:
    """Whether all lines are equal but for times, and the largest difference of a loss."""
    rows = [
        [
            {k: v for k, v in line.items() if k not in ("seconds", "tokens_per_second", "flops_per_second")}
            for line in of
        ]
        for of in (lines(whole), lines(killed))
    ]
    names = ("loss", "valid_loss")
    pairs = [(a.get(name), b.get(name)) for a, b in zip(*rows, strict=True) for name in names]
    return rows[0] == rows[1], max(abs(a - b) for a, b in pairs if a is not None)


@pytest.mark.killed
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_killed_twenty_times_loses_few_steps_and_no_line(tmp_path, ranks):
    study, whole, killed = tmp_path / "study.yaml", tmp_path / "whole", tmp_path / "killed"
    study.write_text(STUDY)
    subprocess.run(command(study, whole, 1), env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    moments = random.Random(0)
    kills = [live(study, killed, ranks, moments.uniform(0, 1.5)) for _ in range(KILLS)]
    # The last life is on one process: any number of ranks reads what any other wrote.
    subprocess.run(command(study, killed, 1), env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    equal, difference = same(whole, killed)
    lost = max(kill["lost"] for kill in kills)
    row = {"ranks": ranks, "seed": 0, "kills": kills, "equal": equal}
    row |= {"largest_difference": difference, "most_steps_lost": lost, "checkpoint_every": 5, "steps": 1200}
    write("killed_run" if ranks == 1 else "killed_run_fsdp2", [row], RESULTS)
    assert lost <= MOST_LOST
    assert equal if ranks == 1 else difference < LIMIT
