"""Results of a study that was never run, with settings found beside the ratios, and a winner of choice."""

from rlrs.comparison import measure
from rlrs.records import (
    ArmResult,
    ArmSearch,
    Cost,
    Models,
    ModelSize,
    Recipe,
    Results,
    RunResult,
    Spent,
    StudyIdentity,
    Trial,
)
from rlrs.settings import StudyConfig

MODEL = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_experts": 2}
STUDY = StudyConfig.model_validate(
    {
        "name": "sample",
        "proxy": {"model": MODEL, "steps": 100, "batch_size": 4},
        "target": {"model": {**MODEL, "d_model": 32}, "steps": 200, "batch_size": 4},
        "comparison": {"arms": ["uniform", "embedding_only", "constant", "rlrs"]},
    }
)
POINT = {
    "lr": 6e-3,
    "final_fraction": 0.2,
    "embedding.start": 8.0,
    "embedding.end": 2.0,
    "experts.start": 0.5,
    "experts.end": 0.25,
    "weight_decay": 0.2,
    "experts.weight_decay": 0.05,
    "warmup_fraction": 0.02,
    "beta2": 0.98,
    "init_scale": 0.3,
}
DEFAULTS = Recipe.from_settings(STUDY.training, STUDY.search.lr)
BELOW = {
    "rlrs": {"embedding_only": 0.1, "constant": 0.2, "rlrs": 0.3},
    "constant": {"embedding_only": 0.1, "constant": 0.3, "rlrs": 0.2},
    "embedding_only": {"embedding_only": 0.3, "constant": 0.1, "rlrs": 0.2},
    "uniform": {"embedding_only": -0.1, "constant": -0.2, "rlrs": -0.1},
}
"""Nats below the uniform rate, by the arm that then wins."""


def searched(params, score=3.0):
    result = RunResult(status="finished", steps=100, score=score, valid_loss=None, tokens=400, seconds=1.0)
    trial = Trial(params=params, move="start", number=0, batch=0, run="r", result=result)
    return ArmSearch(best=params, score=score, reason="the budget is spent", rounds=1, trials=(trial,), budget=4)


def arms():
    own = {
        "uniform": {n: v for n, v in POINT.items() if not n.startswith(("embedding", "experts"))},
        "embedding_only": {n: v for n, v in POINT.items() if not n.startswith("experts")},
        "constant": {n: POINT.get(n.replace(".end", ".start"), v) for n, v in POINT.items()},
        "rlrs": POINT,
    }
    found = {arm: ArmResult.from_point(arm, point, DEFAULTS, searched(point)) for arm, point in own.items()}
    return {arm: result.with_transfer(searched({"lr": 3e-3})) for arm, result in found.items()}


class Spec:
    id, steps, lr = "run", 200, 3e-3


def comparison(winner):
    below = {"uniform": 0.0, **BELOW[winner]}
    runs = {
        (arm, seed, 1.0): (
            Spec,
            RunResult(status="finished", steps=200, score=3.0, valid_loss=3.5 - gap + jitter, tokens=800, seconds=1.0),
        )
        for arm, gap in below.items()
        for seed, jitter in ((1, 0.001 * gap), (2, 0.0), (3, -0.001 * gap))
    }
    return measure(runs, list(below), [1, 2, 3], 200, 12_800)


def results(winner, compared=True):
    size = {
        "shape": MODEL,
        "parameters": {"total": 1000, "active": 500, "embedding": 200, "non_embedding": 800},
        "components": (),
        "batch_size": 4,
    }
    spent = Spent(steps=100, tokens=6400)
    return Results(
        study=StudyIdentity(name="sample", config=STUDY.model_dump(mode="json"), config_hash="c" * 12),
        environment={"rlrs": "0.1.0", "commit": None, "torch": "2.13.0"},
        data={"source": "stdlib", "hash": "d" * 12, "vocab_size": 300},
        models=Models(
            proxy=ModelSize(**size, steps=100, tokens=25_600), target=ModelSize(**size, steps=200, tokens=51_200)
        ),
        arms=arms(),
        comparison=comparison(winner) if compared else None,
        cost=Cost(search=spent, transfer=spent, comparison=spent) if compared else None,
    )
