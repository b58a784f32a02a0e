"""Drives search methods: proposals to an engine, results to Optuna's storage, scores back to the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from rlrs.search.engines import Processes
from rlrs.search.methods import Method, Proposal, Stop
from rlrs.search.space import Point, bounds
from rlrs.training import RunResult, RunSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)


class StorageError(ValueError):
    """A database that cannot be used."""


@dataclass(frozen=True)
class Search:
    """One search: a method, and how its points become runs.

    Args:
        method: yields proposals.
        spec: the run that a point stands for.
        folder: where a run keeps its files, None for runs that keep none.
    """

    method: Method
    spec: Callable[[Point], RunSpec]
    folder: Callable[[RunSpec], Path | None] = lambda spec: None


@dataclass(frozen=True)
class Tried:
    """A proposal with its run and result, in the order in which the method proposed it."""

    proposal: Proposal
    spec: RunSpec
    result: RunResult
    improved: bool

    @property
    def score(self) -> float:
        """Nats per token; infinite for a run that diverged."""
        return self.result.score if self.result.score is not None else math.inf


@dataclass(frozen=True)
class Outcome:
    """A finished search."""

    stop: Stop
    tried: tuple[Tried, ...]


class Trials:
    """Finished runs of searches, in a SQLite database by Optuna; one Optuna study per search.

    A run is known by `RunSpec.id`, which is a hash of everything that decides its numbers.

    Args:
        path: the database; made if missing.

    Raises:
        StorageError: the file is not a database, is damaged, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and path.stat().st_size and path.read_bytes()[:16] != b"SQLite format 3\0":
            raise StorageError(f"{path}: not a SQLite database; move it away, and a new one is made")
        with self._errors():
            self._storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        self._studies: dict[str, optuna.Study] = {}
        self._finished: dict[tuple[str, str], RunResult] = {}

    def open(self, search: str) -> None:
        """Read what is finished of a search, and close trials that a killed study left running."""
        with self._errors():
            study = optuna.create_study(
                storage=self._storage,
                study_name=search,
                direction="minimize",
                sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: every point comes from a method
                load_if_exists=True,
            )
            for trial in study.get_trials(deepcopy=False):
                if not trial.state.is_finished():
                    # Not `study.tell`, which refuses a trial that was enqueued and not yet asked for.
                    self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                elif "result" in trial.user_attrs:
                    self._finished[search, trial.user_attrs["run"]] = RunResult(**trial.user_attrs["result"])
        self._studies[search] = study

    def finished(self, search: str, spec: RunSpec) -> RunResult | None:
        """The result of a run of this search, if it is finished."""
        return self._finished.get((search, spec.id))

    def begin(self, search: str, proposal: Proposal, spec: RunSpec) -> optuna.Trial:
        """Note that a run is under way."""
        distributions: dict[str, BaseDistribution] = {
            name: FloatDistribution(*bounds(name), log=True) for name in proposal.params
        }
        with self._errors():
            study = self._studies[search]
            study.enqueue_trial(proposal.params, user_attrs={"run": spec.id, "move": proposal.move})
            return study.ask(distributions)

    def end(self, search: str, trial: optuna.Trial, spec: RunSpec, result: RunResult) -> None:
        """Keep a finished run; one that diverged is kept as failed, with its result."""
        with self._errors():
            trial.set_user_attr("result", result.to_plain())
            state = TrialState.FAIL if result.score is None else TrialState.COMPLETE
            self._studies[search].tell(trial, result.score, state=state)
        self._finished[search, spec.id] = result

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = getattr(error, "orig", None) or error.__cause__ or error
            raise StorageError(
                f"{self.path}: the database of trials cannot be used: {str(cause).splitlines()[0]}"
            ) from None


def tune(
    searches: Mapping[str, Search],
    engine: Processes,
    trials: Trials,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Outcome]:
    """Run several searches side by side on one engine.

    A search sees only its own scores, in the order of its own proposals, so its course does not depend on the
    others, on the number of processes, or on having been killed: finished runs are answered from `trials`.

    Args:
        searches: by name; names are those of the Optuna studies.
        engine: trains the runs.
        trials: where finished runs are kept.
        tick: called with the engine's step count while it waits.
    """
    return _Driver(searches, engine, trials).run(tick)


class _Driver:
    def __init__(self, searches: Mapping[str, Search], engine: Processes, trials: Trials) -> None:
        self.searches, self.engine, self.trials = searches, engine, trials
        self.batches: dict[str, list[Proposal]] = {}
        self.results: dict[str, dict[int, RunResult]] = {}
        self.tried: dict[str, list[Tried]] = {name: [] for name in searches}
        self.outcomes: dict[str, Outcome] = {}
        self.open: dict[tuple[str, int], optuna.Trial] = {}

    def run(self, tick: Callable[[int], None] | None) -> dict[str, Outcome]:
        for name in self.searches:
            self.trials.open(name)
            self._advance(name, None)
        while self.engine.pending:
            key, result = self.engine.next(tick)
            assert isinstance(key, tuple)
            name, index = key
            spec = self.searches[name].spec(self.batches[name][index].params)
            self.trials.end(name, self.open.pop((name, index)), spec, result)
            self.results[name][index] = result
            if len(self.results[name]) == len(self.batches[name]):
                self._advance(name, self._close(name))
        assert self.outcomes.keys() == self.searches.keys()
        return {name: self.outcomes[name] for name in self.searches}

    def _advance(self, name: str, scores: list[float] | None) -> None:
        """Send the scores of a batch and start the next; batches that are finished already are passed at once."""
        search = self.searches[name]
        while True:
            try:
                batch = next(search.method) if scores is None else search.method.send(scores)
            except StopIteration as stop:
                self.outcomes[name] = Outcome(stop.value, tuple(self.tried[name]))
                return
            self.batches[name], self.results[name] = batch, {}
            for index, proposal in enumerate(batch):
                spec = search.spec(proposal.params)
                if (result := self.trials.finished(name, spec)) is not None:
                    self.results[name][index] = result
                else:
                    self.open[name, index] = self.trials.begin(name, proposal, spec)
                    self.engine.submit((name, index), spec, search.folder(spec), validate=False)
            if len(self.results[name]) < len(batch):
                return
            scores = self._close(name)

    def _close(self, name: str) -> list[float]:
        """Note a batch whose results are all in; its scores."""
        tried = self.tried[name]
        best = min((t.score for t in tried), default=math.inf)
        scores = []
        for index, proposal in enumerate(self.batches[name]):
            result = self.results[name][index]
            score = result.score if result.score is not None else math.inf
            tried.append(Tried(proposal, self.searches[name].spec(proposal.params), result, improved=score < best))
            best = min(best, score)
            scores.append(score)
        return scores
