"""All ablations of one small study, each on the proxy.

    python -m experiments.ablations.measure          # about ten minutes of a core; runs/ablations, results.json
    python -m experiments.ablations.measure --table  # the table of README.md alone, from results.json

Resumable: a study that has ended is not run again, and no finished run of an ablation is.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlrs.comparison import interval
from rlrs.files import write_atomic
from rlrs.records import ABLATIONS_FILE, AblationKind, read_ablations
from rlrs.settings import load_study
from rlrs.study import ablate, run
from rlrs.study_view import StudyView

HERE = Path(__file__).parent
DOCUMENT, RESULTS = HERE / "README.md", HERE / "results.json"
RUNS = Path("runs/ablations")
KINDS: dict[AblationKind, tuple[float, ...]] = {
    "u-plot": (1 / 4, 4.0),
    "contribution": (),
    "removal": (),
    "base-rate": (1 / 4, 1 / 2, 1.0, 2.0, 4.0),
    "seeds": (),
    "schedule": (),
    "horizon": (),
    "batch": (),
    "weight-decay": (1 / 4, 1.0, 4.0),
    "optimizer": (),
}
"""With factors in the place of a kind's own, to stay within ten minutes."""
_TABLE = re.compile("<!-- table -->.*?<!-- end of table -->", re.DOTALL)


def measured(folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each run, and one for what each ablation says."""
    for ablation in read_ablations(folder / ABLATIONS_FILE).ablations:
        made = {"method": ablation.kind, "arm": ablation.arm, "commit": ablation.environment.get("commit")}
        for row in ablation.rows:
            against = None if row.against is None else list(row.against)
            for seed, one, loss in zip(ablation.seeds, row.runs, row.losses, strict=True):
                yield {
                    **made,
                    "series": row.series,
                    "at": row.at,
                    "against": against,
                    "seed": seed,
                    "loss": loss,
                    "run": one,
                }
        yield {**made, "said": ablation.sentence}


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each ablation: its sentence, and the largest and the least of its paired differences."""
    lines = [
        "| ablation | runs | seeds | least and largest difference, nats | it says |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == kind]
        runs = [row for row in own if "loss" in row]
        seeds = {row["seed"] for row in runs}
        losses = {(row["series"], row["at"], row["seed"]): row["loss"] for row in runs}
        pairs: dict[tuple[str, str], list[float]] = {}
        for row in runs:
            if row["against"] is not None and (
                row["series"] == row["arm"] or kind in ("u-plot", "contribution", "removal")
            ):
                other = losses[(*row["against"], row["seed"])]
                pairs.setdefault((row["series"], row["at"]), []).append(row["loss"] - other)
        gaps = sorted((interval(values).mean, *key) for key, values in pairs.items())
        ends = " · ".join(f"{mean:+.3f} ({series}, {at})" for mean, series, at in (gaps[0], gaps[-1])[: len(gaps)])
        (said,) = [row["said"] for row in own if "said" in row]
        lines.append(f"| `{kind}` | {len({row['run'] for row in runs})} | {len(seeds)} | {ends} | {said} |")
    return "\n".join(lines)


def document(page: str) -> str:
    """The README with its table anew."""
    whole = f"<!-- table -->\n{table(json.loads(RESULTS.read_text()))}\n<!-- end of table -->"
    return _TABLE.sub(whole.replace("\\", r"\\"), page)


def main() -> None:
    """Run what is missing, and write rows and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the study is kept")
    parser.add_argument("--table", action="store_true", help="write the table alone")
    chosen = parser.parse_args()
    if not chosen.table:
        with StudyView(quiet=True) as bars:
            run(load_study(HERE / "study.yaml"), chosen.runs, bars)
            for kind, factors in KINDS.items():
                ablate(kind, chosen.runs, bars, arm="rlrs", factors=factors)
        rows = [json.dumps(row) for row in measured(chosen.runs)]
        write_atomic(RESULTS, "[\n" + ",\n".join(rows) + "\n]\n")
    write_atomic(DOCUMENT, document(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
