"""Ablations and a certificate that were never run, for their pages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

from rlrs.comparison import judged_rows, unstable
from rlrs.records import (
    ABLATIONS_FILE,
    Ablation,
    AblationKind,
    AblationRow,
    Ablations,
    Certificate,
    Estimate,
    write_ablations,
    write_certificate,
)

SEEDS = (11, 12, 13)
ARMS = ("uniform", "embedding_only", "rlrs")
PLACES: dict[AblationKind, tuple[tuple[str, float | None], ...]] = {
    "base-rate": (("0.004", 0.004), ("0.008", 0.008), ("0.016", 0.016)),
    "seeds": (("as compared", None),),
    "schedule": (("cosine", None), ("linear", None)),
    "horizon": (("50", 50.0), ("100", 100.0)),
    "batch": (("4", 4.0), ("8", 8.0)),
    "weight-decay": (("x 1/4", 0.25), ("x 1", 1.0)),
    "optimizer": (("adamw", None), ("muon", None)),
}


def _row(series: str, at: str, x: float | None = None, against: tuple[str, str] | None = None) -> AblationRow:
    nothing = (None,) * len(SEEDS)
    runs = tuple(f"{series}-{at}-{seed}" for seed in SEEDS)
    row = {"series": series, "at": at, "x": x, "against": against, "steps": 100, "runs": runs, "losses": nothing}
    return AblationRow.model_validate({**row, "unstable": unstable(nothing, SEEDS)})


def _rows(kind: AblationKind) -> list[AblationRow]:
    if kind == "u-plot":
        whole = _row("rlrs", "x 1", 1.0)
        moved = [
            (name, at, x) for name in ("embedding.start", "experts.end") for at, x in (("x 1/4", 0.25), ("x 4", 4.0))
        ]
        return [whole, *(_row(name, at, x, ("rlrs", "x 1")) for name, at, x in moved)]
    if kind in ("contribution", "removal"):
        base, word = ("uniform", "with") if kind == "contribution" else ("rlrs", "without")
        return [_row(base, "whole"), *(_row(name, word, None, (base, "whole")) for name in ("embedding", "experts"))]
    others = {"uniform": None, "embedding_only": "uniform", "rlrs": "embedding_only"}
    return [
        _row(arm, at, x, None if (other := others[arm]) is None else (other, at))
        for at, x in PLACES[kind]
        for arm in ARMS
    ]


def write_sample_ablations(folder: Path) -> Path:
    """`ablations.json` with every kind: a gain in the rlrs arm, and one run that diverged."""
    found = Ablations(study="sample")
    for kind in get_args(AblationKind):
        rows = _rows(kind)
        losses = {
            (row.series, row.at): [3.6 - 0.05 * number + 0.01 * seed for seed in range(len(SEEDS))]
            for number, row in enumerate(rows)
        }
        if kind == "base-rate":
            losses["uniform", "0.016"][0] = math.inf
        ablation = Ablation(
            kind=kind,
            model="proxy",
            arm="rlrs",
            config_hash="0123456789ab",
            seeds=SEEDS,
            rows=tuple(judged_rows(rows, losses, SEEDS)),
            sentence="said",
            environment={"rlrs": "0.1.0", "commit": "0" * 40},
        )
        found = found.having(ablation)
    write_ablations(folder / ABLATIONS_FILE, found)
    return folder


def write_sample_certificate(folder: Path) -> Path:
    """`certificate.json` with every fate, one of them not shown, and what came out."""

    def around(value: float) -> dict[str, float]:
        return {"value": value, "low": 0.9 * value, "high": 1.1 * value}

    def verdict(component: str, fate: str, reason: str, shown: bool) -> dict[str, object]:
        ratio = {f"{component}.start": 2.0, f"{component}.end": 0.5}
        plain = {"component": component, "fate": fate, "reason": reason, "found": ratio, "used": ratio}
        return {**plain, "gain": Estimate(value=0.01, low=-0.02, high=0.04), "shown": shown}

    worth = "worth +0.010 nats at the target (-0.020 to +0.040)"
    neither = f"{worth}, which shows neither a gain nor its absence"
    verdicts = [
        verdict("embedding", "rescale", f"start times 1.5, end times 2, by the law; {worth}", True),
        verdict("unembedding", "rescale", f"start times 1.5, end times 2, by the law; {neither}", False),
        verdict("experts", "carry", f"no gain of the law's ratios on them is shown; {neither}", False),
        verdict("router", "drop", f"no gain above 0.02 nats survives: ratios of its own are {worth}", True),
    ]
    term = {"name": "embedding.start", "middle": around(5), "slopes": {"width": around(0.5)}, "target": around(7)}
    ahead = {"law": [term], "noise": 0.01, "verdicts": verdicts, "point": {"lr": 0.01}, "loss": around(3.5)}
    rung = {"name": "16x2-100", "is_proxy": True, "shape": {}, "width": 16, "depth": 2, "steps": 100, "tokens": 1e5}
    said = (
        "Not shown: the gain of relative schedules on one rate for all at the target is put at -0.010 to +0.040 nats."
    )
    certificate = Certificate.model_validate(
        {
            "schema": 1,
            "study": {"name": "sample", "config": {}, "config_hash": "0123456789ab"},
            "ladder": "0123456789ab",
            "environment": {"rlrs": "0.1.0", "commit": "0" * 40, "torch": "2.13.0"},
            "data": {"hash": "abc"},
            **{"mode": "law", "level": 0.9, "before_target": True},
            "cost": {"share": 0.08, "allowed": 0.1, "steps": 1000},
            "seeds": [1, 2],
            "rungs": [{**rung, "arms": {"rlrs": {"trials": 16, "best": {"lr": 0.01}, "losses": [3.7, 3.8]}}}],
            **{"axes": ["width"], "left_out": {"depth": "all rungs have a depth of 2"}},
            "target": {"width": 64, "depth": 2, "steps": 200, "tokens": 2e5},
            "arms": {"rlrs": {**ahead, "penalties": {"law": around(0.01)}, "rate": around(0.01)}},
            "gains": {"uniform": around(0.02)},
            "saved": {"uniform": around(0.1)},
            "sentence": said,
            "notes": ["The laws have no term for depth: all rungs have a depth of 2."],
            "refuted_by": ["A tuned base rate of relative schedules outside 0.009 to 0.011."],
            "checks": [
                {
                    "what": "base rate of rlrs, as it is tuned",
                    "predicted": around(0.01),
                    "measured": 0.02,
                    "inside": False,
                }
            ],
        }
    )
    write_certificate(folder / "certificate.json", certificate)
    return folder
