"""What is searched: a mixture of experts and a dense model so small that a run takes about a second of a core."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlrs.components import partition
from rlrs.data import TokenData, prepare
from rlrs.inspection import meta_model
from rlrs.ratios import BASE, Ratios
from rlrs.search import SEARCHED, Point, ratios_at, start_point
from rlrs.settings import DataConfig, ModelConfig, TrainingConfig
from rlrs.training import RunSpec

DATA = DataConfig(vocab_size=512, sequence_length=64, max_bytes=4_000_000)
"""As in configs/demo.yaml: the Python standard library's own source."""
TRAINING = TrainingConfig(score_steps=24, eval_tokens=32_768)
FRESH = (1001, 1002, 1003)
"""Seeds of weights and data order that no search sees."""


@dataclass(frozen=True)
class Proxy:
    """A model, how long it is trained, and where searches start: a preset of the paper."""

    name: str
    model: ModelConfig
    preset: str
    steps: int = 96
    batch_size: int = 8
    lr: float = 8e-3

    def start(self) -> dict[str, float]:
        """Base rate, final fraction, and a start and an end ratio for every component."""
        components = [c for c in partition(meta_model(self.model, DATA.vocab_size)) if c in SEARCHED]
        return start_point(self.lr, TRAINING.final_fraction, Ratios.preset(self.preset), components)

    def spec(self, point: Point, seed: int, data_hash: str) -> RunSpec:
        """The whole run of a point."""
        return RunSpec(
            model=self.model,
            training=TRAINING,
            steps=self.steps,
            batch_size=self.batch_size,
            seed=seed,
            lr=point["lr"],
            final_fraction=point["final_fraction"],
            ratios={c: list(ratio.knots) for c, ratio in ratios_at(point).items() if ratio != BASE},
            data_hash=data_hash,
        )


PROXIES = {
    proxy.name: proxy
    for proxy in (
        Proxy("moe", ModelConfig(d_model=32, n_layers=1, n_heads=2, n_experts=4), "paper-moe"),
        Proxy("dense", ModelConfig(d_model=32, n_layers=1, n_heads=2), "paper-dense"),
    )
}


def prepared(folder: Path) -> TokenData:
    """The proxies' data, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(DATA, folder)
