"""Drives search methods: proposals to an engine, results to Optuna's storage, scores back to the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from rlrs.search.engines import Processes
from rlrs.search.methods import Feedback, Method, Proposal, Stop
from rlrs.search.space import Point, bounds
from rlrs.training import Pruning, RunResult, RunSpec

optuna.logging.set_verbosity(optuna.logging.WARNING)


class StorageError(ValueError):
    """A database that cannot be used."""


@dataclass(frozen=True)
class Search:
    """One search: a method, and how its points become runs.

    Args:
        method: yields proposals.
        spec: the run that a point stands for, at full length and width, on the search's seed.
        folder: where a run keeps its files, None for runs that keep none.
    """

    method: Method
    spec: Callable[[Point], RunSpec]
    folder: Callable[[RunSpec], Path | None] = lambda spec: None

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


class Trials:
    """Finished runs of searches, in a SQLite database by Optuna; one Optuna study per search.

    A run is known by `RunSpec.id`, which is a hash of everything that decides its numbers, and by its pruning, which
    decides where it ends.

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
        self._finished: dict[tuple[str, str, Pruning | None], RunResult] = {}

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
                    prune = Pruning(**trial.user_attrs["prune"]) if trial.user_attrs.get("prune") else None
                    self._finished[search, trial.user_attrs["run"], prune] = RunResult(**trial.user_attrs["result"])
        self._studies[search] = study

    def finished(self, search: str, spec: RunSpec, prune: Pruning | None = None) -> RunResult | None:
        """The result of a run of this search, if it is finished (or was pruned, or diverged)."""
        return self._finished.get((search, spec.id, prune))

    def begin(self, search: str, proposal: Proposal, spec: RunSpec) -> optuna.Trial:
        """Note that a run is under way."""
        distributions: dict[str, BaseDistribution] = {
            name: FloatDistribution(*bounds(name), log=True) for name in proposal.params
        }
        with self._errors():
            study = self._studies[search]
            attributes: dict[str, Any] = {"run": spec.id, "move": proposal.move, "steps": spec.steps, "seed": spec.seed}
            if proposal.prune is not None:
                attributes["prune"] = proposal.prune.to_plain()
            study.enqueue_trial(proposal.params, user_attrs=attributes)
            return study.ask(distributions)

    def end(
        self, search: str, trial: optuna.Trial, spec: RunSpec, result: RunResult, prune: Pruning | None = None
    ) -> None:
        """Keep a finished run; one that diverged is kept as failed, one that was pruned as pruned, with its result."""
        with self._errors():
            trial.set_user_attr("result", result.to_plain())
            self._studies[search].tell(trial, result.score, state=_STATES[result.status])
        self._finished[search, spec.id, prune] = result

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            cause = getattr(error, "orig", None) or error.__cause__ or error
            raise StorageError(
                f"{self.path}: the database of trials cannot be used: {str(cause).splitlines()[0]}"
            ) from None


_STATES = {"finished": TrialState.COMPLETE, "diverged": TrialState.FAIL, "pruned": TrialState.PRUNED}


def tune(
    searches: Mapping[str, Search],
    engine: Processes,
    trials: Trials,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Outcome]:
    """Run several searches side by side on one engine.

    A search sees only its own results, in the order of its own proposals, so its course does not depend on the
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
            proposal = self.batches[name][index]
            spec = self.searches[name].run(proposal)
            self.trials.end(name, self.open.pop((name, index)), spec, result, proposal.prune)
            self.results[name][index] = result
            if len(self.results[name]) == len(self.batches[name]):
                self._advance(name, self._close(name))
        assert self.outcomes.keys() == self.searches.keys()
        return {name: self.outcomes[name] for name in self.searches}

    def _advance(self, name: str, feedback: list[Feedback] | None) -> None:
        """Send the results of a batch and start the next; batches that are finished already are passed at once."""
        search = self.searches[name]
        while True:
            try:
                batch = next(search.method) if feedback is None else search.method.send(feedback)
            except StopIteration as stop:
                self.outcomes[name] = Outcome(stop.value, tuple(self.tried[name]))
                return
            self.batches[name], self.results[name] = batch, {}
            for index, proposal in enumerate(batch):
                spec = search.run(proposal)
                if (result := self.trials.finished(name, spec, proposal.prune)) is not None:
                    self.results[name][index] = result
                else:
                    self.open[name, index] = self.trials.begin(name, proposal, spec)
                    folder = search.folder(spec) if proposal.prune is None else None
                    self.engine.submit((name, index), spec, folder, validate=False, prune=proposal.prune)
            if len(self.results[name]) < len(batch):
                return
            feedback = self._close(name)

    def _close(self, name: str) -> list[Feedback]:
        """Note a batch whose results are all in; what the method is told of them."""
        tried = self.tried[name]
        best = min((t.score for t in tried if t.proposal.whole), default=math.inf)
        feedback = []
        for index, proposal in enumerate(self.batches[name]):
            told = Feedback.of(self.results[name][index])
            # Scores of shorter or narrower runs and of other seeds are no measure of the search's best.
            improved = proposal.whole and told.score < best
            tried.append(Tried(proposal, self.searches[name].run(proposal), self.results[name][index], improved))
            best = told.score if improved else best
            feedback.append(told)
        return feedback
