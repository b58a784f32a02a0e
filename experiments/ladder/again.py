"""The forecast of a real ladder made anew from its committed rows, and the held-out rung trained by it.

    python -m experiments.ladder.again dense   # about ten minutes of a core

No rung is trained: the trials and the losses on fresh seeds are those of `results.parquet`. What is said of them is
what this version of rlrs says. Rows of the ladder's own forecast stay; these are of the kinds `forecast again` and
`truth again`. Resumable.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments import rows
from experiments.ladder import store
from experiments.ladder.measure import MODELS, MODES, compared_rows, predicted_rows, settings
from experiments.rows import Row
from rlrs.cli.study_view import StudyView
from rlrs.environment import environment
from rlrs.records import ArmResult, Recipe, RunResult, Trial
from rlrs.search import TrialStore
from rlrs.settings import Arm, StudyConfig
from rlrs.study.kinds import RunKind
from rlrs.study.resolve import resolve
from rlrs.study.runner import kind_of_runs
from rlrs.study.spaces import search_spaces
from rlrs.study.stages import Stages
from rlrs.transfer import Climbed, Forecast, Ladder, Size, carried, forecast

RUNS = Path("runs/ladder_again")
PROXY, TOKENS = "32x2-200", 512
"""Tokens are those of a step."""
TARGET = Size(64, 2, 200 * TOKENS)


def measured_ladder(models: str, study: StudyConfig, kind: RunKind) -> Ladder:
    """What the committed rows hold of the rungs."""
    own = [row for row in store.load() if row.get("models") == models]
    spaces = search_spaces(study, kind.components())
    rungs = list(dict.fromkeys(row["rung"] for row in own if row["kind"] == "measured"))
    climbed: list[dict[Arm, Climbed]] = []
    for rung in rungs:
        name = "proxy" if rung == PROXY else rung
        there: dict[Arm, Climbed] = {}
        for arm in spaces:
            fresh = [r for r in own if (r["kind"], r["rung"], r["arm"]) == ("measured", rung, arm)]
            tried = [r for r in own if (r["kind"], r["method"], r["rung"], r["arm"]) == ("trial", "study", name, arm)]
            trials = [_trial(number, row) for number, row in enumerate(tried)]
            there[arm] = Climbed(trials, fresh[0]["params"], tuple(row["value"] for row in fresh))
        climbed.append(there)
    sizes = [_size(rung) for rung in rungs]
    found: dict[Arm, Mapping[str, float]] = {arm: climbed[rungs.index(PROXY)][arm].best for arm in spaces}
    return Ladder(
        *(sizes, climbed, TARGET, _size(PROXY), spaces, found, kind.components(), study.training.final_fraction),
        margin=study.comparison.margin,
        factor=study.transfer.multiplier,
    )


def _size(rung: str) -> Size:
    shape, _, steps = rung.partition("-")
    width, _, depth = shape.partition("x")
    return Size(int(width), int(depth), int(steps) * TOKENS)


def _trial(number: int, row: Row) -> Trial:
    result = RunResult(
        status=row["status"], steps=1, score=row.get("value"), valid_loss=None, tokens=1, seconds=0
    )  # fmt: skip
    return Trial(params=row["params"], move="kept", number=number, batch=0, run="kept", result=result)


def arms_by_mode(
    mode: str, ladder: Ladder, ahead: Forecast, study: StudyConfig, kind: RunKind
) -> dict[Arm, tuple[ArmResult, float]]:
    """Every arm with its recipe for the held-out rung by a mode, and where its base rate starts."""
    defaults, wider = Recipe.from_settings(study.training, study.search.lr), TARGET.width / _size(PROXY).width
    arms: dict[Arm, tuple[ArmResult, float]] = {}
    for arm, point in ladder.found.items():
        recipe = defaults.at(point)
        if mode == "law":
            ours = dict(ahead.arms[arm].point)
            start = ours.pop("lr")
            arms[arm] = ArmResult(arm=arm, recipe=recipe.at(ours)), start
        else:
            arms[arm] = ArmResult(arm=arm, recipe=carried(recipe, mode, wider, kind.components())), recipe.lr
    return arms


def measure(models: str, folder: Path, modes: Sequence[str]) -> list[Row]:
    """Forecasts by all modes, and the held-out rung trained by these; all rows."""
    study = resolve(StudyConfig.model_validate(settings(models, "unchanged")))
    same = {"commit": environment()["commit"], "models": models, "environment": rows.text(environment())}
    found: list[Row] = []
    with StudyView(quiet=True) as bars, kind_of_runs(study, folder / models, bars) as (settled, kind):
        ladder = measured_ladder(models, settled, kind)
        ahead = {mode: forecast(ladder, mode) for mode in MODES}
        for mode, said in ahead.items():
            found += predicted_rows(said.arms, said.gains, said.saved, mode)
        with kind.engine(folder / models) as engine:
            store_of_trials = TrialStore(folder / models / "trials.db")
            stages = Stages(settled, folder / models, kind, engine, store_of_trials, bars)
            for mode in modes:
                tuned = stages.transfer(arms_by_mode(mode, ladder, ahead[mode], settled, kind))
                found += compared_rows(tuned, stages.comparison(tuned), mode)
    return [{**same, **row, "kind": f"{row['kind']} again"} for row in found]


def main() -> None:
    """Forecast and train, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", choices=sorted(MODELS))
    parser.add_argument("--runs", type=Path, default=RUNS, help="where runs are kept")
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES, help="by which the target is trained")
    given = parser.parse_args()
    found = measure(given.models, given.runs, given.modes)
    for kind in ("forecast again", "truth again"):
        own = [row for row in found if row["kind"] == kind]
        store.replace({"models": given.models, "kind": kind}, own, given.results)
    print(json.dumps({"rows": len(found)}))


if __name__ == "__main__":
    main()
