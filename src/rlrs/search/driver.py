"""Drives searches: what their methods ask for goes to an engine, by way of the record in the database."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrs.records import RunResult, SearchResult, Trial
from rlrs.search.engines import Engine
from rlrs.search.method import Method, lowest
from rlrs.search.space import AnySpec, Point, run_for
from rlrs.search.store import StorageError, TrialStore

POLL = 0.5
"""Seconds between looks at what other drivers have finished. Chosen here, not studied."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend, besides the runs that its method allows itself.

    A batch is trained only if it fits: at its full length, on top of what was spent. The first batch always is, since
    without it there is nothing to say.

    Args:
        limit: in `unit`.
        unit: in words.
        cost: of a run of so many steps that took so many seconds, in `unit`.
    """

    limit: float
    unit: str
    cost: Callable[[Any, int, float], float]


@dataclass(frozen=True)
class SearchTask:
    """One search: a method, and how its points become runs.

    Args:
        method: asks for trials.
        spec: the run that a point stands for, at full length and width, on the search's seed.
        folder: where a run keeps its files, None for runs that keep none.
        budgets: the search ends where the first of them is spent.
        identity: what decides the search's course and may not change, as plain data; a database refuses another.
        limits: what may grow, so that a search that has ended goes on: its number of trials, its budgets.
    """

    method: Method
    spec: Callable[[Point], AnySpec]
    folder: Callable[[AnySpec], Path | None] = lambda spec: None
    budgets: Sequence[Budget] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)


class Interrupted(KeyboardInterrupt):
    """Searches that were stopped by Ctrl-C: what they have found so far, those left out that have trained no whole run.

    A search's answer is its method's, from the batches that are whole; `trials` has the last batch's results too.
    """

    def __init__(self, so_far: Mapping[str, SearchResult]) -> None:
        super().__init__("stopped")
        self.so_far = so_far


OnTrial = Callable[[str, Trial, AnySpec, bool], None]
"""Called with the search's name, a trial that has ended and its run, in the order in which they end; and whether it was
found in the database: finished before, or by another driver."""


def tune(
    searches: Mapping[str, SearchTask],
    engine: Engine,
    store: TrialStore,
    tick: Callable[[int], None] | None = None,
    on_trial: OnTrial | None = None,
) -> dict[str, SearchResult]:
    """Run several searches side by side on one engine.

    A search sees only its own trials, in the order of its own proposals, so its course does not depend on the others,
    on the number of processes or drivers, or on having been killed: what was proposed, and what has ended, is read from
    `store`.

    Args:
        searches: by name; names are those of the Optuna studies.
        engine: trains the runs.
        store: the record of all trials.
        tick: called with the engine's step count while it waits.
        on_trial: called with every trial that has ended.

    Raises:
        Interrupted: Ctrl-C.
        StorageError: see `TrialStore`.
        EngineError: see `Engine.next`.
    """
    driver = _Driver(searches, engine, store, tick, on_trial)
    try:
        return driver.run()
    except KeyboardInterrupt:
        so_far = {name: driver.so_far(name) for name in searches}
        raise Interrupted({name: result for name, result in so_far.items() if result}) from None
    finally:
        with contextlib.suppress(StorageError):
            store.leave()


class _Driver:
    def __init__(
        self,
        searches: Mapping[str, SearchTask],
        engine: Engine,
        store: TrialStore,
        tick: Callable[[int], None] | None,
        on_trial: OnTrial | None,
    ) -> None:
        self.searches, self.engine, self.store, self.tick, self.on_trial = searches, engine, store, tick, on_trial
        self.specs: dict[tuple[str, int, str], AnySpec] = {}
        self.begun: dict[tuple[str, int], Trial] = {}
        """Trials that this driver's engine was handed."""
        self.given_up: dict[tuple[str, int], RunResult] = {}
        """Trials that this driver's engine gave up: the search goes on without them, their rows wait."""
        self.told: set[tuple[str, int]] = set()
        self.results: dict[str, SearchResult] = {}
        self.todo: dict[tuple[str, int], float] = {}
        """Trials not yet begun here, and from when on they may be: those that another driver has wait a little."""
        self.planning: set[str] = set()
        """Searches whose next batch another driver is writing."""

    def run(self) -> dict[str, SearchResult]:
        for name, task in self.searches.items():
            self.store.open(name, task.identity)
            self._advance(name)
        polled = time.monotonic()
        while len(self.results) < len(self.searches):
            self._begin()
            if self.engine.pending:
                ended = self.engine.next(self.tick, POLL if self.store.shared else None)
                if ended is not None:
                    self._end(*ended)
            else:
                time.sleep(POLL)
            if self.store.shared:
                self.store.beat()
                if time.monotonic() - polled > POLL:
                    self._poll()
                    polled = time.monotonic()
        return {name: self.results[name] for name in self.searches}

    def _begin(self) -> None:
        """Hand trials to the engine: all, or those that this driver has room for where others share the work."""
        for (name, number), not_before in list(self.todo.items()):
            if self.store.shared and (self.engine.pending >= self.engine.slots or not_before > time.monotonic()):
                continue
            trial = self.store.trials(name)[number]
            if not self.store.begin(name, trial):
                self.todo[name, number] = time.monotonic() + POLL
                continue
            self.todo.pop((name, number), None)
            trial = self.store.trials(name)[number]  # as it is now that it is claimed
            self.begun[name, number] = trial
            if (same := self._same_run(name, trial)) is not None:
                self._end((name, number), same)
                continue
            spec = self._spec(name, trial)
            folder = self.searches[name].folder(spec) if trial.prune is None else None
            self.engine.submit((name, number), spec, folder, validate=False, prune=trial.prune)

    def _same_run(self, name: str, trial: Trial) -> RunResult | None:
        """The result of another trial that is the same run to its end, and has ended."""
        for other in self.store.trials(name):
            if other.run == trial.run and other.prune is None and trial.prune is None and other.result is not None:
                return other.result
        return None

    def _end(self, key: Any, result: RunResult) -> None:
        name, _ = key
        kept = self.store.end(name, self.begun[key], result)
        if kept is None:  # another driver has taken it over, and is not done
            self.todo[key] = time.monotonic() + POLL
            return
        if kept.result is not None and kept.result.status == "failed":
            self.given_up[key] = kept.result
        self._tell(name, kept, found=False)
        self._advance(name)

    def _poll(self) -> None:
        """Take what other drivers have written."""
        for name in {name for name, _ in self.todo} | self.planning:
            self.store.refresh(name)
            self._advance(name)

    def _advance(self, name: str) -> None:
        """Take in what has ended; ask for the next batch when the last one is whole; end when there is none."""
        while name not in self.results:
            for trial in self._trials(name):
                self._spec(name, trial)
                if trial.result is not None and (name, trial.number) not in self.told:
                    self._tell(name, trial, found=True)
                    self.todo.pop((name, trial.number), None)
            open_ones = {trial.number for trial in self._trials(name) if trial.result is None}
            begun = {number for other, number in self.todo if other == name} | self._at_work(name)
            self.todo |= {(name, number): 0.0 for number in sorted(open_ones - begun)}
            if open_ones or not self._plan(name):
                return

    def _at_work(self, name: str) -> set[int]:
        return {number for other, number in self.store.running if other == name}

    def _plan(self, name: str) -> bool:
        """Write the next batch, or end the search; False while another driver is writing."""
        task = self.searches[name]
        self.planning.add(name)
        if not self.store.plan(name):
            # Written meanwhile: it is taken in at once. Being written: at the next look.
            return any(trial.result is None for trial in self._trials(name))
        self.planning.discard(name)
        try:
            if self.store.missing(name):
                self.store.complete(name)
                return True
            history = self._trials(name)
            if (answer := self.store.answer(name, task.limits)) is not None:
                self._finish(name, answer, keep=False)
                return True
            asked = task.method.ask(history)
            if isinstance(asked, SearchResult):
                self._finish(name, asked)
                return True
            specs = [run_for(proposal, task.spec(proposal.params)) for proposal in asked]
            if (unit := self._over_budget(name, specs, history)) is not None:
                reason = f"the next runs would pass the budget of {unit}"
                self._finish(name, task.method.result(history, reason))
                return True
            self.store.add_batch(name, asked, [spec.id for spec in specs])
            return True
        finally:
            self.store.planned(name)

    def _finish(self, name: str, result: SearchResult, *, keep: bool = True) -> None:
        self.results[name] = result.model_copy(update={"trials": tuple(self._trials(name))})
        if keep:
            self.store.keep_answer(name, self.searches[name].limits, result)

    def _trials(self, name: str) -> list[Trial]:
        """All trials, those that were given up here with that as their result."""
        return [
            trial.model_copy(update={"result": self.given_up[name, trial.number]})
            if trial.result is None and (name, trial.number) in self.given_up
            else trial
            for trial in self.store.trials(name)
        ]

    def _tell(self, name: str, trial: Trial, *, found: bool) -> None:
        self.told.add((name, trial.number))
        if self.on_trial:
            self.on_trial(name, trial, self._spec(name, trial), found)

    def _spec(self, name: str, trial: Trial) -> AnySpec:
        """The run of a trial, which has to be the run that the record names."""
        key = name, trial.number, trial.run
        if key not in self.specs:
            spec = run_for(trial, self.searches[name].spec(trial.params))
            if spec.id != trial.run:
                raise StorageError(
                    f"{self.store.name}: search {name}: trial {trial.number} was run {trial.run}, and its point is run "
                    f"{spec.id} now: the database is damaged, or of another version of rlrs; move it away, and the "
                    "search begins again"
                )
            self.specs[key] = spec
        return self.specs[key]

    def _over_budget(self, name: str, specs: Sequence[AnySpec], history: Sequence[Trial]) -> str | None:
        """The limit that a batch would pass, in words."""
        for budget in self.searches[name].budgets:
            ended = [(self._spec(name, trial), trial.result) for trial in history if trial.result is not None]
            spent = sum(budget.cost(spec, result.steps, result.seconds) for spec, result in ended)
            planned = sum(budget.cost(spec, spec.steps, 0.0) for spec in specs)
            if history and (spent + planned > budget.limit or spent >= budget.limit):
                return f"{budget.limit:,.6g} {budget.unit}"
        return None

    def so_far(self, name: str) -> SearchResult | None:
        """What a search has found at this moment: its method's answer from the batches that are whole."""
        if name in self.results:
            return self.results[name]
        try:
            trials = self._trials(name)
        except KeyError:  # not opened yet
            return None
        ended = [trial for trial in trials if trial.result is not None]
        first_open = min((trial.batch for trial in trials if trial.result is None), default=None)
        history = [trial for trial in ended if first_open is None or trial.batch < first_open]
        if any(trial.whole and trial.measured for trial in history):
            result = self.searches[name].method.result(history, "stopped")
        elif any(trial.whole and trial.measured for trial in ended):
            result = lowest(ended, "stopped", 0)
        else:
            return None
        return result.model_copy(update={"trials": tuple(ended)})
