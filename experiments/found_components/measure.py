"""Planted structure of several strengths found, and components of plain runs over seeds and sizes.

    python -m experiments.found_components.measure

Writes `results.parquet` (`--results FILE`) as it goes, and trains nothing that is in it; `python -m
experiments.found_components.table` makes the tables of docs/found-components.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pyarrow as pa

from experiments import rows
from experiments.found_components.planted import probed
from experiments.learned.measure import DATA
from rlrs.data import TokenData, prepare
from rlrs.discovery import RunStatistics
from rlrs.environment import environment
from rlrs.grouping import FoundComponents, agreement, carry_components, find_components
from rlrs.inspection import meta_model
from rlrs.settings import ModelConfig

RESULTS = Path(__file__).parent / "results.parquet"
SCHEMA = pa.schema(
    [
        ("commit", pa.string()),
        ("question", pa.string()),
        ("model", pa.string()),
        ("optimizer", pa.string()),
        ("scale", pa.float64()),
        ("noise", pa.float64()),
        ("seed", pa.int64()),
        ("steps", pa.int64()),
        ("components", pa.int64()),
        ("planted", pa.float64()),
        ("named", pa.float64()),
        ("silhouette", pa.float64()),
        ("stability", pa.float64()),
        ("seeds", pa.float64()),
        ("carried", pa.float64()),
        ("words", pa.string()),
        ("environment", pa.string()),
    ]
)
MODELS = {
    "dense": ModelConfig(d_model=32, n_layers=4, n_heads=2),
    "moe": ModelConfig(d_model=32, n_layers=4, n_heads=2, n_experts=4),
}
LARGER = {
    "dense": ModelConfig(d_model=48, n_layers=8, n_heads=3),
    "moe": ModelConfig(d_model=48, n_layers=8, n_heads=3, n_experts=4),
}
STRENGTHS = ((1.0, 0.0), (2.0, 1.0), (4.0, 2.0), (10.0, 4.0), (30.0, 8.0))
"""Factor of the scaled gradients, and noise over the noisier ones' own root mean square; the first is nothing."""
SEEDS = (1, 2, 3, 4, 5)
PLANTED_STEPS, PLAIN_STEPS = 80, 160


class Measurement:
    """Rows, and the runs that are still to be trained."""

    def __init__(self, data: TokenData, file: Path) -> None:
        self.data, self.file = data, file
        self.rows = rows.read(file, SCHEMA) if file.exists() else []

    def known(self, **key: Any) -> bool:
        """Whether there is such a row."""
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def add(self, found: FoundComponents, **more: Any) -> None:
        """Write a row."""
        measured = {
            "commit": environment()["commit"],
            "environment": rows.text(environment()),
            "components": len(found.components),
            "words": rows.text({one.component: [one.words, len(one.tensors)] for one in found.components}),
            **{name: getattr(found, name) for name in ("named", "silhouette", "stability", "seeds")},
        }
        self.rows.append({**measured, **more})
        rows.write(self.file, self.rows, SCHEMA)
        print({**more, "components": len(found.components)}, flush=True)

    def planted(self, name: str, optimizer: str) -> None:
        """Strengths and seeds."""
        for scale, noise in STRENGTHS:
            for seed in SEEDS:
                key = {"model": name, "optimizer": optimizer, "scale": scale, "noise": noise, "seed": seed}
                if self.known(question="planted", **key):
                    continue
                run, truth = self.probed(MODELS[name], PLANTED_STEPS, **{n: key[n] for n in PLANTS})
                found = find_components([run])
                more = {"question": "planted", "steps": PLANTED_STEPS, "planted": agreement(found.labels(), truth)}
                self.add(found, **key, **more)

    def plain(self, name: str, optimizer: str) -> None:
        """Runs as they are: over three seeds, and carried to a model of twice the depth."""
        key = {"model": name, "optimizer": optimizer, "question": "plain"}
        if self.known(**key):
            return
        both = [
            [self.probed(config, PLAIN_STEPS, seed=seed, optimizer=optimizer)[0] for seed in SEEDS[:3]]
            for config in (MODELS[name], LARGER[name])
        ]
        found, there = (find_components(runs) for runs in both)
        carried = carry_components(found, meta_model(LARGER[name], DATA.vocab_size))
        same = agreement(carried.labels(), there.labels())
        self.add(found, **key, steps=PLAIN_STEPS, carried=same)
        self.add(there, **{**key, "question": "plain, larger"}, steps=PLAIN_STEPS)

    def probed(self, model: ModelConfig, steps: int, **options: Any) -> tuple[RunStatistics, dict[str, str]]:
        """See `planted.probed`."""
        return probed(model, self.data, steps=steps, **options)


PLANTS = ("scale", "noise", "seed", "optimizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/found_components"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    (arguments.out / "data").mkdir(parents=True, exist_ok=True)
    measurement = Measurement(prepare(DATA, arguments.out / "data"), arguments.results)
    measurement.planted("dense", "adamw")
    for name in MODELS:
        measurement.plain(name, "adamw")
    measurement.planted("dense", "muon")
    measurement.planted("moe", "adamw")
    measurement.plain("dense", "muon")


if __name__ == "__main__":
    main()
