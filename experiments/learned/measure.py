"""Learned in one run, replayed, and searched from, against uniform, embedding-only and searched ratios.

    python -m experiments.learned.measure --out runs/learned

Goes through its phases in the order of importance and can be killed and started again: finished runs are kept in the
folder. Writes what is finished to `results.parquet` (`--results FILE`); `python -m experiments.learned.table` makes the
tables of docs/learned.md from it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments import rows
from experiments.cache import CachedEngine
from experiments.learned import store
from experiments.learned.rivals import RIVALS, train_rival
from rlrs.components import partition
from rlrs.data import TokenData, prepare
from rlrs.environment import environment
from rlrs.inspection import meta_model
from rlrs.ratios import Ratios
from rlrs.records import Learned, Learning, RunResult, SearchResult
from rlrs.search import (
    SEARCHED,
    Point,
    Processes,
    SearchTask,
    Space,
    TrialStore,
    make_method,
    run_at,
    start_point,
    tune,
)
from rlrs.settings import DataConfig, ModelConfig, PriorConfig, SearchConfig, TrainingConfig
from rlrs.training import RunSpec

DATA = DataConfig(vocab_size=512, sequence_length=64, max_bytes=4_000_000)
"""As in configs/demo.yaml: the Python standard library's own source."""
TRAINING = TrainingConfig(score_steps=40, eval_tokens=32_768)
STEPS, BATCH = 160, 8
LR = 8e-3
"""Base rate that everything starts from, as in configs/demo.yaml."""


@dataclass(frozen=True)
class Setting:
    """A model, how long it is trained, and by which optimizer."""

    experts: int = 0
    steps: int = STEPS
    optimizer: Literal["adamw", "muon"] = "adamw"

    @property
    def model(self) -> ModelConfig:
        """The demo's proxy, or its dense twin."""
        return ModelConfig(d_model=32, n_layers=2, n_heads=2, n_experts=self.experts)


MODELS = {
    "dense": Setting(),
    "moe": Setting(experts=4),
    "dense, muon": Setting(optimizer="muon"),
    "dense, 4x": Setting(steps=4 * STEPS),
}
FRESH = (1001, 1002, 1003, 1004, 1005)
"""Seeds that nothing was tuned on."""
TUNING = (11, 12)
"""Seeds that the rule's own settings were chosen on."""
BASES = (4.0, 0.25, 2.0, 0.5)
"""Multiples of the base rate, beside 1, that a run learns from."""
BUDGETS = {"uniform": 12, "embedding only": 16, "default search": 24}
"""Whole runs of each search; the default is 48 in a study and 36 in the demo: fewer here, for time."""
PHASES = ("tuning", "learned", "searches", "bases", "presets", "rivals")
REACHES, SPREADS = (3.0, 6.0), (2.0, 6.0, 1e6)


@dataclass(frozen=True)
class Asked:
    """One run that is trained for its loss, and what goes into its row."""

    arm: str
    base: float
    runs: int
    spec: RunSpec


class Proxy:
    """A model, its space and its runs."""

    def __init__(self, name: str, data: TokenData) -> None:
        self.name, self.setting, self.data = name, MODELS[name], data
        self.model, self.preset = self.setting.model, "paper-moe" if self.setting.experts else "paper-dense"
        self.training = TRAINING.model_copy(update={"optimizer": self.setting.optimizer})
        self.components = [c for c in partition(meta_model(self.model, DATA.vocab_size)) if c in SEARCHED]

    def start(self, ratios: Ratios | None = None, lr: float = LR, final_fraction: float | None = None) -> Point:
        """Where a search begins."""
        fraction = TRAINING.final_fraction if final_fraction is None else final_fraction
        return start_point(lr, fraction, ratios or Ratios(), self.components)

    def spec(self, point: Point, seed: int) -> RunSpec:
        """The run of a point."""
        whole = RunSpec(
            model=self.model,
            training=self.training,
            steps=self.setting.steps,
            batch_size=BATCH,
            seed=seed,
            lr=LR,
            final_fraction=TRAINING.final_fraction,
            ratios={},
            data_hash=self.data.hash,
        )
        return run_at(point, whole)

    def learns(self, seed: int, base: float, start: Ratios | None = None, **rule: float) -> RunSpec:
        """A run that learns its ratios."""
        how = Learning.model_validate({"knots": dict.fromkeys(self.components, (0.0, 1.0)), **rule})
        return replace(self.spec(self.start(start, LR * base), seed), learn=how)

    def point(self, found: Learned) -> Point:
        """What a run has learned."""
        return self.start(Ratios(found.ratios), found.lr, found.final_fraction)


class Measurement:
    """The runs of this experiment, one after another on one engine."""

    def __init__(self, engine: CachedEngine, trials: TrialStore, file: Path) -> None:
        self.engine, self.trials, self.file = engine, trials, file

    def losses(self, proxy: Proxy, asked: Iterable[Asked]) -> dict[tuple[str, float, int], RunResult]:
        """Train runs to their validation losses, and write their rows."""
        asked = list(asked)
        for n, one in enumerate(asked):
            self.engine.submit(n, one.spec)
        found = dict(self.engine.drain())
        self.write(proxy, asked, found)
        return {(one.arm, one.base, one.spec.seed): found[n] for n, one in enumerate(asked)}

    def write(self, proxy: Proxy, asked: Sequence[Asked], found: Mapping[int, RunResult]) -> None:
        """The rows of runs that have ended, in the order of what was asked."""
        commit, made = environment()["commit"], rows.text(environment())
        new = []
        for n, one in enumerate(asked):
            learned = found[n].learned
            new.append(
                {
                    "commit": commit,
                    "model": proxy.name,
                    "arm": one.arm,
                    "base": one.base,
                    "seed": one.spec.seed,
                    "runs": one.runs,
                    "steps": one.spec.steps,
                    "lr": one.spec.lr,
                    "final_fraction": one.spec.final_fraction,
                    "ratios": rows.text(one.spec.ratios),
                    "learned": rows.text(learned.to_plain()) if learned else None,
                    "valid_loss": found[n].valid_loss,
                    "environment": made,
                }
            )
        store.replace(new, self.file)
        print(f"{proxy.name}: {', '.join(dict.fromkeys(one.arm for one in asked))} done", flush=True)

    def searched(self, proxy: Proxy, name: str, start: Point, settings: SearchConfig, free: list[str]) -> SearchResult:
        """A search on seed 0 from a point; parameters that are not free stay there."""
        space = Space([p if p.name in free else replace(p, fixed=True) for p in Space.around(start)])
        method = make_method(space, settings, steps=proxy.setting.steps, window=TRAINING.score_steps)
        task = SearchTask(method, lambda point: proxy.spec(point, 0), limits={"trials": settings.trials})
        return tune({f"{proxy.name}/{name}": task}, self.engine, self.trials)[f"{proxy.name}/{name}"]

    def searches(self, proxy: Proxy) -> None:
        """The searches, and what they found on the fresh seeds."""
        for arm in BUDGETS:
            self.search(proxy, arm)

    def uniform(self, proxy: Proxy) -> None:
        """The first of the searches alone."""
        self.search(proxy, "uniform")

    def search(self, proxy: Proxy, arm: str) -> None:
        """One search, and what it found on the fresh seeds."""
        start = proxy.start()
        frees = {
            "uniform": ["lr", "final_fraction"],
            "embedding only": ["lr", "final_fraction", "embedding.start", "embedding.end"],
            "default search": list(start),
        }
        settings = SearchConfig.model_validate({"trials": BUDGETS[arm], "lr": LR, "retest": {"points": 0}})
        found = self.searched(proxy, arm, start, settings, frees[arm])
        self.losses(proxy, fresh(proxy, arm, 1.0, len(found.trials), found.best))

    def learned(self, proxy: Proxy) -> None:
        """Runs that learn, from uniform ratios: each by itself, replayed, and a search of 8 from what was learned."""
        learns = [Asked("learned", 1.0, 1, proxy.learns(seed, 1.0)) for seed in (0, *FRESH)]
        found = self.losses(proxy, learns)["learned", 1.0, 0].learned
        assert found is not None
        self.losses(proxy, fresh(proxy, "learned, replayed", 1.0, 1, proxy.point(found)))
        self.after(proxy, "learned + search of 8", 1.0, found)

    def rivals(self, proxy: Proxy) -> None:
        """The published rivals, from the base that was tuned for one rate: LLR is said to need no other."""
        known = store.load(self.file)
        tuned = [row for row in known if row["model"] == proxy.name and row["arm"] == "uniform"]
        if not tuned:
            raise SystemExit(f"{proxy.name}: the rivals start from the tuned base rate: run the phase uniform first")
        point = proxy.start(lr=tuned[0]["lr"], final_fraction=tuned[0]["final_fraction"])
        for name in RIVALS:
            if sum((row["model"], row["arm"]) == (proxy.name, name) for row in known) == len(FRESH):
                continue
            asked = fresh(proxy, name, 1.0, tuned[0]["runs"], point)
            self.write(proxy, asked, {n: train_rival(name, one.spec, proxy.data) for n, one in enumerate(asked)})

    def bases(self, proxy: Proxy, bases: Sequence[float] = BASES) -> None:
        """What one run learns from other base rates, replayed."""
        for base in bases:
            found = self.losses(proxy, [Asked("learned", base, 1, proxy.learns(0, base))])["learned", base, 0].learned
            if found is not None:
                self.losses(proxy, fresh(proxy, "learned, replayed", base, 1, proxy.point(found)))

    def ends(self, proxy: Proxy) -> None:
        """As `bases`, from the two that are furthest off alone."""
        self.bases(proxy, BASES[:2])

    def after(self, proxy: Proxy, arm: str, base: float, found: Learned) -> None:
        """A search of 8 runs around what was learned."""
        prior = PriorConfig(lr=found.lr, ratios={c: {"knots": list(knots)} for c, knots in found.ratios.items()})
        settings = SearchConfig.model_validate(
            {"trials": 8, "lr": LR, "retest": {"points": 0}, "prior": prior.model_dump()}
        )
        start = proxy.point(found)
        best = self.searched(proxy, f"{arm}, {base:g}", start, settings, list(start))
        self.losses(proxy, fresh(proxy, arm, base, 1 + len(best.trials), best.best))

    def presets(self, proxy: Proxy) -> None:
        """The paper's preset as it is, learned from, and searched from with 8 runs."""
        preset = Ratios.preset(proxy.preset)
        self.losses(proxy, fresh(proxy, "paper's preset", 1.0, 0, proxy.start(preset)))
        arm = "learned from the preset"
        found = self.losses(proxy, [Asked(arm, 1.0, 1, proxy.learns(seed, 1.0, preset)) for seed in (0, *FRESH)])
        learned = found[arm, 1.0, 0].learned
        assert learned is not None
        self.losses(proxy, fresh(proxy, f"{arm}, replayed", 1.0, 1, proxy.point(learned)))
        settings = SearchConfig.model_validate({"trials": 9, "lr": LR, "retest": {"points": 0}})
        best = self.searched(proxy, "search of 9", proxy.start(), settings, list(proxy.start()))
        self.losses(proxy, fresh(proxy, "search of 9 from uniform", 1.0, len(best.trials), best.best))

    def tuning(self, proxy: Proxy) -> None:
        """The rule's own settings, on seeds of their own."""
        asked = []
        for reach, spread in itertools.product(REACHES, SPREADS):
            arm = f"tuning: reach {reach:g}, spread {'none' if spread > 1e3 else f'{spread:g}'}"
            asked += [Asked(arm, 1.0, 0, proxy.learns(seed, 1.0, reach=reach, spread=spread)) for seed in TUNING]
        self.losses(proxy, asked)


def fresh(proxy: Proxy, arm: str, base: float, runs: int, point: Mapping[str, float]) -> list[Asked]:
    """The runs of a point on the fresh seeds."""
    return [Asked(arm, base, runs, proxy.spec(point, seed)) for seed in FRESH]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/learned"))
    parser.add_argument("--results", type=Path, default=store.RESULTS)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--phases", nargs="*", default=PHASES, choices=[*PHASES, "uniform", "ends"])
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    (arguments.out / "data").mkdir(parents=True, exist_ok=True)
    data = prepare(DATA, arguments.out / "data")
    trials = TrialStore(arguments.out / "trials.db")
    with CachedEngine(Processes(arguments.out / "data", arguments.processes), arguments.out / "runs.jsonl") as engine:
        measurement = Measurement(engine, trials, arguments.results)
        for name, phase in itertools.product(arguments.models, arguments.phases):
            getattr(measurement, phase)(Proxy(name, data))


if __name__ == "__main__":
    main()
