"""Tokens per second of our trainer against others, and operations per second against the processor's peak.

python -m benchmarks.speed                       # all, about 15 minutes, and the tables of docs/speed.md
python -m benchmarks.speed "moe 64" --threads 1  # one group, the others as they were
python -m benchmarks.speed --tables              # the tables, from the committed results
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.pairs import write
from benchmarks.speed.rounds import take_turns
from benchmarks.speed.shapes import LENGTH, SHAPES, VOCABULARY
from rlrs.data import prepare
from rlrs.settings import DataConfig
from tools.speed_tables import DOCUMENT, document, result_name

ROUNDS, SECONDS = 10, 60
OTHERS = ("transformers", "Lightning", "plain loop")
GROUPS: dict[str, list[tuple[str, str]]] = {
    "dense 64": [("rlrs", "dense 64"), *((kind, "dense 64") for kind in OTHERS)],
    "dense 256": [("rlrs", "dense 256"), *((kind, "dense 256") for kind in OTHERS)],
    "moe 64": [("rlrs", "moe 64"), *((kind, "moe 64") for kind in OTHERS), ("rlrs", "dense 64")],
    "options": [(kind, shape) for shape in ("dense 64", "dense 256") for kind in ("rlrs", "rlrs, compiled")],
}
"""Sides that are timed together; ours is the first."""
DTYPES = ("float32", "bfloat16")


def profiles(threads: int, data: Path) -> list[dict[str, Any]]:
    """Achieved operations and where the time goes, for every shape and dtype."""
    rows = []
    for shape in SHAPES:
        for dtype in DTYPES:
            if dtype == "bfloat16" and shape != "dense 64":
                continue  # without instructions for it, one step of a wider model takes a minute
            order = {"shape": shape, "threads": threads, "dtype": dtype, "data": str(data)}
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.speed.profiled", json.dumps(order)],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            )
            rows.append(json.loads(done.stdout))
            print(
                shape, dtype, threads, "threads:", {part: round(share, 2) for part, share in rows[-1]["shares"].items()}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", default=[], help=f"of {[*GROUPS, 'profile']}; all if none is named")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args()
    versions: dict[str, Any] = {name: version(name) for name in ("transformers", "lightning")}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        if not options.tables:
            prepare(DataConfig(vocab_size=VOCABULARY, sequence_length=LENGTH, max_bytes=4_000_000), data)
        for threads in [] if options.tables else options.threads:
            for group in options.groups or [*GROUPS, "profile"]:
                if group == "options" and threads > 1:
                    continue
                if group == "profile":
                    rows = profiles(threads, data)
                else:
                    rows = take_turns(GROUPS[group], threads, data, rounds=ROUNDS, seconds=SECONDS)
                print(write(result_name(group, threads), rows, **versions))
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
    print(DOCUMENT)


if __name__ == "__main__":
    main()
