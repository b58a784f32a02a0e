"""A study killed (SIGKILL) at random moments and started again each time, against one that was left alone.

    python -m benchmarks.killed_study configs/demo.yaml --kills 5

Both must end with the same bytes in ratios.yaml and the same final losses. Prints when it was killed and in which
stage, and writes benchmarks/results/killed_study.json.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.pairs import write
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
    return found[0] == found[1] and (one / "ratios.yaml").read_bytes() == (two / "ratios.yaml").read_bytes()


def _trials(arm: dict[str, Any]) -> list[dict[str, Any]]:
    return [trial for part in (arm["search"], arm["transfer"]) if part for trial in part["trials"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(2)))
    parser.add_argument("--folder", type=Path, default=Path("runs/killed"))
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    seconds = run_whole(arguments.study, arguments.folder / "whole")
    print(f"undisturbed: {seconds:.0f} s", flush=True)
    moments = random.Random(arguments.seed)
    # Moments anywhere in the run; a life is the time from one to the next, so what starting again costs comes on top.
    at = sorted(moments.uniform(0, 0.9 * seconds) for _ in range(arguments.kills))
    after = [max(later - earlier, 2.0) for earlier, later in itertools.pairwise([0.0, *at])]
    kills = run_killed(arguments.study, arguments.folder / "killed", after)
    for kill in kills:
        print(f"{'killed' if kill['killed'] else 'over'} after {kill['after_seconds']} s in stage {kill['stage']}")
    same = same_end(arguments.folder / "whole", arguments.folder / "killed")
    print("same ratios.yaml and same losses" if same else "DIFFERENT", flush=True)
    rows = [{"study": str(arguments.study), "seconds": seconds, "seed": arguments.seed, "kills": kills, "same": same}]
    print(write("killed_study", rows))
    sys.exit(not same)


if __name__ == "__main__":
    main()
