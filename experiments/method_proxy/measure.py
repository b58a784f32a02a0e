"""Ratios found by search against the paper's preset and a tuned embedding multiplier, on seeds that no search saw.

    python -m experiments.method_proxy.measure --out runs/method-proxy

The proxy is a mixture of experts of 4 blocks, d=64, 8 experts (top-1), vocabulary 1,024, trained for 1,000 steps of
16 x 128 tokens of the default corpus: about two minutes of a core per run. Every arm has the final fraction of the
paper; the searched arms have the same method and the same budget, but that of the embedding alone begins with the
default's larger moves. A search changes two settings beside the ratios; the preset and the embedding multiplier are
measured with those of the first search as well, so that what the ratios gain is seen alone. Can be killed and started
again: finished runs are kept in the folder. What is finished goes to `results.parquet` (see `store.py`),
where `--arms` leaves the other arms as they are; trials of designs that were given up are there too.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.cache import CachedEngine
from experiments.method_proxy import store
from rlrs.data import TokenData, prepare
from rlrs.environment import environment
from rlrs.ratios import BASE, Ratios
from rlrs.records import SearchResult, Trial
from rlrs.search import Bracket, Method, Processes, ResponseSurface, SearchTask, Space, TrialStore, run_at, tune
from rlrs.search.fidelity import Retested
from rlrs.search.space import Parameter, parameter
from rlrs.settings import DataConfig, ModelConfig, TrainingConfig
from rlrs.training import RunSpec

DATA = DataConfig(vocab_size=1024, sequence_length=128)
MODEL = ModelConfig(d_model=64, n_layers=4, n_heads=4, n_experts=8)
TRAINING = TrainingConfig(score_steps=100, eval_tokens=131_072)
STEPS, BATCH_SIZE, SEED, FINAL_FRACTION = 1000, 16, 0, 0.044444
LR = 8e-3 * 2**0.5
"""A point of the brackets' grid, and where they and the search of the embedding start."""
STABLE_LR = 8e-3
"""Where the search of all ratios starts: a move of attention by 1.5 from the other is beyond its edge of stability."""
FRESH = (1001, 1002, 1003)
"""Seeds of weights and data order that no search sees."""
BUDGET, POINTS, SEEDS = 28, 3, 2
"""Runs for each searched arm; then its best points are trained on other seeds, since runs are noisy by 0.01 nats."""
FIRST_MOVE = 0.4
"""Natural log, of the search of all ratios: the preset is near its best, and moves by 0.6 cost up to half a nat."""
SETTINGS = {"beta1": 0.9, "warmup_fraction": 0.01}
"""What is searched beside the ratios, and where it starts: as published."""
SECOND = {"beta1": 0.8, "warmup_fraction": 0.03}
"""Where they start in the second search, which differs in nothing else."""
WITH = "with the search's settings"
PAPER = Ratios.preset("paper-moe")
BY_HAND = Ratios(
    {
        "embedding": {"start": 15, "end": 2},
        "attention": {"start": 0.5, "end": 3},
        "experts": {"start": 0.2, "end": 3.4},
        "router": {"start": 0.666, "end": 3},
        "unembedding": {"start": 1.5, "end": 1.33},
    }
)
"""The preset moved once to where single ratios times 3 or 1/3 had been better; base rate 8e-3, as in those runs."""
CONTROLS = {"paper": PAPER, "embedding only": Ratios({})}
"""Arms whose best is measured with the search's settings too, and the ratios that they do not search."""
SEARCHED = ("embedding", "attention", "experts", "router", "unembedding", "norm")


def fixed(name: str, value: float) -> Parameter:
    """A parameter that stays where it is."""
    return Parameter(name, value, value, value, fixed=True)


def searched_space(components: tuple[str, ...], start: Mapping[str, float] = SETTINGS) -> Space:
    """A start and an end ratio of these components, from where the paper has them, and settings; or the base rate."""
    ratios = {c: PAPER.get(c, BASE) for c in components}
    ends = [parameter(f"{c}.{end}", getattr(ratio, end)) for c, ratio in ratios.items() for end in ("start", "end")]
    # With a ratio for every component, the base rate would be one parameter too many.
    settings = [parameter("lr", LR)]
    if components == SEARCHED:
        settings = [fixed("lr", STABLE_LR), *(parameter(name, value) for name, value in start.items())]
    return Space([*settings, fixed("final_fraction", FINAL_FRACTION), *ends])


def methods(seed: int = 0) -> Mapping[str, tuple[Method, Ratios]]:
    """Arm -> its search, and the ratios of what it does not search."""
    searches = {
        "embedding only": ResponseSurface(searched_space(("embedding",)), BUDGET, seed),
        "search": ResponseSurface(searched_space(SEARCHED), BUDGET, seed, first_move=FIRST_MOVE),
        "second search": ResponseSurface(searched_space(SEARCHED, SECOND), BUDGET, seed, first_move=FIRST_MOVE),
    }
    return {
        "uniform": (Bracket("lr", LR, factor=2**0.5, budget=6), Ratios({})),
        "paper": (Bracket("lr", LR, factor=2**0.5, budget=6), PAPER),
        "by hand": (Bracket("lr", 8e-3, factor=2**0.5, budget=1), BY_HAND),
    } | {a: (Retested(m, points=POINTS, seeds=SEEDS, seed=seed), Ratios({})) for a, m in searches.items()}


def run_spec(point: Mapping[str, float], ratios: Ratios, data: TokenData) -> RunSpec:
    """The whole run of a point."""
    base = RunSpec(
        model=MODEL,
        training=TRAINING,
        steps=STEPS,
        batch_size=BATCH_SIZE,
        seed=SEED,
        lr=LR,
        final_fraction=FINAL_FRACTION,
        ratios={c: list(ratio.knots) for c, ratio in ratios.items() if ratio != BASE},
        data_hash=data.hash,
    )
    return run_at(point, base)


def plain(trial: Trial) -> dict[str, Any]:
    """What was asked for, and what came of it."""
    result = trial.result
    assert result is not None, "only trials that have ended are noted"
    other = {} if trial.seed is None else {"seed": trial.seed}
    return {"params": trial.params, **other, "move": trial.move, "status": result.status, "score": result.score}


class Record:
    """The arms in results.parquet, written again with every run that ends.

    Args:
        anew: arms that are measured now, whatever the file has of them.
    """

    def __init__(self, anew: Collection[str]) -> None:
        before = store.arms(store.load())
        self.arms: dict[str, dict[str, Any]] = {arm: found for arm, found in before.items() if arm not in anew}

    def found(self, arm: str) -> dict[str, float] | None:
        """What an arm that has ended has found."""
        return self.arms.get(arm, {}).get("best")

    def add(self, arm: str, trial: Trial, spec: Any, found: bool) -> None:
        """Note a trial of a search."""
        print(f"{arm}: {trial.move}: {trial.score:.4f}", flush=True)
        begun = {"environment": environment(), "finished": False, "trials": []}
        self.arms.setdefault(arm, begun)["trials"].append(plain(trial))
        self._write()

    def finish(
        self, arm: str, best: Mapping[str, float], losses: list[float | None], result: SearchResult | None
    ) -> None:
        """Note an arm's losses on the fresh seeds, and the search that found it, if it had one of its own."""
        found: dict[str, Any] = {"environment": environment(), "finished": True, "best": best, "losses": losses}
        if result is not None:
            steps = sum(trial.result.steps for trial in result.trials if trial.result is not None)
            found |= {"stopped": result.reason, "steps": steps, "trials": [plain(trial) for trial in result.trials]}
        self.arms[arm] = found
        self._write()
        print(f"{arm}: {losses}, {best}")

    def _write(self) -> None:
        store.save_arms(self.arms, FRESH)


def measured_points(
    results: Mapping[str, SearchResult], chosen: Mapping[str, tuple[Method, Ratios]], kept: Record
) -> dict[str, tuple[dict[str, float], Ratios]]:
    """What is measured on the fresh seeds: what arms have found now, and controls with what the search has found."""
    points = {arm: (result.best, chosen[arm][1]) for arm, result in results.items()}
    best = {arm: results[arm].best if arm in results else kept.found(arm) for arm in ("search", *CONTROLS)}
    if best["search"] is not None:
        settings = {name: best["search"][name] for name in SETTINGS}
        for arm, ratios in CONTROLS.items():
            if {arm, "search"} & results.keys() and (at := best[arm]) is not None:
                points[f"{arm}, {WITH}"] = ({**at, **settings}, ratios)
    return points


def main() -> None:
    searches = methods()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/method-proxy"))
    parser.add_argument("--arms", nargs="*", choices=list(searches), default=list(searches), help="all if not given")
    parser.add_argument("--processes", type=int)
    arguments = parser.parse_args()
    (arguments.out / "data").mkdir(parents=True, exist_ok=True)
    data = prepare(DATA, arguments.out / "data")
    chosen = {arm: searches[arm] for arm in arguments.arms}
    kept = Record({*chosen, *(f"{arm}, {WITH}" for arm in CONTROLS if {arm, "search"} & chosen.keys())})
    with CachedEngine(Processes(arguments.out / "data", arguments.processes), arguments.out / "runs.jsonl") as engine:
        results = tune(
            {
                arm: SearchTask(method, lambda point, ratios=ratios: run_spec(point, ratios, data))
                for arm, (method, ratios) in chosen.items()
            },
            engine,
            TrialStore(arguments.out / "trials.db"),
            on_trial=kept.add,
        )
        points = measured_points(results, chosen, kept)
        for arm, (point, ratios) in points.items():
            for seed in FRESH:
                engine.submit((arm, seed), replace(run_spec(point, ratios, data), seed=seed))
        losses: dict[str, dict[int, float | None]] = {}
        for (arm, seed), result in engine.drain():
            losses.setdefault(arm, {})[seed] = result.valid_loss
            print(f"{arm}, seed {seed}: {result.valid_loss}", flush=True)
    for arm, (point, _) in points.items():
        kept.finish(arm, point, [losses[arm][seed] for seed in FRESH], results.get(arm))


if __name__ == "__main__":
    main()
