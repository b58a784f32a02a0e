"""Evidence, part by part: what each asks and costs, and running it.

python -m experiments.evidence list                     # parts, what there is of them, and what is left to pay
python -m experiments.evidence run rates --processes 1  # one part; again after a kill goes on
python -m experiments.evidence run                      # all of them, in order, two workers

Runs of a grid go to results.parquet as they end, and a run that is there is not trained again. A study is `rlrs run` in
a folder under runs/; its results.json is copied here when it has ended. `list --write` keeps the costs for
docs/evidence.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from experiments.evidence import store
from experiments.evidence.parts import PARTS, ROOT, GridRun, Part, data_config, proxy_run
from rlrs.data import TokenData, prepare
from rlrs.environment import environment
from rlrs.files import write_atomic
from rlrs.inspection import meta_model
from rlrs.models import concrete, count_parameters
from rlrs.search import Processes
from rlrs.settings import ScaleConfig, StudyConfig, kept
from rlrs.study import plan, resolve
from rlrs.study.timing import StepTimes
from rlrs.training import RunSpec, train
from rlrs.yaml_files import dump_yaml

COSTS = Path(__file__).parent / "costs.json"
TIMED = 10
"""Steps of a run that are timed to say what it costs."""
SAVE_EVERY = 10
"""Seconds between two writings of results.parquet."""


def missing(part: Part, data: TokenData) -> list[GridRun]:
    """Runs of a grid that have no row yet."""
    assert part.grid is not None
    there = {row["run"] for row in store.load() if row["part"] == part.name}
    return [run for run in part.grid(data) if run.spec.id not in there]


def results_of(part: Part) -> Path:
    """Where a study's results are kept."""
    return Path(__file__).parent / f"{part.name}.json"


class StepCosts:
    """Seconds of a core that a step of a model takes, from some steps of each size; what else runs does not count."""

    def __init__(self, data: TokenData) -> None:
        self.data = data
        self._seconds: dict[str, float] = {}

    def __call__(self, run: RunSpec) -> float:
        """Of a step of this run."""
        size = f"{run.model} {run.batch_size} {run.training.optimizer}"
        if size not in self._seconds:
            moments: list[float] = []  # after the first step, which allocates, then after each `TIMED`
            training = run.training.model_copy(update={"log_every": TIMED})
            short = RunSpec(**{**run.__dict__, "steps": 2 * TIMED, "training": training})
            train(short, self.data, validate=False, progress=lambda *_: moments.append(time.process_time()))
            self._seconds[size] = (moments[-1] - moments[-2]) / TIMED
        return self._seconds[size]


def study_hours(study: StudyConfig, data: TokenData, costs: StepCosts) -> tuple[int, float]:
    """Runs of a study at most, and hours of a core that they take."""
    study = resolve(study)

    def seconds(scale: ScaleConfig) -> float:
        changes = {"model": concrete(scale).model, "batch_size": scale.batch_size, "ratios": {}}
        training = study.training.model_copy(update={"dtype": "float32"})
        return costs(proxy_run("uniform", data, 0, training=training, **changes))

    stages = plan(study, StepTimes(seconds(study.proxy), seconds(study.target), "timed here"))
    return sum(stage.runs for stage in stages), sum(stage.hours or 0.0 for stage in stages)


def cost(part: Part, data: TokenData, costs: StepCosts) -> tuple[int, int, float]:
    """Runs of a part, how many of them are left, and hours of a core that all of them take."""
    if part.grid is not None:
        runs = list(part.grid(data))
        return len(runs), len(missing(part, data)), sum(run.spec.steps * costs(run.spec) for run in runs) / 3600
    assert part.study is not None
    runs, hours = study_hours(part.study(), data, costs)
    return runs, 0 if results_of(part).exists() else runs, hours


def run_grid(part: Part, data: TokenData, folder: Path, processes: int) -> None:
    """Train what is missing of a grid; rows are written as runs end."""
    left, here = missing(part, data), environment()
    found, written = store.load(), time.monotonic()
    active = {str(run.spec.model): count_parameters(meta_model(run.spec.model, data.vocab_size)).active for run in left}
    with Processes(folder, processes) as engine:
        for number, run in enumerate(left):
            engine.submit(number, run.spec)
        for done in range(len(left)):
            while (ended := engine.next()) is None:
                pass
            number, result = ended
            assert isinstance(number, int)
            run = left[number]
            if result.status == "failed":
                print(f"{part.name}: {run.arm}, {run.what}: given up: {result.reason}", flush=True)
                continue
            found.append(store.row(part.name, run, result, data.sequence_length, active[str(run.spec.model)], here))
            print(f"{part.name}: {done + 1} of {len(left)}: {run.arm}, {run.what}: {result.valid_loss}", flush=True)
            if time.monotonic() - written > SAVE_EVERY or done + 1 == len(left):
                store.save(found)
                written = time.monotonic()


def run_study(part: Part, folder: Path, processes: int) -> None:
    """Run a study, or go on with it, and keep its results."""
    assert part.study is not None
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder.with_suffix(".yaml")
    plain: dict[str, Any] = {**kept(part.study(), {}), "processes": processes}
    write_atomic(settings, dump_yaml(plain))
    subprocess.run([sys.executable, "-m", "rlrs.cli", "run", str(settings), "--out", str(folder)], check=True)
    shutil.copy(folder / "results.json", results_of(part))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "run"))
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {[part.name for part in PARTS]}; all if not given"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "evidence")
    parser.add_argument("--write", action="store_true", help="of list: keep the costs")
    options = parser.parse_args()
    known = {part.name: part for part in PARTS}
    if unknown := set(options.parts) - set(known):
        parser.error(f"unknown part {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    torch.set_num_threads(1)
    folder = options.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    data = prepare(data_config(), folder)
    costs: dict[str, Any] = {}
    step_costs = StepCosts(data)
    for part in (known[name] for name in options.parts or known):
        runs, left, hours = cost(part, data, step_costs)
        costs[part.name] = {"runs": runs, "hours": round(hours, 3)}
        left_hours = hours * left / runs
        print(f"{part.name}: {part.question} {left} of {runs} runs left, {left_hours:.2f} core hours.", flush=True)
        if options.what == "run" and left and part.grid is not None:
            run_grid(part, data, folder, options.processes)
        elif options.what == "run" and left:
            run_study(part, options.out / part.name, options.processes)
    if options.write and options.what == "list":
        write_atomic(COSTS, json.dumps({"environment": environment(), "parts": costs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
