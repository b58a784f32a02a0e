"""Sides that take turns: each in a process of its own, one at a time, round after round."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.speed.shapes import LENGTH, SHAPES

WARM_UP = 2
"""Rounds that are not counted: memory is taken, libraries choose their kernels, torch.compile compiles."""
DISTURBED = 0.05
"""A round is not counted if in some side's turn a thread waited on average longer than this share of it for a core."""


class Side:
    """A process that trains when it is its turn."""

    def __init__(self, kind: str, shape: str, threads: int, data: Path) -> None:
        self.kind, self.shape, self.threads = kind, shape, threads
        self.tokens = SHAPES[shape].steps * SHAPES[shape].batch_size * LENGTH  # of one round
        order = {"kind": kind, "shape": shape, "threads": threads, "data": str(data)}
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.side", json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def turn(self) -> dict[str, float]:
        """Tokens per second of one round, and the share of it that a thread waited for a core."""
        took = self._ask("go")
        waited = took["waited"] / took["seconds"] / self.threads
        return {"rate": round(self.tokens / took["seconds"], 1), "waited": waited}

    def end(self) -> dict[str, float]:
        """Memory in megabytes: `peak`, and `before` the first step."""
        memory = self._ask("end")
        self.process.communicate()
        return {name: round(value, 1) for name, value in memory.items()}

    def _ask(self, word: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(f"{self.kind} of {self.shape} ended: {self.process.communicate()[1][-2000:]}")
        return json.loads(answer)


def take_turns(
    sides: list[tuple[str, str]], threads: int, data: Path, *, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    """Rounds of all sides, in turn forwards and backwards.

    Args:
        sides: kind and shape of each.
        threads: of each.
        data: folder of prepared tokens.
        rounds: to be counted.
        seconds: after which no round begins, were they counted or not; the start not included.

    Returns:
        for each side its tokens per second of every counted round, its memory, and how many rounds were not counted.

    Raises:
        RuntimeError: a side's process ended, or fewer than two rounds counted.
    """
    processes = [Side(kind, shape, threads, data) for kind, shape in sides]
    for _ in range(WARM_UP):
        for side in processes:
            side.turn()
    counted: list[list[dict[str, float]]] = []
    disturbed, order = 0, list(range(len(sides)))
    begun = time.perf_counter()
    while len(counted) < rounds and time.perf_counter() - begun < seconds:
        turns = {which: processes[which].turn() for which in order}
        order.reverse()
        if max(turn["waited"] for turn in turns.values()) > DISTURBED:
            disturbed += 1
        else:
            counted.append([turns[which] for which in range(len(sides))])
    memory = [side.end() for side in processes]
    if len(counted) < 2:
        raise RuntimeError(f"other processes took the cores in {disturbed} rounds, and in {len(counted)} not")
    return [
        {
            "kind": kind,
            "shape": shape,
            "threads": threads,
            "tokens_per_second": [turns[which]["rate"] for turns in counted],
            "memory_mb": memory[which],
            "disturbed_rounds": disturbed,
        }
        for which, (kind, shape) in enumerate(sides)
    ]
