"""The comparison section of a study's results, from its finished runs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rlrs.comparison.statistics import Interval, SpeedUp, Verdict, interval, speed_up, verdict
from rlrs.records import RunResult
from rlrs.training import RunSpec

Runs = Mapping[tuple[str, int, float], tuple[RunSpec, RunResult]]
"""(arm, seed, horizon) -> run; horizon 1.0 is the full length."""


def measure(runs: Runs, arms: Sequence[str], seeds: Sequence[int], steps: int, tokens: int) -> dict[str, Any]:
    """Losses, paired differences, saved steps and the verdict, as plain data.

    Args:
        runs: full-length runs of every arm and seed, and shorter ones of `rlrs`.
        arms: in the order of the tables.
        seeds: paired.
        steps: full length.
        tokens: of a full-length run.
    """
    final = {arm: [_loss(runs[arm, seed, 1.0][1]) for seed in seeds] for arm in arms}
    diverged = [arm for arm in arms if not all(map(math.isfinite, final[arm]))]
    controls = [arm for arm in arms if arm != "rlrs" and arm not in diverged]
    differences: dict[str, Interval] = {}
    speed_ups: dict[str, SpeedUp] = {}
    if "rlrs" not in diverged:
        lengths = [
            {spec.steps: _loss(result) for (arm, s, _), (spec, result) in runs.items() if arm == "rlrs" and s == seed}
            for seed in seeds
        ]
        for control in controls:
            pairs = zip(final["rlrs"], final[control], strict=True)
            differences[control] = interval([ours - theirs for ours, theirs in pairs])
            speed_ups[control] = speed_up(final[control], lengths, steps)
    if "uniform" in differences:
        result = verdict(differences, speed_ups)
    else:
        result = Verdict(
            "no_transferable_gain",
            f"No verdict of a gain: {' and '.join(diverged)} diverged on the target at the rate tuned for it.",
        )
    return {
        "steps": steps,
        "tokens": tokens,
        "seeds": list(seeds),
        "baseline": "uniform",
        "runs": [_run(*key, *run) for key, run in runs.items()],
        "losses": {
            arm: {"mean": _finite(math.fsum(losses) / len(losses)), "per_seed": [_finite(v) for v in losses]}
            for arm, losses in final.items()
        },
        "differences": {control: dataclasses.asdict(value) for control, value in differences.items()},
        "speed_up": {control: dataclasses.asdict(value) for control, value in speed_ups.items()},
        "verdict": dataclasses.asdict(result),
    }


def _run(arm: str, seed: int, horizon: float, spec: RunSpec, result: RunResult) -> dict[str, Any]:
    return {
        "id": spec.id,
        "arm": arm,
        "seed": seed,
        "horizon": horizon,
        "steps": spec.steps,
        "lr": spec.lr,
        "status": result.status,
        "valid_loss": result.valid_loss,
        "score": result.score,
    }


def _loss(result: RunResult) -> float:
    return result.valid_loss if result.status == "finished" and result.valid_loss is not None else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
