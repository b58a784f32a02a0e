"""All ablations of one small study, each on the proxy.

    python -m experiments.ablations.measure          # about ten minutes of a core; runs/ablations, ablations.json
    python -m experiments.ablations.measure --table  # the table of README.md alone, from ablations.json

Resumable: a study that has ended is not run again, and no finished run of an ablation is.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rlrs.cli.study_view import StudyView
from rlrs.comparison.ablating import OF_RATIOS
from rlrs.files import write_atomic
from rlrs.records import ABLATIONS_FILE, AblationKind, Ablations, read_ablations
from rlrs.settings import load_study
from rlrs.study import ablate, run

HERE = Path(__file__).parent
DOCUMENT, RESULTS = HERE / "README.md", HERE / ABLATIONS_FILE
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


def table(ablations: Ablations) -> str:
    """A line for each ablation: its runs, the ends of its paired differences, and its sentence."""
    lines = [
        "| ablation | runs | seeds | least and largest difference, nats | it says |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in ablations.ablations:
        mine = [row for row in one.rows if one.kind in OF_RATIOS or row.series == one.arm]
        gaps = sorted((row.difference.mean, row.series, row.at) for row in mine if row.difference is not None)
        ends = " · ".join(f"{mean:+.3f} ({series}, {at})" for mean, series, at in dict.fromkeys((gaps[0], gaps[-1])))
        runs = len({run for row in one.rows for run in row.runs})
        lines.append(f"| `{one.kind}` | {runs} | {len(one.seeds)} | {ends} | {one.sentence} |")
    return "\n".join(lines)


def document(page: str) -> str:
    """The README with its table anew."""
    whole = f"<!-- table -->\n{table(read_ablations(RESULTS))}\n<!-- end of table -->"
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
        write_atomic(RESULTS, (chosen.runs / ABLATIONS_FILE).read_text())
    write_atomic(DOCUMENT, document(DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
