"""Real ladders: three widths at two horizons are fitted, a fourth width is held out, forecast, trained and searched.

    python -m experiments.ladder.measure dense   # about 25 minutes of a core; results.parquet
    python -m experiments.ladder.measure moe     # about twice that

It is a study of rlrs, run once for each `transfer.mode` in one directory: first all certificates, then the target by
every mode, each with its base rate tuned again with the same budget; and a search of the held-out rung itself, with
more trials than any rung had. Resumable: started again, it goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from experiments import rows
from experiments.ladder import store
from experiments.rows import Row
from rlrs.cli.study_view import StudyView
from rlrs.comparison import read_results
from rlrs.environment import environment
from rlrs.records import ArmResult, Certificate, Comparison, Estimate, read_certificate
from rlrs.records.certificate import ArmForecast
from rlrs.search.space import Point
from rlrs.settings import Arm, StudyConfig
from rlrs.study import run

RUNS = Path("runs/ladder")
MODES = ("unchanged", "law", "sqrt-width", "mup")
ARMS = ["uniform", "embedding_only", "rlrs"]
MODELS: dict[str, dict[str, Any]] = {"dense": {}, "moe": {"n_experts": 4}}
SPACE = {
    "dense": {"attention": "exclude", "feed_forward": "exclude"},
    "moe": {"attention": "exclude", "experts.end": "= experts.start", "router.end": "= router.start"},
}
"""Hidden matrices follow the base rate, which is then well known; the embedding's and unembedding's ratios change."""
START = {
    "dense": {"embedding": [5.0, 0.667], "unembedding": [1.0, 0.444]},
    "moe": {"embedding": [5.0, 0.667], "unembedding": [0.667, 0.444], "experts": [0.5, 0.5], "router": [0.667, 0.667]},
}
"""The paper's; of what does not change here, between its start and its end."""
TRUTH_TRIALS = 28


def settings(models: str, mode: str) -> dict[str, Any]:
    """The study: widths 16, 24 and 32 at 100 and 200 steps, and width 64 at 200 steps held out."""

    def shape(width: int) -> dict[str, Any]:
        return {"d_model": width, "n_layers": 2, "n_heads": width // 8, **MODELS[models]}

    return {
        "name": f"ladder-{models}",
        "data": {"source": "stdlib", "vocab_size": 512, "sequence_length": 64, "max_bytes": 4_000_000},
        "training": {
            **{"score_steps": 40, "eval_tokens": 32_768, "evaluations": 1, "log_every": 50},
            **{"checkpoint_every": 1000, "weight_decay": 0.1},
        },
        "proxy": {"model": shape(32), "steps": 200, "batch_size": 8},
        "target": {"model": shape(64), "steps": 200, "batch_size": 8},
        "ladder": {
            "sizes": [{"d_model": width} for width in (16, 24, 32)],
            **{"horizons": [100, 200], "trials": 16, "seeds": 3, "share": 1000},
        },
        "search": {
            **{"trials": 24, "lr": 8e-3, "retest": {"points": 0}, "space": SPACE[models]},
            "start": {name: {"start": s, "end": e} for name, (s, e) in START[models].items()},
        },
        "transfer": {"trials": 5, "mode": mode},
        "comparison": {"arms": ARMS, "seeds": 4, "horizons": [0.6]},
        "processes": 1,
    }


def truth_settings(models: str) -> dict[str, Any]:
    """A search of the held-out rung itself, from the same start."""
    plain = settings(models, "unchanged")
    del plain["ladder"]
    search = {**plain["search"], "trials": TRUTH_TRIALS}
    comparison = {"arms": ["uniform", "rlrs"]}
    own = {"name": f"ladder-{models}-truth", "proxy": plain["target"], "search": search, "comparison": comparison}
    return {**plain, **own}


def measure(models: str, folder: Path, modes: Sequence[str]) -> list[Row]:
    """Run everything, the target by these modes; all rows."""
    home, kept = folder / models, folder / f"{models}_modes"
    kept.mkdir(parents=True, exist_ok=True)
    same = {"commit": environment()["commit"], "models": models, "environment": rows.text(environment())}
    found: list[Row] = []
    with StudyView(quiet=True) as bars:
        for mode in MODES:
            path = kept / f"certificate_{mode}.json"
            if not path.exists():
                run(StudyConfig.model_validate(settings(models, mode)), home, bars, until="certificate")
                path.write_bytes((home / "certificate.json").read_bytes())
            found += forecast_rows(read_certificate(path), mode)
        found += measured_rows(read_certificate(kept / "certificate_unchanged.json"))
        there = folder / f"{models}_truth"
        results = run(StudyConfig.model_validate(truth_settings(models)), there, bars, until="search")
        for arm, result in results.arms.items():
            assert result.search is not None
            found += [_row("truth", "search", 0, arm, name, value) for name, value in result.search.best.items()]
        for mode in modes:
            path = kept / f"results_{mode}.json"
            if not path.exists():
                run(StudyConfig.model_validate(settings(models, mode)), home, bars, until="comparison")
                path.write_bytes((home / "results.json").read_bytes())
            found += target_rows(path, mode)
    found += trial_rows(home / "trials.db", "study") + trial_rows(there / "trials.db", "truth")
    return [{**same, **row} for row in found]


def _row(kind: str, method: str, seed: int, arm: str, what: str, value: float | None, rung: str = "64x2-200") -> Row:
    row: Row = {"kind": kind, "method": method, "seed": seed, "arm": arm, "what": what, "rung": rung}
    return row if value is None else {**row, "value": float(value)}


def forecast_rows(certificate: Certificate, mode: str) -> list[Row]:
    """What a certificate says about the held-out rung."""
    assert certificate.before_target
    return predicted_rows(certificate.arms, certificate.gains, certificate.saved, mode)


def predicted_rows(
    arms: Mapping[Arm, ArmForecast], gains: Mapping[Arm, Estimate], saved: Mapping[Arm, Estimate], mode: str
) -> list[Row]:
    """The same of what a certificate is made of."""
    found: list[tuple[str, str, Any]] = []
    for arm, ahead in arms.items():
        found += [(arm, "loss", ahead.loss), (arm, "rate", ahead.rate)]
        found += [(arm, term.name, term.target) for term in ahead.law]
        found += [(arm, f"power of {axis}: {t.name}", slope) for t in ahead.law for axis, slope in t.slopes.items()]
        found += [(arm, f"penalty of {name}", penalty) for name, penalty in ahead.penalties.items()]
        found += [(arm, f"{verdict.component}: {verdict.fate}", verdict.gain) for verdict in ahead.verdicts]
    found += [(control, "gain", gain) for control, gain in gains.items()]
    found += [(control, "saved", share) for control, share in saved.items()]
    return [
        {**_row("forecast", mode, 0, arm, what, estimate.value), "low": estimate.low, "high": estimate.high}
        for arm, what, estimate in found
        if estimate is not None
    ]


def measured_rows(certificate: Certificate) -> list[Row]:
    """What the arms found on the rungs, on fresh seeds."""
    return [
        {**_row("measured", "search", seed, arm, "valid_loss", loss, rung.name), "params": own.best}
        for rung in certificate.rungs
        for arm, own in rung.arms.items()
        for seed, loss in zip(certificate.seeds, own.losses, strict=True)
    ]


def target_rows(path: Path, mode: str) -> list[Row]:
    """What the held-out rung came to by a mode, on fresh seeds, in a study's results."""
    results = read_results(path)
    assert results.comparison is not None
    return compared_rows(results.arms, results.comparison, mode)


def compared_rows(arms: Mapping[Arm, ArmResult], comparison: Comparison, mode: str) -> list[Row]:
    """The same of arms that were compared."""
    found = []
    for arm, losses in comparison.losses.items():
        recipe = arms[arm].recipe
        params = {"lr": recipe.target_lr or recipe.lr, "final_fraction": recipe.final_fraction}
        for component, ratio in recipe.relative_rates().items():
            params |= {f"{component}.start": ratio.start, f"{component}.end": ratio.end}
        for seed, loss in zip(comparison.seeds, losses.per_seed, strict=True):
            found.append({**_row("truth", mode, seed, arm, "valid_loss", loss), "params": params})
    for control, saved in comparison.speed_up.items():
        found.append(_row("truth", mode, 0, control, f"saved ({saved.bound})", saved.mean))
    return found


def trial_rows(path: Path, method: str) -> list[Row]:
    """All trials of a database."""
    storage = optuna.storages.get_storage(f"sqlite:///{path}")
    found = []
    for study in storage.get_all_studies():
        stage, arm, *rest = study.study_name.split("/")
        rung = rest[0] if stage == "ladder" else {"proxy": "proxy", "target": "64x2-200"}[stage]
        for trial in storage.get_all_trials(study._study_id, deepcopy=False):
            if "result" not in trial.user_attrs:  # of a mode that was not asked for
                continue
            params: Point = trial.user_attrs["proposal"]["params"]
            result = trial.user_attrs["result"]
            row = _row("trial", method, 0, arm, f"{stage} {trial.number}", result["score"], rung)
            found.append({**row, "params": dict(params), "status": result["status"]})
    return found


def main() -> None:
    """Measure, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", choices=sorted(MODELS))
    parser.add_argument("--runs", type=Path, default=RUNS, help="where studies are kept")
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="by which the target is trained")
    given = parser.parse_args()
    found = measure(given.models, given.runs, given.modes)
    for kind in ("trial", "measured", "forecast", "truth"):
        own = [row for row in found if row["kind"] == kind]
        store.replace({"models": given.models, "kind": kind}, own, given.results)
    print(json.dumps({"rows": len(found)}))


if __name__ == "__main__":
    main()
