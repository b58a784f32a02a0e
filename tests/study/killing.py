"""A study killed (SIGKILL) and started again, and whether two studies ended alike."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rlrs.comparison import read_results


def command(study: Path, folder: Path) -> list[str]:
    return [sys.executable, "-m", "rlrs.cli", "run", str(study), "--out", str(folder)]


def run_whole(study: Path, folder: Path) -> float:
    """Run a study undisturbed; seconds that it took."""
    start = time.monotonic()
    done = subprocess.run(command(study, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RuntimeError(f"the study ended with code {done.returncode}:\n{done.stderr}")
    return time.monotonic() - start


def run_killed(study: Path, folder: Path, after: list[float]) -> list[dict[str, Any]]:
    """Run a study, killing its driver after each of these numbers of seconds, then let it end; what was killed."""
    kills = []
    for seconds in after:
        with subprocess.Popen(
            command(study, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
            assert process.stderr is not None
            stages = [line.split()[0] for line in process.stderr.read().splitlines() if line.endswith("...")]
            killed = process.wait() == -signal.SIGKILL
        kills.append({"after_seconds": round(seconds, 2), "killed": killed, "stage": stages[-1] if stages else "start"})
    run_whole(study, folder)
    return kills


def same_end(one: Path, two: Path) -> bool:
    """Whether two run directories hold the same ratios, byte for byte, and the same losses."""
    ends = [read_results(folder / "results.json") for folder in (one, two)]
    found = [end.model_dump(include={"arms", "comparison"}) for end in ends]
    for trial in (t for arms in found for arm in arms["arms"].values() for t in _trials(arm)):
        trial["result"]["seconds"] = 0.0  # the clock's
    for run in (run for end in found for run in end["comparison"]["runs"]):
        run["seconds"] = 0.0
    return found[0] == found[1] and (one / "ratios.yaml").read_bytes() == (two / "ratios.yaml").read_bytes()


def _trials(arm: dict[str, Any]) -> list[dict[str, Any]]:
    return [trial for part in (arm["search"], arm["transfer"]) if part for trial in part["trials"]]
