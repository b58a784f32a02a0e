"""The stages of a study that train, on one engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import rlrs
from rlrs.comparison import measure
from rlrs.records import ArmResult, ArmSearch, Comparison, Recipe, RunResult, SearchResult, Trial
from rlrs.search import (
    Bracket,
    Engine,
    Point,
    SearchTask,
    TrialStore,
    importance,
    make_method,
    run_at,
    tune,
)
from rlrs.search.space import AnySpec, bounds
from rlrs.settings import CHANGES_NO_RESULT, MAY_GROW, Arm, ScaleConfig, StudyConfig, changing
from rlrs.study.budget import budgets
from rlrs.study.directory import StudyError, StudyProgress
from rlrs.study.kinds import RunKind
from rlrs.study.ladder import width_growth
from rlrs.study.record import looked_at
from rlrs.study.spaces import known_trials, search_spaces
from rlrs.study.whole_runs import WholeRuns, spoken
from rlrs.transfer import carried

log = logging.getLogger("rlrs.study")


class Stages(WholeRuns):
    """The stages that train, on one engine."""

    def __init__(
        self,
        study: StudyConfig,
        folder: Path,
        kind: RunKind,
        engine: Engine,
        store: TrialStore,
        progress: StudyProgress,
    ) -> None:
        super().__init__(folder, engine, progress)
        self.study, self.kind, self.store = study, kind, store

    def tune(
        self, searches: Mapping[str, SearchTask], where: str, tick: Callable[[int], None]
    ) -> dict[str, SearchResult]:
        """Run searches side by side.

        Args:
            searches: by name; its second part is the arm.
            where: for messages, as `on the proxy`.
            tick: of `begin`.

        Raises:
            StudyError: a search of which no run finished.
        """

        def on_trial(name: str, trial: Trial, spec: AnySpec, found: bool) -> None:
            steps = trial.result.steps if trial.result is not None else 0
            self.progress.trial(spoken(name), trial, self.kind.flops(spec, steps), found=found)

        results = tune(searches, self.engine, self.store, tick, on_trial)
        for name, result in results.items():
            if result.score is None:
                raise StudyError(_none_finished(f"arm {name.split('/')[1]} {where}", result, searches[name]))
        return results

    def _target_spec(self, found: ArmResult, seed: int, lr: float, steps: int | None = None) -> AnySpec:
        """A run of the target with what an arm found."""
        return self.kind.spec(self.study.target, found.recipe, seed, lr=lr, steps=steps)

    def at_point(self, whole: AnySpec, scale: ScaleConfig, recipe: Recipe, point: Point) -> AnySpec:
        """The run of a point, its factors made ratios of the model of that size.

        Args:
            whole: what the point does not name.
            scale: of `whole`.
            recipe: the same, as a recipe.
            point: of a search.
        """
        run, found = run_at(point, whole), recipe.at(point)
        return replace(run, ratios=self.kind.made_out(scale, found).run_ratios()) if found.factors else run

    def search(self) -> dict[Arm, ArmResult]:
        """Every arm's search on the proxy, side by side, and what it found."""
        study, settings = self.study, self.study.search
        defaults = Recipe.from_settings(study.training, settings.lr)
        whole = self.kind.spec(study.proxy, defaults, settings.seed, lr=settings.lr)

        def spec(point: Point) -> AnySpec:
            return self.at_point(whole, study.proxy, defaults, point)

        searches = {}
        spaces = search_spaces(study, self.kind.components())
        for arm, space in spaces.items():
            searches[f"proxy/{arm}"] = SearchTask(
                make_method(
                    space,
                    settings,
                    steps=whole.steps,
                    window=study.training.score_steps,
                    known=known_trials(study, arm),
                ),
                spec,
                budgets=budgets(settings, self.kind.flops),
                identity=self.identity(space.start()),
                limits=settings.model_dump(include=_growing("search")),
            )
        most = dict.fromkeys(searches, settings.trials)
        tick = self.begin("search", sum(most.values()) * study.proxy.steps, most)
        outcomes = by_arm(self.tune(searches, "on the proxy", tick))
        found = {}
        for arm in study.comparison.arms:
            at_bounds = spaces[arm].at_bounds(outcomes[arm].best)
            own = ArmSearch.from_result(outcomes[arm], settings.trials, importance(outcomes[arm].trials), at_bounds)
            if own.bounds_note:
                log.warning("the search of %s %s", arm, own.bounds_note)
            found[arm] = ArmResult.from_point(arm, own.best, defaults, own)
        return found

    def carried(self, arms: Mapping[Arm, ArmResult]) -> dict[Arm, tuple[ArmResult, float]]:
        """Every arm with its recipe for the target, by a rule that needs no ladder, and where its base rate starts."""
        components = self.kind.components()
        found: dict[Arm, tuple[ArmResult, float]] = {}
        for arm, result in arms.items():
            own = arm == "mup_width"  # carried by a rule of its own, whatever the study's
            mode = "mup" if own else self.study.transfer.mode
            width = 1.0 if mode == "unchanged" else width_growth(self.study)
            recipe = carried(result.recipe, mode, width, components, one_rate=own)
            found[arm] = result.model_copy(update={"recipe": recipe}), result.recipe.lr
        return found

    def transfer(self, arms: Mapping[Arm, tuple[ArmResult, float]]) -> dict[Arm, ArmResult]:
        """Every arm's base rate on the target, downhill from where it starts.

        Args:
            arms: with their recipes for the target, and the base rates that they start from.
        """
        study, settings = self.study, self.study.transfer
        searches = {}
        for arm, (found, start) in arms.items():

            def spec(point: Point, found: ArmResult = found) -> AnySpec:
                return self._target_spec(found, study.search.seed, point["lr"])

            # By what it transfers: a search on the proxy that was extended may end elsewhere.
            name = f"target/{arm}/{found.recipe.digest}"
            if start != found.recipe.lr:
                name += f"-{start:.6g}"
            searches[name] = SearchTask(
                Bracket("lr", start, settings.multiplier, settings.trials),
                spec,
                self.run_folder,
                identity=self.identity({"lr": start}),
                limits={"trials": settings.trials},
            )
        most = dict.fromkeys(searches, settings.trials)
        tick = self.begin("transfer", sum(most.values()) * study.target.steps, most)
        outcomes = by_arm(self.tune(searches, "on the target", tick))
        tuned = {
            arm: ArmSearch.from_result(outcome, settings.trials, importance(outcome.trials))
            for arm, outcome in outcomes.items()
        }
        return {arm: found.with_transfer(tuned[arm]) for arm, (found, _) in arms.items()}

    def comparison(self, arms: Mapping[Arm, ArmResult]) -> Comparison:
        """The measurement on fresh seeds: all arms at full length, `rlrs` and a simpler arm that wins shorter, too.

        With `stop: anytime`, seed by seed until it is decided. That depends on the losses alone, so that a study which
        was stopped goes the same way again.
        """
        target, settings = self.study.target, self.study.comparison
        general = self.study.data.general
        tokens, may_rise = self.kind.size(target).tokens, None if general is None else general.may_rise
        before = looked_at(self.folder, settings.seeds)
        runs: dict[tuple[Arm, int, float], tuple[AnySpec, RunResult]] = {}
        seeds: list[int] = []
        while True:
            first = self.study.search.seed + 1 + len(seeds)
            new = range(first, first + (1 if seeds else settings.seeds))
            seeds += new
            runs |= self._compared(arms, new)
            found = measure(runs, settings.arms, seeds, target.steps, tokens, settings, may_rise, before)
            if found.stopping is None or found.stopping.reason is not None:
                break
        winner = found.decision.winner
        if winner not in ("uniform", "rlrs") and settings.horizons:
            # What the simpler arm saves is measured as for `rlrs`. The full-length runs have decided; these change
            # nothing.
            runs |= self._compared({winner: arms[winner]}, seeds, settings.horizons)
            found = measure(runs, settings.arms, seeds, target.steps, tokens, settings, may_rise, before)
        return found

    def _compared(
        self, arms: Mapping[Arm, ArmResult], seeds: Iterable[int], lengths: Sequence[float] | None = None
    ) -> dict[tuple[Arm, int, float], tuple[AnySpec, RunResult]]:
        """The comparison's runs on some seeds, by arm, seed and horizon.

        Args:
            arms: to run.
            seeds: to run them on.
            lengths: shares of the full steps; if None, the full length, and for `rlrs` the shorter ones too.
        """
        target, settings = self.study.target, self.study.comparison
        specs: dict[tuple[Arm, int, float], AnySpec] = {}
        for seed in seeds:
            for arm, found in arms.items():
                rate = found.recipe.target_lr
                assert rate is not None, "the transfer comes before"
                for horizon in lengths or (1.0, *(settings.horizons if arm == "rlrs" else ())):
                    steps = max(1, round(horizon * target.steps))
                    specs[arm, seed, horizon] = self._target_spec(found, seed, rate, steps)
        return self.train_all("comparison", specs)

    def identity(self, first: Point) -> dict[str, Any]:
        """What decides the course of a search from a point: a database refuses to go on with another."""
        study = changing(self.study, {**CHANGES_NO_RESULT, "name": True, "comparison": True, "ladder": True})
        for section in ("search", "transfer"):
            study[section] = {key: value for key, value in study[section].items() if key not in _growing(section)}
        study["transfer"].pop("mode", None)  # a run of the target is known by its recipe
        study.get("data", {}).pop("source", None)  # the same text may have another name: its tokens' hash decides
        return {
            "study": study,
            **self.kind.identity(),
            "space": {name: {"start": value, "bounds": list(bounds(name))} for name, value in first.items()},
            "code": {"rlrs": rlrs.__version__, "torch": torch.__version__.partition("+")[0]},
        }


def _growing(section: str) -> set[str]:
    """The settings of a section of which a study may be given more."""
    return {name.removeprefix(f"{section}.") for name in MAY_GROW if name.startswith(f"{section}.")}


def by_arm(results: Mapping[str, SearchResult]) -> dict[str, SearchResult]:
    """Results of searches by their arm, from their names: `proxy/ARM`, `target/ARM/...`."""
    return {name.split("/")[1]: result for name, result in results.items()}


def _none_finished(what: str, result: SearchResult, task: SearchTask) -> str:
    """Why a search has no score, and what to do, in words."""
    ended = [trial.result for trial in result.trials if trial.result is not None]
    lost = [run for run in ended if run.status == "failed"]
    if lost:
        others = f" and {len(ended) - len(lost)} diverged" if len(lost) < len(ended) else ""
        return (
            f"no run of {what} was finished: {len(lost)} of {len(ended)} were given up{others}; the last was "
            f"{lost[-1].reason}; the same command tries them again"
        )
    rates = [task.spec(trial.params).lr for trial in result.trials]
    if what.endswith("on the target"):  # where the rate comes from the proxy, and no setting gives it
        return (
            f"every run of {what} diverged, with base rates from {min(rates):g} to {max(rates):g} (its search on the "
            "proxy ended at the highest); raise transfer.trials, and the same command goes on to lower ones"
        )
    return f"every run of {what} diverged; start from a lower rate than search.lr={rates[0]:g}"
