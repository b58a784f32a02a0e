"""The stages of a study that train, on one engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import rlrs
from rlrs.comparison import held_at_start, measure, searched_components
from rlrs.components import partition
from rlrs.data import TokenData
from rlrs.inspection import meta_model
from rlrs.ratios import BASE, PRESETS, Ratios
from rlrs.records import RunResult
from rlrs.search import (
    SEARCHED,
    Engine,
    EngineError,
    Outcome,
    Point,
    Search,
    Space,
    Trials,
    Tried,
    bracket,
    method_of,
    ratios_of,
    read_space,
    run_of,
    start_point,
    tune,
)
from rlrs.search.space import bounds
from rlrs.settings import CHANGES_NO_RESULT, ModelConfig, ScaleConfig, StudyConfig, changing
from rlrs.study.budget import budgets, flops_of
from rlrs.study.directory import StudyError, StudyProgress
from rlrs.training import RunSpec


@dataclass(frozen=True)
class Arms:
    """What the arms have found so far: ratios, final fraction and base rate."""

    ratios: dict[str, Ratios] = field(default_factory=dict)
    final_fraction: dict[str, float] = field(default_factory=dict)
    lr: dict[str, float] = field(default_factory=dict)
    others: dict[str, dict[str, float]] = field(default_factory=dict)
    """What else a search moved, as in a point: weight decay and so on; not a batch size, which is the proxy's own."""


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
        self, study: StudyConfig, folder: Path, data: TokenData, engine: Engine, trials: Trials, progress: StudyProgress
    ) -> None:
        self.study, self.folder, self.data = study, folder, data
        self.engine, self.trials, self.progress = engine, trials, progress
        self._flops = flops_of(data)

    def _begin(self, name: str, steps: int, searches: Mapping[str, int] | None = None) -> Callable[[int], None]:
        self.progress.stage(name, steps, searches=searches)
        before = self.engine.steps
        return lambda done: self.progress.tick(done - before)

    def _tune(self, searches: Mapping[str, Search], where: str, tick: Callable[[int], None]) -> dict[str, Outcome]:
        def watch(name: str, tried: Tried, found: bool) -> None:
            self.progress.trial(name, tried, self._flops(tried.spec, tried.result.steps), found=found)

        return _by_arm(tune(searches, self.engine, self.trials, tick, watch), where)

    def _spec(
        self, scale: ScaleConfig, ratios: Ratios, seed: int, lr: float, final_fraction: float, steps: int | None = None
    ) -> RunSpec:
        return run_spec(self.study, scale, self.data, ratios, seed, lr=lr, final_fraction=final_fraction, steps=steps)

    def _target_spec(self, arms: Arms, arm: str, seed: int, lr: float, steps: int | None = None) -> RunSpec:
        """A run of the target with what an arm's search found on the proxy."""
        spec = self._spec(self.study.target, arms.ratios[arm], seed, lr, arms.final_fraction[arm], steps)
        found = {**arms.others[arm], "lr": lr, "final_fraction": arms.final_fraction[arm]}
        return run_of(found, spec) if arms.others[arm] else spec

    def search(self, arms: Arms) -> dict[str, Outcome]:
        """Every arm's search on the proxy, side by side; their best points go into `arms`."""
        study, settings = self.study, self.study.search
        parts = partition(meta_model(study.proxy.model, self.data.vocab_size))
        components = list(parts)
        start = Ratios.preset(settings.start) if settings.start in PRESETS else Ratios.load(settings.start)
        start.check_used(parts, "the proxy")

        whole = self._spec(study.proxy, Ratios({}), settings.seed, settings.lr, study.training.final_fraction)
        if settings.fidelity is not None and settings.fidelity.width is not None:
            try:
                whole.model.at_width(settings.fidelity.width)
            except ValueError as error:
                raise StudyError(f"search.fidelity.{error}") from None

        def spec(point: Point) -> RunSpec:
            return run_of(point, whole)

        searches = {}
        for arm in study.comparison.arms:
            if (moved := searched_components(arm, components)) is not None:
                space = self._space(start, components, moved)
                method = method_of(space, settings, steps=whole.steps, window=study.training.score_steps)
                searches[f"proxy/{arm}"] = Search(
                    method, spec, budgets=budgets(settings, self._flops), identity=self._identity(space.start())
                )
        most = dict.fromkeys(searches, settings.trials)
        tick = self._begin("search", sum(most.values()) * study.proxy.steps, most)
        outcomes = self._tune(searches, "on the proxy", tick)
        for arm in study.comparison.arms:
            best = outcomes["rlrs" if arm == "constant" else arm].stop.best
            ratios = ratios_of(best)
            arms.ratios[arm] = held_at_start(ratios) if arm == "constant" else ratios
            arms.final_fraction[arm] = best.get("final_fraction", study.training.final_fraction)
            arms.lr[arm] = best.get("lr", settings.lr)
            arms.others[arm] = {
                name: value
                for name, value in best.items()
                if name in ("weight_decay", "init_scale", "warmup_fraction", "beta1", "beta2")
                or name.endswith(".weight_decay")
            }
        return outcomes

    def _space(self, start: Ratios, components: Sequence[str], moved: Sequence[str]) -> Space:
        """What the search of an arm may change: of `search.space`, what is about the components that it moves."""
        study, settings = self.study, self.study.search
        first = start_point(settings.lr, study.training.final_fraction, start, moved)
        model = study.proxy.model
        defaults = {
            "weight_decay": study.training.weight_decay,
            "warmup_fraction": study.training.warmup_fraction,
            "beta1": study.training.betas[0],
            "beta2": study.training.betas[1],
            "batch_size": float(study.proxy.batch_size),
            **({"init_scale": model.init_scale} if isinstance(model, ModelConfig) else {}),
        }
        # Every arm is checked on the whole of it: a mistake is an error, whichever arm comes first.
        everywhere = [c for c in components if c in SEARCHED]
        read_space(
            settings.space,
            start_point(settings.lr, study.training.final_fraction, start, everywhere),
            components,
            defaults,
        )
        return read_space(settings.space, first, components, defaults, only=moved)

    def transfer(self, arms: Arms) -> dict[str, Outcome]:
        """Every arm's base rate on the target, downhill from the proxy's; the best go into `arms`."""
        study, settings = self.study, self.study.transfer
        searches = {}
        for arm in study.comparison.arms:

            def spec(point: Point, arm: str = arm) -> RunSpec:
                return self._target_spec(arms, arm, study.search.seed, point["lr"])

            method = bracket("lr", arms.lr[arm], factor=settings.multiplier, budget=settings.trials)
            identity = self._identity({"lr": arms.lr[arm]})
            searches[f"target/{arm}"] = Search(method, spec, self._run_folder, identity=identity)
        most = dict.fromkeys(searches, settings.trials)
        tick = self._begin("transfer", sum(most.values()) * study.target.steps, most)
        outcomes = self._tune(searches, "on the target", tick)
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
                    steps = max(1, round(horizon * target.steps))
                    specs[arm, seed, horizon] = self._target_spec(arms, arm, seed, arms.lr[arm], steps)
        tick = self._begin("comparison", sum(spec.steps for spec in specs.values()))
        for key, spec in specs.items():
            self.engine.submit(key, spec, self._run_folder(spec))
        done: dict[Any, RunResult] = {}
        while self.engine.pending:
            ended = self.engine.next(tick)
            assert ended is not None, "it waits as long as it takes"
            key: Any = ended[0]
            done[key] = ended[1]
            if done[key].status == "failed":
                # A search can do without a run; a comparison of pairs cannot.
                raise EngineError(
                    f"run {specs[key].id} of the comparison (arm {key[0]}, seed {key[1]}): {done[key].reason}; "
                    "finished runs are kept, and the same command tries it again"
                )
        runs = {key: (spec, done[key]) for key, spec in specs.items()}
        tokens = target.steps * target.batch_size * study.data.sequence_length
        return measure(runs, settings.arms, seeds, target.steps, tokens)

    def _identity(self, first: Point) -> dict[str, Any]:
        """What decides a search's course: a database refuses to go on with another."""
        study = changing(self.study, {**CHANGES_NO_RESULT, "name": True, "comparison": True})
        del study["data"]["source"]  # the same text may have another name elsewhere: its tokens' hash decides
        return {
            "study": study,
            "data_hash": self.data.hash,
            "space": {name: {"start": value, "bounds": list(bounds(name))} for name, value in first.items()},
            "code": {"rlrs": rlrs.__version__, "torch": torch.__version__.partition("+")[0]},
        }

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
