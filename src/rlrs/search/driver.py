"""Drives search methods: proposals to an engine, results to the database, feedback to the method."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrs.records import RunResult
from rlrs.search.engines import Engine
from rlrs.search.methods import Feedback, Method, Proposal, Stop, ended
from rlrs.search.space import Point
from rlrs.search.store import StorageError, Trials
from rlrs.training import RunSpec

POLL = 0.5
"""Seconds between looks at what other drivers have finished. Chosen here, not studied."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend, besides the runs that its method allows itself.

    A batch of proposals is trained only if it fits: at its full length, on top of what was spent. The first batch
    always is, since without it there is nothing to say.

    Args:
        limit: in `unit`.
        unit: in words.
        cost: of a run of so many steps that took so many seconds, in `unit`.
    """

    limit: float
    unit: str
    cost: Callable[[RunSpec, int, float], float]


@dataclass(frozen=True)
class Search:
    """One search: a method, and how its points become runs.

    Args:
        method: yields proposals.
        spec: the run that a point stands for, at full length and width, on the search's seed.
        folder: where a run keeps its files, None for runs that keep none.
        budgets: the search ends where the first of them is spent.
        identity: what decides the search's course, as plain data; a database keeps it and refuses another.
    """

    method: Method
    spec: Callable[[Point], RunSpec]
    folder: Callable[[RunSpec], Path | None] = lambda spec: None
    budgets: Sequence[Budget] = ()
    identity: Mapping[str, Any] = field(default_factory=dict)

    def run(self, proposal: Proposal) -> RunSpec:
        """The run of a proposal."""
        return proposal.run(self.spec(proposal.params))


@dataclass(frozen=True)
class Tried:
    """A proposal with its run and result, in the order in which the method proposed it."""

    proposal: Proposal
    spec: RunSpec
    result: RunResult
    improved: bool

    @property
    def score(self) -> float:
        """Nats per token; infinite for a run that is not finished."""
        return self.result.score if self.result.score is not None else math.inf


@dataclass(frozen=True)
class Outcome:
    """A finished search."""

    stop: Stop
    tried: tuple[Tried, ...]


class Interrupted(KeyboardInterrupt):
    """Searches that were stopped by Ctrl-C: what they have found so far, those left out that have trained no whole run.

    A search's answer is its method's, from the batches that are whole; `tried` has the last batch's results too.
    """

    def __init__(self, so_far: Mapping[str, Outcome]) -> None:
        super().__init__("stopped")
        self.so_far = so_far


Watch = Callable[[str, Tried, bool], None]
"""Called with the search's name for every result, in the order in which they come, and whether it was found in the
database: finished before, or by another driver. In a batch, `improved` is against the best of the batches before it."""


def tune(
    searches: Mapping[str, Search],
    engine: Engine,
    trials: Trials,
    tick: Callable[[int], None] | None = None,
    watch: Watch | None = None,
) -> dict[str, Outcome]:
    """Run several searches side by side on one engine.

    A search sees only its own results, in the order of its own proposals, so its course does not depend on the
    others, on the number of processes or drivers, or on having been killed: finished runs are answered from `trials`.

    Args:
        searches: by name; names are those of the Optuna studies.
        engine: trains the runs.
        trials: where finished runs are kept.
        tick: called with the engine's step count while it waits.
        watch: called with every result.

    Raises:
        Interrupted: Ctrl-C.
        StorageError: see `Trials`.
        EngineError: see `Engine.next`.
    """
    driver = _Driver(searches, engine, trials, tick, watch)
    try:
        return driver.run()
    except KeyboardInterrupt:
        so_far = {name: driver.so_far(name) for name in searches}
        raise Interrupted({name: outcome for name, outcome in so_far.items() if outcome}) from None
    finally:
        with contextlib.suppress(StorageError):
            trials.leave()


class _Driver:
    def __init__(
        self,
        searches: Mapping[str, Search],
        engine: Engine,
        trials: Trials,
        tick: Callable[[int], None] | None,
        watch: Watch | None,
    ) -> None:
        self.searches, self.engine, self.trials, self.tick, self.watch = searches, engine, trials, tick, watch
        self.batches: dict[str, list[Proposal]] = {}
        self.specs: dict[str, list[RunSpec]] = {}
        """The runs of a batch."""
        self.results: dict[str, dict[int, RunResult]] = {}
        self.tried: dict[str, list[Tried]] = {name: [] for name in searches}
        self.best: dict[str, float] = dict.fromkeys(searches, math.inf)
        self.spent: dict[str, list[float]] = {name: [0.0] * len(s.budgets) for name, s in searches.items()}
        self.outcomes: dict[str, Outcome] = {}
        self.todo: dict[tuple[str, int], float] = {}
        """Proposals not yet begun here, and from when on they may be: those that another driver has wait a little."""

    def run(self) -> dict[str, Outcome]:
        for name, search in self.searches.items():
            self.trials.open(name, search.identity)
            self._advance(name, None)
        polled = time.monotonic()
        while len(self.outcomes) < len(self.searches):
            self._begin()
            if self.engine.pending:
                ended = self.engine.next(self.tick, POLL if self.trials.shared else None)
                if ended is not None:
                    self._end(*ended)
            else:
                time.sleep(POLL)
            if self.trials.shared:
                self.trials.beat()
                if time.monotonic() - polled > POLL:
                    self._poll()
                    polled = time.monotonic()
        return {name: self.outcomes[name] for name in self.searches}

    def _begin(self) -> None:
        """Hand proposals to the engine: all, or those that this driver has room for where others share the work."""
        for (name, index), not_before in list(self.todo.items()):
            if self.trials.shared and (self.engine.pending >= self.engine.slots or not_before > time.monotonic()):
                continue
            search, proposal, spec = self.searches[name], self.batches[name][index], self.specs[name][index]
            if not self.trials.begin(name, spec, proposal.prune):
                self.todo[name, index] = time.monotonic() + POLL
                continue
            del self.todo[name, index]
            folder = search.folder(spec) if proposal.prune is None else None
            self.engine.submit((name, index), spec, folder, validate=False, prune=proposal.prune)

    def _end(self, key: Any, result: RunResult) -> None:
        name, index = key
        kept = self.trials.end(name, self.batches[name][index], self.specs[name][index], result)
        if kept is None:  # another driver has taken it over, and is not done
            self.todo[key] = time.monotonic() + POLL
        else:
            self._keep(name, index, kept, found=False)
            self._close_if_whole(name)

    def _poll(self) -> None:
        """Take what other drivers have finished."""
        for name in {name for name, _ in self.todo}:
            self.trials.refresh(name)
            for index in [index for other, index in self.todo if other == name]:
                result = self.trials.finished(name, self.specs[name][index], self.batches[name][index].prune)
                if result is not None:
                    del self.todo[name, index]
                    self._keep(name, index, result, found=True)
            self._close_if_whole(name)

    def _keep(self, name: str, index: int, result: RunResult, *, found: bool) -> None:
        self.results[name][index] = result
        if self.watch:
            self.watch(name, self._as_tried(name, index, self.best[name]), found)

    def _close_if_whole(self, name: str) -> None:
        if name not in self.outcomes and len(self.results[name]) == len(self.batches[name]):
            self._advance(name, self._close(name))

    def _advance(self, name: str, feedback: list[Feedback] | None) -> None:
        """Send the results of a batch and start the next; batches that are finished already are passed at once."""
        search = self.searches[name]
        while True:
            try:
                batch = next(search.method) if feedback is None else search.method.send(feedback)
            except StopIteration as stop:
                self.outcomes[name] = Outcome(stop.value, tuple(self.tried[name]))
                return
            specs = [search.run(proposal) for proposal in batch]
            if (unit := self._over_budget(name, specs)) is not None:
                self.outcomes[name] = self._out_of(name, unit)
                return
            self.batches[name], self.specs[name], self.results[name] = batch, specs, {}
            for index, (proposal, spec) in enumerate(zip(batch, specs, strict=True)):
                result = self.trials.finished(name, spec, proposal.prune)
                if result is not None:
                    self._keep(name, index, result, found=True)
                else:
                    self.todo[name, index] = 0.0
            if len(self.results[name]) < len(batch):
                return
            feedback = self._close(name)

    def _close(self, name: str) -> list[Feedback]:
        """Note a batch whose results are all in; what the method is told of them."""
        feedback = []
        for index in range(len(self.batches[name])):
            tried = self._as_tried(name, index, self.best[name])
            self.best[name] = tried.score if tried.improved else self.best[name]
            self.tried[name].append(tried)
            for number, budget in enumerate(self.searches[name].budgets):
                self.spent[name][number] += budget.cost(tried.spec, tried.result.steps, tried.result.seconds)
            feedback.append(Feedback.of(tried.result))
        self.results[name] = {}
        return feedback

    def _as_tried(self, name: str, index: int, best: float) -> Tried:
        proposal, result = self.batches[name][index], self.results[name][index]
        # Scores of shorter or narrower runs and of other seeds are no measure of the search's best.
        improved = proposal.whole and result.score is not None and result.score < best
        return Tried(proposal, self.specs[name][index], result, improved)

    def _over_budget(self, name: str, specs: list[RunSpec]) -> str | None:
        """The limit that a batch would pass, in words."""
        for budget, spent in zip(self.searches[name].budgets, self.spent[name], strict=True):
            planned = sum(budget.cost(spec, spec.steps, 0.0) for spec in specs)
            if self.tried[name] and (spent + planned > budget.limit or spent >= budget.limit):
                return f"{budget.limit:,.6g} {budget.unit}"
        return None

    def _out_of(self, name: str, budget: str) -> Outcome:
        outcome = self._ended(name, tuple(self.tried[name]), f"the next runs would pass the budget of {budget}")
        assert outcome is not None, "every method proposes a whole run first"
        return outcome

    def _ended(self, name: str, tried: tuple[Tried, ...], reason: str) -> Outcome | None:
        """What a search that ends before its method has found: the method's answer, or else the lowest score."""
        stop = ended(self.searches[name].method, reason)
        best = min((t for t in tried if t.proposal.whole), key=lambda t: t.score, default=None)
        if stop is None and best is not None:
            stop = Stop(best.proposal.params, best.score, 0, reason)
        return None if stop is None else Outcome(stop, tried)

    def so_far(self, name: str) -> Outcome | None:
        """What a search has found at this moment, with all results at hand, those of a batch that is not whole too."""
        if name in self.outcomes:
            return self.outcomes[name]
        late = (self._as_tried(name, index, self.best[name]) for index in sorted(self.results.get(name, ())))
        return self._ended(name, (*self.tried[name], *late), "stopped")
