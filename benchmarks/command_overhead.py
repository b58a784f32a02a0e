"""What a study costs a run by command: the script in a study beside the same script alone, start apart.

    python -m benchmarks.command_overhead

All are processes of `examples/nanogpt`, one thread each, one after the other, by turns: in the study `train.py`, which
reports every step, writes its lines and has its rates compared while the engine looks at it twenty times a second;
alone `train.py`, and `before.py`, the script before it knew rlrs. A ratio is of the times from the first step to the
last, as each process measures them itself: by the clock, and of the processor, which other work on the machine disturbs
less. Two processes of one script differ by more than the study costs, so its cost is measured in the run too: the share
of that time which is spent in `report`, which is what the study adds, and in the scheduler's step, which the script has
alone too. The start (imports, the run's file) is not counted.
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

FOLDER = Path(__file__).parents[1] / "examples" / "nanogpt"
SCRIPTS = ("train", "before")
TIMED = """
import importlib, json, sys, time
sys.path.insert(0, {folder!r})
import rlrs, torch
script = importlib.import_module(sys.argv[2])
torch.set_num_threads(1)
moments = []
step = torch.optim.AdamW.step
def timed(self, *args, **kwargs):
    result = step(self, *args, **kwargs)
    moments.append((time.perf_counter(), time.process_time()))
    return result
torch.optim.AdamW.step = timed
inside = {{"report": 0.0, "scheduler": 0.0}}
def counted(name, function):
    def call(*args, **kwargs):
        begin = time.perf_counter()
        result = function(*args, **kwargs)
        inside[name] += time.perf_counter() - begin
        return result
    return call
rlrs.Run.report = counted("report", rlrs.Run.report)
rlrs.RelativeLR.step = counted("scheduler", rlrs.RelativeLR.step)
script.main(sys.argv[3:])
seconds = [last - first for first, last in zip(moments[0], moments[-1])]
json.dump([*seconds, *inside.values()], open(sys.argv[1], "w"))
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


def in_study(folder: Path, command: list[str], steps: int, width: int) -> list[float]:
    """Seconds of the steps of a run that a study's engine starts: by the clock, of the processor, in both calls."""
    settings = study([*command, "--seed", "{seed}", "--lr", "{lr}"], steps, width)
    recipe = Recipe.from_settings(settings.training, 3e-3)
    run = OwnRuns(settings).spec(settings.proxy, recipe, 0, lr=3e-3)
    with Commands(folder / "runs", 1) as engine:
        engine.submit("run", run)
        ended = engine.next()
    assert ended is not None
    assert ended[1].status == "finished", ended[1].reason
    return json.loads(Path(command[2]).read_text())


def alone(command: list[str], environment: Mapping[str, str]) -> list[float]:
    """The same of a script started by itself."""
    subprocess.run([*command, "--seed", "0", "--lr", "3e-3"], check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads(Path(command[2]).read_text())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=128)
    options = parser.parse_args()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ratios: dict[tuple[str, str], list[float]] = {}
    shares: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        timed = Path(place) / "timed.py"
        timed.write_text(TIMED.format(folder=str(FOLDER)))
        begin = [sys.executable, str(timed), f"{place}/seconds.json"]
        words = ["--steps", str(options.steps), "--width", str(options.width), "--log-every", "1"]
        for turn in range(options.rounds + 1):
            sides: dict[str, list[float]] = {}
            for side in (("study", *SCRIPTS), (*SCRIPTS, "study"))[turn % 2]:
                if side == "study":
                    command = [*begin, "train", *words]
                    sides[side] = in_study(Path(place) / str(turn), command, options.steps, options.width)
                else:
                    sides[side] = alone([*begin, side, *words], environment)
            if turn == 0:  # it warms the disk's cache
                continue
            for script in SCRIPTS:
                for index, clock in enumerate(("clock", "processor")):
                    ratios.setdefault((script, clock), []).append(sides["study"][index] / sides[script][index])
            for index, call in enumerate(("report", "scheduler.step"), 2):
                shares.setdefault(call, []).append(sides["study"][index] / sides["study"][0])
            print(
                turn,
                *(f"in {call} {measured[-1]:.4f}" for call, measured in shares.items()),
                *(f"{script} {clock} {r[-1]:.4f}" for (script, clock), r in ratios.items()),
                flush=True,
            )
    rows = [
        {"what": "time of steps in a study over alone", "alone": f"{script}.py", "time": clock}
        | {**vars(options), **summary(measured), "ratios": measured}
        for (script, clock), measured in ratios.items()
    ]
    rows += [
        {"what": "share of the time of steps", "call": call, **vars(options), **summary(measured), "ratios": measured}
        for call, measured in shares.items()
    ]
    print(write("command_overhead", rows))


if __name__ == "__main__":
    main()
