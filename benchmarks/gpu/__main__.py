"""The reference trainer on a GPU, within a number of minutes: right, fast, true at size.

python -m benchmarks.gpu --minutes 9                # all phases on the GPU, rows in benchmarks/results/gpu.jsonl
python -m benchmarks.gpu --device cpu --minutes 2   # the same in the small, which tests this program
python -m benchmarks.gpu right --minutes 3          # one phase

Every phase is a process of its own and goes on where an earlier one of the same device and commit ended. A
measurement whose process dies or does not end is a failed one, and the next begins. Rows are written as they come.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu import at_size, fast, right
from benchmarks.gpu.gpu_rows import DeviceRows, run, stamp
from benchmarks.pairs import RESULTS

SHARES = {"right": 0.3, "fast": 0.5, at_size.PHASE: 1.0}
"""Of the time that is left when a phase begins; by value: a wrong trainer's speed is worth nothing."""
MARGIN = 20
"""Seconds at the end that nothing is planned for."""


def child(phase: str, device: str, rows: DeviceRows, until: float, folder: Path) -> None:
    """A phase, in this process."""
    if phase == at_size.PHASE:
        at_size.measure(device, folder, rows, until)
    else:
        run(phase, {"right": right, "fast": fast}[phase].measurements(device), rows, until)


def lead(phase: str, arguments: list[str], rows: DeviceRows, until: float) -> None:
    """A phase in a process of its own, again after a measurement that its process did not outlive."""
    while time.time() < until:
        command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--child", phase, "--until", str(until)]
        process = subprocess.Popen(command)
        try:
            code = process.wait(timeout=max(until + MARGIN / 2 - time.time(), 1))
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        name = rows.under_way(phase)
        if name is not None:
            rows.add(phase, name, "failed", error=f"its process ended with {code}, or not in time")
        elif code == 0 or time.time() >= until:
            return
        else:
            rows.add(phase, "the phase", "failed", error=f"its process ended with {code}")
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phases", nargs="*", metavar="PHASE", help=f"of {list(SHARES)}; all if none is named")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which all has ended")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "gpu.jsonl", help="file that rows are added to")
    parser.add_argument("--commit", help="of the code, where it runs outside of a checkout")
    parser.add_argument("--tokens", type=Path, help="folder of the corpus's tokens; a temporary one if not given")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.phases) - set(SHARES):
        parser.error(f"unknown phase {sorted(unknown)[0]!r}; there are {', '.join(SHARES)}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU here; --device cpu runs everything in the small")
    rows = DeviceRows(options.out, stamp(options.device, options.commit))
    if options.child:
        if options.device == "cpu":
            torch.set_num_threads(1)
        child(options.child, options.device, rows, options.until, options.tokens)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    end = time.time() + 60 * options.minutes - MARGIN
    with tempfile.TemporaryDirectory() as temporary:
        tokens = options.tokens or Path(temporary) / "tokens"
        phases = options.phases or list(SHARES)
        beside = at_size.prepare_beside(options.device, tokens) if at_size.PHASE in phases else None
        common = ["--device", options.device, "--out", str(options.out), "--tokens", str(tokens)]
        common += ["--commit", rows.stamp["commit"]] if rows.stamp["commit"] else []
        for phase in phases:
            if phase == at_size.PHASE and beside is not None:
                beside.wait()
            last = phase == phases[-1]
            left = end - time.time()
            lead(phase, common, rows, end if last else time.time() + left * SHARES[phase])
        if beside is not None and beside.poll() is None:
            beside.kill()
    print(options.out)


if __name__ == "__main__":
    main()
