"""What a study costs a run by command: the script in a study beside the same script alone, start apart.

    python -m benchmarks.command_overhead

Both are processes of `examples/nanogpt/train.py`, one thread each, one after the other, by turns; a ratio is of the
times from the first step to the last, as each process measures them itself. In the study a run reports every step,
writes its lines and has its rates compared; the engine looks at it twenty times a second. The start (imports, the run's
file) is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.pairs import summary, write
from rlrs.records import Recipe
from rlrs.search import Commands
from rlrs.settings import StudyConfig, study_from
from rlrs.study.kinds import OwnRuns

SCRIPT = Path(__file__).parents[1] / "examples" / "nanogpt" / "train.py"
TIMED = """
import json, sys, time
sys.path.insert(0, {folder!r})
import train, torch
torch.set_num_threads(1)
moments = []
step = torch.optim.AdamW.step
def timed(self, *args, **kwargs):
    result = step(self, *args, **kwargs)
    moments.append(time.perf_counter())
    return result
torch.optim.AdamW.step = timed
train.main(sys.argv[2:])
json.dump(moments[-1] - moments[0], open(sys.argv[1], "w"))
"""


def study(command: list[str], steps: int, width: int) -> StudyConfig:
    """A study of one run, whose process writes how long its steps took."""
    scale = {"steps": steps, "set": {"width": width}}
    plain = {
        "name": "overhead",
        "trainer": {"command": command, "components": ["embedding", "attention"]},
        "proxy": scale,
        "target": scale,
    }
    return study_from(plain, "benchmark")


def in_study(folder: Path, command: list[str], steps: int, width: int) -> float:
    """Seconds of the steps of a run that a study's engine starts."""
    settings = study([*command, "--seed", "{seed}", "--lr", "{lr}"], steps, width)
    recipe = Recipe.from_settings(settings.training, 3e-3)
    run = OwnRuns(settings).spec(settings.proxy, recipe, 0, lr=3e-3)
    with Commands(folder / "runs", 1) as engine:
        engine.submit("run", run)
        ended = engine.next()
    assert ended is not None
    assert ended[1].status == "finished", ended[1].reason
    return json.loads(Path(command[2]).read_text())


def alone(command: list[str], environment: Mapping[str, str]) -> float:
    """Seconds of the steps of the same script started by itself."""
    subprocess.run([*command, "--seed", "0", "--lr", "3e-3"], check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads(Path(command[2]).read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ratios: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "timed.py"
        script.write_text(TIMED.format(folder=str(SCRIPT.parent)))
        command = [sys.executable, str(script), f"{place}/seconds.json"]
        words = ["--steps", str(options.steps), "--width", str(options.width), "--log-every", "1"]
        for turn in range(options.rounds + 1):
            order = (True, False) if turn % 2 else (False, True)
            seconds = {}
            for study_first in order:
                if study_first:
                    seconds[True] = in_study(Path(place) / str(turn), [*command, *words], options.steps, options.width)
                else:
                    seconds[False] = alone([*command, *words], environment)
            if turn:  # the first pair warms the disk's cache
                ratios.append(seconds[True] / seconds[False])
                print(f"{turn}: {ratios[-1]:.4f}  ({seconds[False] / options.steps * 1e3:.1f} ms a step)", flush=True)
    row = {"what": "time of steps in a study over alone", **vars(options), **summary(ratios), "ratios": ratios}
    print(write("command_overhead", [row]))


if __name__ == "__main__":
    main()
