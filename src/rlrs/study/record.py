"""What a study leaves: the sections of results.json that come from searches, and ratios.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrs.data import TokenData
from rlrs.inspection import describe
from rlrs.ratios import Ratios
from rlrs.search import Outcome, importance, ratios_of
from rlrs.settings import ScaleConfig, StudyConfig
from rlrs.study.stages import Arms

UNFINISHED = "unfinished_search"
"""Key of a ratios.yaml's provenance that says that its search was stopped."""


def histories(outcomes: Mapping[str, Outcome], budget: int) -> dict[str, Any]:
    """Searches by arm, as plain data."""
    return {arm: _history(outcome, budget) for arm, outcome in outcomes.items()}


def _history(outcome: Outcome, budget: int) -> dict[str, Any]:
    trials = [
        {
            "number": number,
            "params": tried.proposal.params,
            "score": tried.result.score,
            "state": tried.result.status,
            "steps": tried.result.steps,
            "move": tried.proposal.move,
            "improved": tried.improved,
            "whole": tried.proposal.whole,
            "run": tried.spec.id,
            **({"reason": tried.result.reason} if tried.result.status == "failed" else {}),
        }
        for number, tried in enumerate(outcome.tried)
    ]
    whole = [t for t, tried in zip(trials, outcome.tried, strict=True) if tried.proposal.whole]
    best = next(t["number"] for t in whole if t["params"] == outcome.stop.best)
    return {
        "budget": budget,
        "trials": trials,
        "best": {"number": best, "params": outcome.stop.best, "score": outcome.stop.score},
        "stopped": outcome.stop.reason,
        "sweeps": outcome.stop.sweeps,
        "steps": sum(t["steps"] for t in trials),
        "importance": importance(outcome.tried),
    }


def model_section(scale: ScaleConfig, data: TokenData) -> dict[str, Any]:
    """One size of model, with how long it is trained."""
    return {
        **describe(scale.model, data.vocab_size),
        "steps": scale.steps,
        "batch_size": scale.batch_size,
        "tokens": scale.steps * scale.batch_size * data.sequence_length,
    }


def cost(study: StudyConfig, results: Mapping[str, Any]) -> dict[str, Any]:
    """Training steps and tokens that each stage took, runs that were killed half-way not counted."""
    steps = {
        "search": sum(history["steps"] for history in results["search"].values()),
        "transfer": sum(history["steps"] for history in results["transfer"].values()),
        "comparison": sum(run["steps"] for run in results["comparison"]["runs"]),
    }
    sizes = {"search": study.proxy, "transfer": study.target, "comparison": study.target}
    return {
        stage: {"steps": n, "tokens": n * sizes[stage].batch_size * study.data.sequence_length}
        for stage, n in steps.items()
    }


def save_best_so_far(
    study: StudyConfig, results: Mapping[str, Any], so_far: Mapping[str, Outcome], folder: Path
) -> None:
    """Write ratios.yaml with the best that an unfinished search has tried, marked so; not over a finished one's."""
    found, path = so_far.get("proxy/rlrs"), folder / "ratios.yaml"
    if found is None or math.isinf(found.stop.score):
        return
    best, tried = found.stop.best, found.tried
    if path.exists() and UNFINISHED not in Ratios.load(path).provenance:
        return
    note = f"stopped after {len(tried)} of at most {study.search.trials} runs; the same command goes on from there"
    provenance: dict[str, Any] = {
        UNFINISHED: note,
        "study": study.name,
        "study_hash": results["study"]["config_hash"],
        "data": {key: results["data"][key] for key in ("source", "hash", "vocab_size")},
        "base": {
            "lr": best.get("lr", study.search.lr),
            "final_fraction": best.get("final_fraction", study.training.final_fraction),
            "warmup_fraction": study.training.warmup_fraction,
            "schedule": study.training.schedule,
            "weight_decay": study.training.weight_decay,
        },
        "search": {"runs": len(tried), "steps": sum(t.result.steps for t in tried), "score": found.stop.score},
    }
    Ratios(ratios_of(best), provenance).save(path)


def save_ratios(study: StudyConfig, results: Mapping[str, Any], arms: Arms, folder: Path) -> None:
    """Write ratios.yaml: nothing in it depends on the clock, so that a study run again gives the same bytes."""
    search, environment = results["search"]["rlrs"], results["environment"]
    provenance: dict[str, Any] = {
        "study": study.name,
        "study_hash": results["study"]["config_hash"],
        "found_on": {"model": study.proxy.model.model_dump(), "parameters": results["models"]["proxy"]["parameters"]},
        "data": {key: results["data"][key] for key in ("source", "hash", "vocab_size")},
        "horizon": {key: results["models"]["proxy"][key] for key in ("steps", "batch_size", "tokens")},
        "base": {
            "lr": search["best"]["params"]["lr"],
            "final_fraction": arms.final_fraction["rlrs"],
            "warmup_fraction": study.training.warmup_fraction,
            "schedule": study.training.schedule,
            "weight_decay": study.training.weight_decay,
            **arms.others["rlrs"],
        },
        "search": {
            "method": study.search.method,
            "start": study.search.start,
            "budget_runs": search["budget"],
            "runs": len(search["trials"]),
            "steps": search["steps"],
            "score": search["best"]["score"],
        },
        "code": {key: environment[key] for key in ("rlrs", "commit", "torch")},
    }
    if "comparison" in results:
        comparison = results["comparison"]
        provenance["target"] = {
            "model": study.target.model.model_dump(),
            "parameters": results["models"]["target"]["parameters"],
            "lr": arms.lr["rlrs"],
            "steps": study.target.steps,
            "final_losses": {arm: loss["mean"] for arm, loss in comparison["losses"].items()},
            "verdict": comparison["verdict"]["sentence"],
        }
    Ratios(arms.ratios["rlrs"], provenance).save(folder / "ratios.yaml")
