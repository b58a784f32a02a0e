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

from rlrs.search.verification import retested

from experiments.cache import CachedEngine
from experiments.method_proxy import store
from rlrs.data import TokenData, prepare
from rlrs.environment import environment
from rlrs.ratios import BASE, Ratios
from rlrs.search import Method, Outcome, Processes, Search, Space, Trials, Tried, tune
from rlrs.search.methods import bracket
from rlrs.search.methods.response_surface import response_surface
from rlrs.search.space import Parameter, parameter, run_of
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


def space_of(components: tuple[str, ...], start: Mapping[str, float] = SETTINGS) -> Space:
    """A start and an end ratio of these components, from where the paper has them, and settings; or the base rate."""
    ratios = {c: PAPER.get(c, BASE) for c in components}
    ends = [parameter(f"{c}.{end}", getattr(ratio, end)) for c, ratio in ratios.items() for end in ("start", "end")]
    # With a ratio for every component, the base rate would be one parameter too many.
    settings = [parameter("lr", LR)]
    if components == SEARCHED:
        settings = [fixed("lr", STABLE_LR), *(parameter(name, value) for name, value in start.items())]
    return Space([*settings, fixed("final_fraction", FINAL_FRACTION), *ends])


def methods(seed: int = 0) -> dict[str, tuple[Method, Ratios]]:
    """Arm -> its search, and the ratios of what it does not search."""
    searches = {
        "embedding only": response_surface(space_of(("embedding",)), budget=BUDGET, seed=seed),
        "search": response_surface(space_of(SEARCHED), budget=BUDGET, seed=seed, first_move=FIRST_MOVE),
        "second search": response_surface(space_of(SEARCHED, SECOND), budget=BUDGET, seed=seed, first_move=FIRST_MOVE),
    }
    return {
        "uniform": (bracket("lr", LR, factor=2**0.5, budget=6), Ratios({})),
        "paper": (bracket("lr", LR, factor=2**0.5, budget=6), PAPER),
        "by hand": (bracket("lr", 8e-3, factor=2**0.5, budget=1), BY_HAND),
    } | {a: (retested(m, points=POINTS, seeds=SEEDS, seed=seed), Ratios({})) for a, m in searches.items()}


def spec_of(point: Mapping[str, float], ratios: Ratios, data: TokenData) -> RunSpec:
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
    return run_of(point, base)


def trial(tried: Tried) -> dict[str, Any]:
    """What was asked for, and what came of it."""
    p, result = tried.proposal, tried.result
    other = {} if p.seed is None else {"seed": p.seed}
    return {"params": p.params, **other, "move": p.move, "status": result.status, "score": result.score}


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

    def tried(self, arm: str, tried: Tried, found: bool) -> None:
        """Note a run of a search."""
        print(f"{arm}: {tried.proposal.move}: {tried.score:.4f}", flush=True)
        begun = {"environment": environment(), "finished": False, "trials": []}
        self.arms.setdefault(arm, begun)["trials"].append(trial(tried))
        self._write()

    def finish(self, arm: str, best: Mapping[str, float], losses: list[float | None], outcome: Outcome | None) -> None:
        """Note an arm's losses on the fresh seeds, and the search that found it, if it had one of its own."""
        found: dict[str, Any] = {"environment": environment(), "finished": True, "best": best, "losses": losses}
        if outcome is not None:
            found |= {"stopped": outcome.stop.reason, "steps": sum(t.result.steps for t in outcome.tried)}
            found |= {"trials": [trial(t) for t in outcome.tried]}
        self.arms[arm] = found
        self._write()
        print(f"{arm}: {losses}, {best}")

    def _write(self) -> None:
        store.save_arms(self.arms, FRESH)


def points_of(
    outcomes: Mapping[str, Outcome], chosen: Mapping[str, tuple[Method, Ratios]], kept: Record
) -> dict[str, tuple[dict[str, float], Ratios]]:
    """What is measured on the fresh seeds: what arms have found now, and controls with what the search has found."""
    points = {arm: (outcome.stop.best, chosen[arm][1]) for arm, outcome in outcomes.items()}
    best = {arm: outcomes[arm].stop.best if arm in outcomes else kept.found(arm) for arm in ("search", *CONTROLS)}
    if best["search"] is not None:
        settings = {name: best["search"][name] for name in SETTINGS}
        for arm, ratios in CONTROLS.items():
            if {arm, "search"} & outcomes.keys() and (at := best[arm]) is not None:
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
    with Processes(arguments.out / "data", arguments.processes) as pool:
        engine = CachedEngine(pool, arguments.out / "runs.jsonl")
        outcomes = tune(
            {
                arm: Search(method, lambda point, ratios=ratios: spec_of(point, ratios, data))
                for arm, (method, ratios) in chosen.items()
            },
            engine,  # type: ignore[arg-type]  # the cache stands in for the engine
            Trials(arguments.out / "trials.db"),
            watch=kept.tried,
        )
        points = points_of(outcomes, chosen, kept)
        for arm, (point, ratios) in points.items():
            for seed in FRESH:
                engine.submit((arm, seed), replace(spec_of(point, ratios, data), seed=seed))
        losses: dict[str, dict[int, float | None]] = {}
        while engine.pending:
            (arm, seed), result = engine.next()  # type: ignore[misc]
            losses.setdefault(arm, {})[seed] = result.valid_loss
            print(f"{arm}, seed {seed}: {result.valid_loss}", flush=True)
    for arm, (point, _) in points.items():
        kept.finish(arm, point, [losses[arm][seed] for seed in FRESH], outcomes.get(arm))


if __name__ == "__main__":
    main()
