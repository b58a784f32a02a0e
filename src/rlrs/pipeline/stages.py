"""The stages of a study that train, on one engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrs.comparison import held_at_start, measure, searched_components
from rlrs.components import partition
from rlrs.config import ScaleConfig, StudyConfig
from rlrs.data import TokenData
from rlrs.inspection import meta_model
from rlrs.pipeline.directory import Progress, StudyError
from rlrs.ratios import BASE, PRESETS, Ratios
from rlrs.search import Outcome, Point, Processes, Search, Trials, bracket, local_search, ratios_of, start_point, tune
from rlrs.training import RunResult, RunSpec


@dataclass(frozen=True)
class Arms:
    """What the arms have found so far: ratios, final fraction and base rate."""

    ratios: dict[str, Ratios] = field(default_factory=dict)
    final_fraction: dict[str, float] = field(default_factory=dict)
    lr: dict[str, float] = field(default_factory=dict)


def run_spec(
    study: StudyConfig,
    scale: ScaleConfig,
    data: TokenData,
    ratios: Ratios,
    seed: int,
    *,
    lr: float,
    final_fraction: float,
    steps: int | None = None,
) -> RunSpec:
    """The run that a study's settings, a size, ratios, a seed and a base rate stand for."""
    return RunSpec(
        model=scale.model,
        training=study.training,
        steps=steps or scale.steps,
        batch_size=scale.batch_size,
        seed=seed,
        lr=lr,
        final_fraction=final_fraction,
        # A ratio of 1 is the base rate, so it is left out: equal runs have equal ids.
        ratios={component: list(ratio.knots) for component, ratio in ratios.items() if ratio != BASE},
        data_hash=data.hash,
    )


class Stages:
    """The stages that train, on one engine."""

    def __init__(
        self, study: StudyConfig, folder: Path, data: TokenData, engine: Processes, trials: Trials, progress: Progress
    ) -> None:
        self.study, self.folder, self.data = study, folder, data
        self.engine, self.trials, self.progress = engine, trials, progress

    def _begin(self, name: str, steps: int) -> Callable[[int], None]:
        self.progress.stage(name, steps)
        before = self.engine.steps
        return lambda done: self.progress.tick(done - before)

    def _spec(
        self, scale: ScaleConfig, ratios: Ratios, seed: int, lr: float, final_fraction: float, steps: int | None = None
    ) -> RunSpec:
        return run_spec(self.study, scale, self.data, ratios, seed, lr=lr, final_fraction=final_fraction, steps=steps)

    def search(self, arms: Arms) -> dict[str, Outcome]:
        """Every arm's search on the proxy, side by side; their best points go into `arms`."""
        study, settings = self.study, self.study.search
        components = list(partition(meta_model(study.proxy.model, self.data.vocab_size)))
        start = Ratios.preset(settings.start) if settings.start in PRESETS else Ratios.load(settings.start)
        start.check_used(components, "the proxy")

        def spec(point: Point) -> RunSpec:
            return self._spec(
                study.proxy, ratios_of(point), settings.seed, point["lr"], point.get("final_fraction", 1.0)
            )

        searches = {}
        for arm in study.comparison.arms:
            if (moved := searched_components(arm, components)) is not None:
                first = start_point(settings.lr, study.training.final_fraction, start, moved)
                method = local_search(
                    first,
                    multipliers=settings.multipliers,
                    sweeps=settings.sweeps,
                    budget=settings.trials,
                    seed=settings.seed,
                )
                searches[f"proxy/{arm}"] = Search(method, spec)
        tick = self._begin("search", len(searches) * settings.trials * study.proxy.steps)
        outcomes = _by_arm(tune(searches, self.engine, self.trials, tick), "on the proxy")
        for arm in study.comparison.arms:
            best = outcomes["rlrs" if arm == "constant" else arm].stop.best
            ratios = ratios_of(best)
            arms.ratios[arm] = held_at_start(ratios) if arm == "constant" else ratios
            arms.final_fraction[arm], arms.lr[arm] = best.get("final_fraction", 1.0), best["lr"]
        return outcomes

    def transfer(self, arms: Arms) -> dict[str, Outcome]:
        """Every arm's base rate on the target, downhill from the proxy's; the best go into `arms`."""
        study, settings = self.study, self.study.transfer
        searches = {}
        for arm in study.comparison.arms:

            def spec(point: Point, arm: str = arm) -> RunSpec:
                fraction = arms.final_fraction[arm]
                return self._spec(study.target, arms.ratios[arm], study.search.seed, point["lr"], fraction)

            method = bracket("lr", arms.lr[arm], factor=settings.multiplier, budget=settings.trials)
            searches[f"target/{arm}"] = Search(method, spec, self._run_folder)
        tick = self._begin("transfer", len(searches) * settings.trials * study.target.steps)
        outcomes = _by_arm(tune(searches, self.engine, self.trials, tick), "on the target")
        for arm, outcome in outcomes.items():
            arms.lr[arm] = outcome.stop.best["lr"]
        return outcomes

    def comparison(self, arms: Arms) -> dict[str, Any]:
        """The measurement on fresh seeds: all arms at full length, `rlrs` at shorter horizons too."""
        study, target, settings = self.study, self.study.target, self.study.comparison
        seeds = [study.search.seed + 1 + k for k in range(settings.seeds)]
        specs: dict[tuple[str, int, float], RunSpec] = {}
        for seed in seeds:
            for arm in settings.arms:
                for horizon in (1.0, *(settings.horizons if arm == "rlrs" else ())):
                    base = (arms.lr[arm], arms.final_fraction[arm])
                    steps = max(1, round(horizon * target.steps))
                    specs[arm, seed, horizon] = self._spec(target, arms.ratios[arm], seed, *base, steps)
        tick = self._begin("comparison", sum(spec.steps for spec in specs.values()))
        for key, spec in specs.items():
            self.engine.submit(key, spec, self._run_folder(spec))
        done: dict[Any, RunResult] = {}
        while self.engine.pending:
            key, result = self.engine.next(tick)
            done[key] = result
        runs = {key: (spec, done[key]) for key, spec in specs.items()}
        tokens = target.steps * target.batch_size * study.data.sequence_length
        return measure(runs, settings.arms, seeds, target.steps, tokens)

    def _run_folder(self, spec: RunSpec) -> Path:
        return self.folder / "runs" / spec.id


def _by_arm(outcomes: Mapping[str, Outcome], where: str) -> dict[str, Outcome]:
    for name, outcome in outcomes.items():
        if not outcome.stop.score < float("inf"):
            raise StudyError(
                f"every run of arm {name.partition('/')[2]} {where} diverged; "
                f"start from a lower rate than search.lr={outcome.tried[0].spec.lr:g}"
            )
    return {name.partition("/")[2]: outcome for name, outcome in outcomes.items()}
