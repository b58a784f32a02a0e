"""A small English model, fine-tuned on Japanese: full and by LoRA, each as a study with the controls of its kind.

    apt-get install python3.11-doc debian-reference-ja maint-guide-ja
    python -m experiments.finetuning.measure            # resumable: half an hour of one core
    python -m experiments.finetuning.measure --tables   # README.md alone, from the results that are here

The base is trained from scratch on the documentation of Python (`base.py`), and tuned on two books of Debian in
Japanese; a token is a byte. General text is what was kept of the English for validation. Each study's results.json is
kept here as it is, and README.md is made of them.
"""

from __future__ import annotations

import argparse
import glob
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.finetuning.base import ENGLISH, LENGTH, pretrained
from experiments.finetuning.table import document
from rlrs.cli import main as rlrs
from rlrs.comparison import read_results
from rlrs.files import write_atomic

HERE = Path(__file__).parent
JAPANESE = (
    "/usr/share/debian-reference/debian-reference.ja.txt.gz",
    "/usr/share/doc/maint-guide-ja/maint-guide.ja.txt.gz",
)
PACKAGES = "python3.11-doc debian-reference-ja maint-guide-ja"
LORA = {"r": 8, "alpha": 16}
MAY_RISE = 0.3
"""Nats per byte of English: another language costs more of the first than another topic would."""
ARMS = {
    "full": ["uniform", "head_only", "frozen_embedding", "layer_decay", "embedding_only", "rlrs"],
    "lora": ["uniform", "layer_decay", "lora_plus", "rlrs"],
}


def study(name: str, weights: Path) -> dict[str, Any]:
    """Settings of a study: `full` or `lora`. Proxy and target are the same model; the target's runs are longer."""
    model: dict[str, Any] = {"hub": str(weights), "weights": "load"}
    if name == "lora":
        model["lora"] = LORA
    return {
        "name": f"finetuning-{name}",
        "data": {
            "source": [f"files:{path}" for path in JAPANESE],
            "tokenizer": "bytes",
            "sequence_length": LENGTH,
            "general": {"source": f"files:{ENGLISH}", "may_rise": MAY_RISE},
        },
        "training": {"score_steps": 10, "eval_tokens": 8192, "evaluations": 1, "warmup_fraction": 0.05},
        "proxy": {"model": model, "steps": 30, "batch_size": 8},
        "target": {"model": model, "steps": 60, "batch_size": 8},
        "search": {"trials": 6, "lr": 2e-3 if name == "full" else 8e-3, "retest": {"points": 0}},
        "transfer": {"trials": 2},
        "comparison": {"arms": ARMS[name], "seeds": 3, "horizons": [0.6]},
    }


def check_texts() -> None:
    """End with one line where a text is not there."""
    for place in (ENGLISH, *JAPANESE):
        if not glob.glob(place, recursive=True):
            sys.exit(f"{place}: not there; apt-get install {PACKAGES}")


def measure(folder: Path, processes: int, names: Sequence[str]) -> None:
    """Train the base and run studies, or go on with them; their results to this folder."""
    weights = pretrained(folder / "base")
    for name in names:
        path, run = folder / f"{name}.yaml", folder / name
        write_atomic(path, yaml.safe_dump(study(name, weights), sort_keys=False))
        sys.argv = ["rlrs", "run", str(path), "--out", str(run), "--processes", str(processes)]
        try:
            rlrs()
        except SystemExit as end:
            if end.code:
                raise
        read_results(run / "results.json")
        shutil.copyfile(run / "results.json", HERE / f"{name}.json")


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/finetuning"), help="where runs are kept")
    parser.add_argument("--processes", type=int, default=2, help="runs side by side")
    parser.add_argument("--only", choices=list(ARMS), help="one of the studies; the base has to be there")
    parser.add_argument("--tables", action="store_true", help="make README.md from the results that are here")
    asked = parser.parse_args()
    if not asked.tables:
        check_texts()
        measure(asked.folder, asked.processes, [asked.only] if asked.only else list(ARMS))
    if all((HERE / f"{name}.json").exists() for name in ARMS):
        write_atomic(HERE / "README.md", document({name: read_results(HERE / f"{name}.json") for name in ARMS}))


if __name__ == "__main__":
    main()
