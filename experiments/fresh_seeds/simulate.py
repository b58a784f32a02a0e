"""How often `rlrs refute` is wrong: claims of the demo's size, honest and empty, at the demo's noise.

python -m experiments.fresh_seeds.simulate    # seconds; prints the shares
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from rlrs.comparison import fresh_test, interval
from rlrs.records import ReportClaim

STUDIES, SEEDS = 2000, 4
GAIN, NOISE = 0.07, 0.025
"""Nats per token; from seed to seed, of paired differences."""


def shares(truth: float, seed: int = 0) -> dict[str, float]:
    """Outcome -> share of the attempts, where the report's seeds have the gain and the fresh ones have `truth`."""
    draw = np.random.default_rng(seed)
    found: Counter[str] = Counter()
    for _ in range(STUDIES):
        claim = ReportClaim(
            arm="rlrs",
            control="embedding_only",
            standing="better",
            loss=interval(draw.normal(-GAIN, NOISE, SEEDS).tolist()),
            saved=None,
            seeds=tuple(range(SEEDS)),
            margin=0.02,
            config_hash="0",
            commit=None,
        )
        found[fresh_test("loss", claim, draw.normal(-truth, NOISE, SEEDS).tolist()).upheld] += 1
    return {name: found[name] / STUDIES for name in ("confirmed", "weaker", "refuted", "open")}


if __name__ == "__main__":
    for name, truth in (("honest", GAIN), ("half", GAIN / 2), ("empty", 0.0)):
        print(name, *(f"{upheld} {share:.1%}" for upheld, share in shares(truth).items()))
