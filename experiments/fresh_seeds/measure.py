"""Run the demo's claim again on fresh seeds, and a U-plot around the ratios that it found: `rlrs refute` and `ablate`.

    python -m experiments.fresh_seeds.measure runs/demo

Resumable: finished runs are kept in the study's run directory, and an attempt that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlrs.cli.study_view import StudyView
from rlrs.files import write_atomic
from rlrs.records import ABLATIONS_FILE, REFUTATIONS_FILE, read_ablations, read_refutations
from rlrs.study import ablate, refute

RESULTS = Path(__file__).parent / "results.json"
FACTORS = (1 / 4, 4.0)
"""Two of the paper's eight, to stay within a quarter of an hour of one core."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="run directory of the finished demo")
    parser.add_argument("--processes", type=int, default=1)
    chosen = parser.parse_args()
    with StudyView() as bars:
        if not (chosen.folder / REFUTATIONS_FILE).exists():
            refute(chosen.folder, bars, processes=chosen.processes)
        _write(chosen.folder)
        ablate("u-plot", chosen.folder, bars, arm="rlrs", factors=FACTORS, processes=chosen.processes)
    _write(chosen.folder)


def _write(folder: Path) -> None:
    rows = [json.dumps(row) for row in measured(folder)]
    write_atomic(RESULTS, "[\n" + ",\n".join(rows) + "\n]\n")


def measured(folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each run, and one for each verdict."""
    for attempt in read_refutations(folder / REFUTATIONS_FILE).refutations:
        made = {"method": "refute", "commit": attempt.environment.get("commit"), "claimed_at": attempt.claim.commit}
        for run in attempt.runs:
            plain = {"arm": run.arm, "seed": run.seed, "horizon": run.horizon, "loss": run.valid_loss, "run": run.id}
            yield {**made, **plain}
        for name in ("loss", "saved"):
            claimed, test = getattr(attempt.claim, name), getattr(attempt, name)
            if claimed is not None and test is not None:
                numbers = {k: getattr(claimed, k) for k in ("mean", "low", "high")}
                fresh = {k: getattr(test.fresh, k) for k in ("mean", "low", "high")}
                said = {"claimed": numbers, "fresh": fresh, "p_smaller": test.p_smaller, "upheld": test.upheld}
                yield {**made, "arm": attempt.claim.arm, "against": attempt.claim.control, "what": name, **said}
    if not (folder / ABLATIONS_FILE).exists():
        return
    for ablation in read_ablations(folder / ABLATIONS_FILE).ablations:
        made = {"method": ablation.kind, "model": ablation.model, "commit": ablation.environment.get("commit")}
        for row in ablation.rows:
            for seed, run, loss in zip(ablation.seeds, row.runs, row.losses, strict=True):
                yield {**made, "series": row.series, "times": row.x, "seed": seed, "loss": loss, "run": run}


if __name__ == "__main__":
    main()
