"""A small hand-made study on disk, as a finished `rlrs run` of 0.1 left it (schema 1), or as one of today does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from rlrs.comparison import decide, measure, read_results
from rlrs.records import Comparison, GeneralText, RunResult, write_results

STEPS = 1000
SEEDS = (101, 102, 103)
LEVEL = {101: 3.214, 102: 3.186, 103: 3.231}
"""Final loss of the rlrs arm per seed, nats."""
SLOPE = 0.45
"""Nats that the rlrs arm's final loss rises per share of the steps left out: linear, so savings are exact."""
SPREAD = {101: -0.01, 102: 0.0, 103: 0.01}
"""Saved share of steps per seed, around the mean of the kind; standard deviation 0.01."""
PROXY = {"uniform": 3.4870, "embedding_only": 3.2710, "rlrs": 3.2140}
HALF_WIDTH = 4.302653 * 0.01 / math.sqrt(3)
"""Of the 95% t interval with two degrees of freedom."""
RATIOS = {
    "uniform": {},
    "embedding_only": {"embedding": {"start": 15.0, "end": 2.0}},
    "rlrs": {
        "embedding": {"start": 15.0, "end": 2.0},
        "attention": {"start": 0.5, "end": 3.0},
        "router": {"start": 0.666, "end": 3.0},
        "experts": {"start": 0.2, "end": 3.4},
        "unembedding": {"start": 1.5, "end": 1.333},
    },
}
Kind = Literal["gain", "gain_is_embedding", "worse_than_embedding", "no_transferable_gain"]
SAVED: dict[str, dict[str, float]] = {
    "gain": {"uniform": 0.412, "embedding_only": 0.121},
    "gain_is_embedding": {"uniform": 0.343, "embedding_only": -0.002},
    "worse_than_embedding": {"uniform": 0.343, "embedding_only": -0.2},
    "no_transferable_gain": {"uniform": -0.015, "embedding_only": -0.015},
}
"""Mean saved share against each control; below zero the control's loss is not reached."""
WINNERS = {
    "gain": "rlrs",
    "gain_is_embedding": "embedding_only",
    "worse_than_embedding": "embedding_only",
    "no_transferable_gain": "uniform",
}


def write_sample(folder: Path, kind: Kind = "gain", name: str = "sample-moe", schema: Literal[1, 2] = 1) -> Path:
    """Write the sample study into a folder and return the folder: results.json, metrics of its runs, ratios.yaml."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    runs = _runs(kind)
    for run in runs:
        _write_metrics(folder / "runs" / run["id"], run)
    results = {
        "schema": 1,
        "study": {"name": name, "config": _config(name), "config_hash": "0c1f5e77a9d2"},
        "environment": {
            "rlrs": "0.1.0",
            "commit": "0e83466",
            "python": "3.11.2",
            "torch": "2.13.0",
            "numpy": "2.4.6",
            "optuna": "5.0.0",
            "cpu": "Example CPU @ 2.70GHz",
            "cores": 2,
            "processes": 2,
        },
        "data": {
            "source": "stdlib",
            "files": 612,
            "bytes": 12_104_331,
            "hash": "9b1c6cf2d0aa",
            "vocab_size": 1024,
            "train_tokens": 4_102_118,
            "valid_tokens": 215_904,
            "bytes_per_token": 2.803,
        },
        "models": {"proxy": _model(64, 1_000), "target": _model(192, STEPS)},
        "search": {arm: _search(arm) for arm in RATIOS},
        "transfer": {arm: _transfer(arm) for arm in RATIOS},
        "ratios": RATIOS,
        "base": {
            "uniform": {"lr": 0.004, "final_fraction": 0.0444},
            "embedding_only": {"lr": 0.008, "final_fraction": 0.0444},
            "rlrs": {"lr": 0.008, "final_fraction": 0.0296},
        },
        "comparison": _comparison(kind, runs),
        "cost": {
            "search": {"steps": 38_000, "tokens": 77_824_000},
            "transfer": {"steps": 12_000, "tokens": 24_576_000},
            "comparison": {"steps": 13_200, "tokens": 27_033_600},
        },
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    if schema == 2:
        write_results(folder / "results.json", read_results(folder / "results.json"))
    (folder / "ratios.yaml").write_text(
        json.dumps({"schema": 1, "ratios": RATIOS["rlrs"], "provenance": {"study": name}}), encoding="utf-8"
    )
    return folder


def _config(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "training": {"warmup_fraction": 0.01, "schedule": "cosine", "weight_decay": 0.1, "score_steps": 100},
        "search": {"trials": 30, "start": "uniform"},
        "transfer": {"trials": 4},
        "comparison": {"seeds": 3, "horizons": [0.4, 0.6, 0.8]},
    }


def _model(d_model: int, steps: int) -> dict[str, Any]:
    embedding, layers, experts = 1024 * d_model, 4, 8
    sizes = {
        "embedding": embedding,
        "attention": layers * 4 * d_model**2,
        "experts": layers * experts * 8 * d_model**2,
        "router": layers * experts * d_model,
        "norm": (2 * layers + 1) * d_model,
        "unembedding": embedding,
    }
    tensors = {"embedding": 1, "attention": 16, "experts": 12, "router": 4, "norm": 9, "unembedding": 1}
    total = sum(sizes.values())
    active = total - sizes["experts"] * (experts - 1) // experts
    return {
        "shape": {"d_model": d_model, "n_layers": layers, "n_heads": 4, "n_experts": experts},
        "parameters": {
            "total": total,
            "active": active,
            "embedding": 2 * embedding,
            "non_embedding": total - 2 * embedding,
        },
        "steps": steps,
        "batch_size": 16,
        "tokens": steps * 16 * 128,
        "components": [
            {"component": c, "tensors": tensors[c], "parameters": n, "share": n / total} for c, n in sizes.items()
        ],
    }


def _search(arm: str) -> dict[str, Any]:
    trials, best, best_number = [], math.inf, 0
    count = {"uniform": 13, "embedding_only": 24, "rlrs": 30}[arm]
    for number in range(count):
        wave = 0.11 * (1 + math.sin(2.3 * number)) + (1.6 if number % 9 == 4 else 0)
        score = PROXY[arm] + 0.31 * math.exp(-number / 9) + (wave if number else 0.0)
        diverged = number in (7, 16)
        improved = not diverged and score < best
        if improved:
            best, best_number = score, number
        trials.append(
            {
                "number": number,
                "params": _params(arm, number),
                "score": None if diverged else score,
                "state": "diverged" if diverged else "finished",
                "steps": 312 if diverged else 1000,
                "move": "embedding.start times 5",
                "improved": improved,
            }
        )
    return {
        "budget": 30,
        "trials": trials,
        "best": {"number": best_number, "params": trials[best_number]["params"], "score": best},
        "importance": {"embedding.start": 0.6, "lr": 0.3, "final_fraction": 0.1} if arm == "rlrs" else {},
        "stopped": "the budget is spent" if count == 30 else "a whole sweep changed nothing",
        "steps": 1000 * count,
        "sweeps": 2,
    }


def _params(arm: str, number: int) -> dict[str, float]:
    """One parameter moved at a time, the last trial's point being the best; unembedding is tied to embedding."""
    params = {"lr": 0.004, "final_fraction": 0.0444, "embedding.start": 15.0, "unembedding.start": 3.0}
    moved = list(params)[number % 3]
    params[moved] *= (0.2, 2 / 3, 1.5, 5.0)[number // 3 % 4] if number < 29 else 1
    params["unembedding.start"] = 0.2 * params["embedding.start"]
    return params if arm == "rlrs" else {name: params[name] for name in ("lr", "final_fraction")}


def _transfer(arm: str) -> dict[str, Any]:
    centre = 0.004 if arm == "uniform" else 0.008
    trials = []
    for number, rate in enumerate((0.004, 0.008, 0.002, 0.016)):
        diverged = rate == 0.016 and arm == "uniform"
        score = PROXY[arm] - 0.2 + 0.06 * math.log2(rate / centre) ** 2
        trials.append(
            {
                "number": number,
                "params": {"lr": rate},
                "score": None if diverged else score,
                "state": "diverged" if diverged else "finished",
                "steps": 1000,
                "move": f"lr {rate:g}",
                "improved": rate == centre,
            }
        )
    best = next(t for t in trials if t["params"]["lr"] == centre)
    return {
        "budget": 4,
        "trials": trials,
        "best": {"number": best["number"], "params": best["params"], "score": best["score"]},
        "stopped": "the budget is spent",
        "steps": 4000,
        "sweeps": 1,
    }


def _loss(arm: str, seed: int, steps: int, kind: Kind) -> float:
    if arm == "rlrs":
        return LEVEL[seed] + SLOPE * (1 - steps / STEPS)
    return LEVEL[seed] + SLOPE * (SAVED[kind][arm] + SPREAD[seed])


def _runs(kind: Kind) -> list[dict[str, Any]]:
    plan = [(arm, 1.0) for arm in RATIOS] + [("rlrs", h) for h in (0.4, 0.6, 0.8)]
    runs = []
    for arm, horizon in plan:
        for seed in SEEDS:
            steps = round(STEPS * horizon)
            loss = _loss(arm, seed, steps, kind)
            runs.append(
                {
                    "id": f"{arm}-{seed}-{steps}",
                    "arm": arm,
                    "seed": seed,
                    "horizon": horizon,
                    "steps": steps,
                    "lr": 0.008,
                    "status": "finished",
                    "valid_loss": loss,
                    "score": loss - 0.02,
                }
            )
    return runs


def _write_metrics(folder: Path, run: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    lines = [{"step": 1, "tokens": 2048, "loss": 6.93, "lr_base": 0.0004, "components": {}}]
    for k in range(1, 11):
        step = run["steps"] * k // 10
        loss = run["valid_loss"] + 0.35 * ((run["steps"] / step) ** 0.75 - 1)
        lines.append({"step": step, "tokens": 2048 * step, "valid_loss": loss})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _comparison(kind: Kind, runs: list[dict[str, Any]]) -> dict[str, Any]:
    losses = {}
    for arm in RATIOS:
        per_seed = [r["valid_loss"] for r in runs if r["arm"] == arm and r["horizon"] == 1.0]
        losses[arm] = {"mean": sum(per_seed) / 3, "per_seed": per_seed}
    differences, speed_up = {}, {}
    for control, saved in SAVED[kind].items():
        per_seed = [saved + spread for spread in SPREAD.values()]
        differences[control] = _interval([-SLOPE * share for share in per_seed])
        reached = [max(0.0, share) for share in per_seed]
        speed_up[control] = {
            **_interval(reached),
            "bound": "none" if min(per_seed) > 0 else "upper",
            "steps_needed": [STEPS * (1 - share) for share in reached],
        }
    return {
        "steps": STEPS,
        "tokens": STEPS * 2048,
        "seeds": list(SEEDS),
        "baseline": "uniform",
        "runs": runs,
        "losses": losses,
        "differences": differences,
        "speed_up": speed_up,
        "verdict": {"kind": kind, "sentence": "What rlrs 0.1 said."},
    }


def _interval(per_seed: list[float]) -> dict[str, Any]:
    mean = sum(per_seed) / 3
    half = HALF_WIDTH * (max(per_seed) - min(per_seed)) / 0.02
    return {"mean": mean, "low": mean - half, "high": mean + half, "level": 0.95, "per_seed": per_seed}


def write_committed(results: Path, folder: Path) -> Path:
    """A study's folder from a committed results.json, with loss curves that go to its runs' final losses."""
    folder.mkdir(exist_ok=True)
    (folder / "runs").mkdir()
    found = json.loads(results.read_text())
    (folder / "results.json").write_text(json.dumps(found))
    for run in found["comparison"]["runs"]:
        _write_metrics(folder / "runs" / run["id"], run)
    return folder


class _Spec:
    def __init__(self, run: dict[str, Any]) -> None:
        self.id, self.steps, self.lr = run["id"], run["steps"], run["lr"]


Scenario = Literal["gain", "no_gain", "diverged", "unlike_seed", "two_seeds", "bound", "embedding", "bought"]


def write_scenario(folder: Path, scenario: Scenario) -> Path:
    """A sample study of today whose comparison is measured anew, from final losses that tell one story."""
    kinds: dict[str, Kind] = {"no_gain": "no_transferable_gain", "embedding": "gain_is_embedding"}
    kind: Kind = kinds.get(scenario, "gain")
    write_sample(folder, kind, name=f"sample-{scenario.replace('_', '-')}", schema=2)
    found = read_results(folder / "results.json")
    seeds = SEEDS[:2] if scenario == "two_seeds" else SEEDS
    plain = _runs(kind)
    if scenario == "embedding":  # shorter runs of the arm that wins
        shorter = [dict(run) for run in plain if run["arm"] == "rlrs" and run["horizon"] < 1]
        plain += [{**run, "id": run["id"].replace("rlrs", "embedding"), "arm": "embedding_only"} for run in shorter]
    runs = {}
    for run in plain:
        if run["seed"] not in seeds:
            continue
        loss = run["valid_loss"]
        if scenario == "diverged" and (run["arm"], run["seed"]) == ("embedding_only", SEEDS[0]):
            loss = None
        if scenario == "unlike_seed" and (run["arm"], run["seed"]) == ("rlrs", SEEDS[1]):
            loss += 0.4
        if scenario == "bound" and run["arm"] == "rlrs" and run["horizon"] < 1:
            loss = _loss("rlrs", run["seed"], STEPS, kind) + 0.01
        _write_metrics(folder / "runs" / run["id"], {**run, "valid_loss": loss if loss is not None else 6.0})
        status: Literal["finished", "diverged"] = "diverged" if loss is None else "finished"
        score = None if loss is None else loss - 0.02
        result = RunResult(
            status=status, steps=run["steps"], score=score, valid_loss=loss, tokens=2048 * run["steps"], seconds=30.0
        )
        runs[run["arm"], run["seed"], run["horizon"]] = (_Spec(run), result)
    comparison = measure(runs, list(RATIOS), seeds, STEPS, STEPS * 2048)
    if scenario == "bought":
        comparison = bought_by(comparison, ("rlrs",))
    write_results(folder / "results.json", found.model_copy(update={"comparison": comparison}))
    return folder


def bought_by(comparison: Comparison, arms: tuple[str, ...]) -> Comparison:
    """A comparison in which these arms raised the loss on general text by more than the study allows."""
    rises = {arm: (0.5 if arm in arms else 0.01,) * len(comparison.seeds) for arm in comparison.losses}
    general = GeneralText.model_validate({"may_rise": 0.1, "before": 2.0, "rises": rises, "bought": arms})
    losses = {arm: part.per_seed for arm, part in comparison.losses.items()}
    decision = decide(losses, comparison.seeds, comparison.speed_up, general=general)
    return comparison.model_copy(update={"general": general, "decision": decision})
