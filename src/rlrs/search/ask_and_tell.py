"""`rlrs.Search`: a search that asks for trials and is told their losses, for training code that starts runs itself."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rlrs
from rlrs.messages import shown
from rlrs.ratios import Ratios
from rlrs.records import RunResult, SearchResult, Trial, bounds_note
from rlrs.search.making import make_method
from rlrs.search.method import History
from rlrs.search.space import SEARCHED, bounds, ratios_at, start_point
from rlrs.search.space_settings import read_space
from rlrs.search.store import TrialStore
from rlrs.settings import ConfigError, RetestConfig, SearchConfig, settings_from

log = logging.getLogger("rlrs.search")

NAME = "search"
"""Of the search in its database."""


class SearchError(ValueError):
    """A loss that cannot be taken, or an answer that is not there yet; one line."""


@dataclass(frozen=True)
class Suggestion:
    """Rates to train a run with.

    Args:
        number: of the trial, from 0.
        params: all parameters, by the names of `search.space`.
        loss: that it was told; of the best trial alone.
    """

    number: int
    params: Mapping[str, float]
    loss: float | None = None

    @property
    def lr(self) -> float:
        """Base peak rate."""
        return self.params["lr"]

    @property
    def final_fraction(self) -> float:
        """Base rate at the end over its peak."""
        return self.params.get("final_fraction", 1.0)

    @property
    def ratios(self) -> Ratios:
        """Relative rates by component, with the base rate and the final fraction as provenance."""
        base = {"lr": self.lr, "final_fraction": self.final_fraction}
        return Ratios(ratios_at(self.params), {"base": base, "search": {"trial": self.number, "score": self.loss}})


class Search:
    """A search over base rate, final fraction and all ratios, one trial after another or a batch at once.

    Everything is in a database: killed and started again, it goes on with the trials that have no loss. Ask and tell
    from one thread, which may have the runs trained by others.

    Args:
        components: `rlrs.partition(model)`, or names; those that a study searches get ratios.
        lr: base peak rate that it starts from.
        trials: that it may ask for; may grow when it is started again.
        store: the database: a file, made if missing, or a URL.
        final_fraction: where it starts; 1 if the schedule is constant, which is not searched.
        start: ratios that it starts from; all 1 if None.
        method: as `search.method` of a study.
        space: as `search.space` of a study.
        seed: of the method.

    Raises:
        ConfigError: settings that cannot be searched.
        StorageError: the database is another search's, damaged, or cannot be used.

    Examples:
        >>> import tempfile
        >>> store = f"{tempfile.mkdtemp()}/trials.db"
        >>> search = Search(["embedding"], lr=1e-3, trials=6, store=store, method="local", space={"embedding": "fixed"})
        >>> for trial in search:
        ...     search.tell(trial, loss=abs(math.log(trial.lr / 2e-3)))
        >>> search.best.lr
        0.0015
    """

    def __init__(
        self,
        components: Iterable[str],
        *,
        lr: float,
        trials: int = 36,
        store: str | Path,
        final_fraction: float = 0.1,
        start: Ratios | Mapping[str, Any] | None = None,
        method: str = "response-surface",
        space: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if method == "learned":
            raise ConfigError(
                "rlrs.Search: method='learned' trains runs of its own; in your loop, rlrs.discovery.LearnedLR learns "
                "in one run"
            )
        names = _names(components)
        ratios = start if isinstance(start, Ratios) else Ratios(start)
        retest = RetestConfig(points=0, seeds=0)
        settings = settings_from(
            SearchConfig, "rlrs.Search", method=method, trials=trials, lr=lr, seed=seed, retest=retest
        )
        ratios.check_used(names, "the model")
        first = start_point(settings.lr, final_fraction, ratios, [name for name in names if name in SEARCHED])
        defaults = {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95}
        self._space = read_space(dict(space or {}), first, names, defaults)
        self._method = make_method(self._space, settings, steps=1, window=1)
        self._limits = {"trials": settings.trials}
        if not isinstance(store, str | Path) or Path(store).is_dir():
            raise ConfigError(f"rlrs.Search: store should be a file or a database's URL, not {shown(str(store))}")
        url = isinstance(store, str) and "://" in store
        self._store = TrialStore(store if url else Path(store))
        identity = {
            "method": method,
            "seed": seed,
            "space": {
                name: {"start": value, "bounds": list(bounds(name))} for name, value in self._space.start().items()
            },
            "code": {"rlrs": rlrs.__version__},
        }
        self._store.open(NAME, identity)
        if self._store.missing(NAME):
            self._store.complete(NAME)
        if settings.trials < (there := len(self._trials())):
            raise ConfigError(
                f"rlrs.Search: trials={settings.trials} should be {there} or more: so many were asked for before"
            )

    def ask(self) -> list[Suggestion]:
        """All trials that wait for a loss and may be trained side by side; none when the search has ended."""
        while not (waiting := [trial for trial in self._trials() if trial.result is None]):
            if not self._plan():
                return []
        return [Suggestion(trial.number, trial.params) for trial in waiting]

    def __iter__(self) -> Iterator[Suggestion]:
        """Trials one after another.

        Raises:
            SearchError: the next trial is asked for before `tell` was called.
        """
        while batch := self.ask():
            for trial in batch:
                yield trial
                if self._trials()[trial.number].result is None:
                    raise SearchError(
                        f"trial {trial.number} has no loss: call search.tell(trial, loss=...) before the next one, or "
                        "take all that may be trained side by side from search.ask()"
                    )

    def tell(self, trial: Suggestion, *, loss: float) -> None:
        """The training loss that a trial ended with, nats per token; one that is no number counts as divergence.

        Raises:
            SearchError: the search has not asked for this trial, or has another loss of it; or the loss is no float.
        """
        if not isinstance(trial, Suggestion):
            raise SearchError(f"tell a trial that the search asked for, not {shown(trial)}")
        try:
            loss = float(loss)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise SearchError(
                f"the loss of trial {trial.number} should be one number, nan for a run that diverged, not {shown(loss)}"
            ) from None
        trials = self._trials()
        if not 0 <= trial.number < len(trials) or trials[trial.number].params != dict(trial.params):
            raise SearchError(f"trial {trial.number} is not one of this search")
        result = RunResult(
            status="finished" if math.isfinite(loss) else "diverged",
            steps=1,
            score=loss if math.isfinite(loss) else None,
            valid_loss=None,
            tokens=0,
            seconds=0.0,
            reason=None if math.isfinite(loss) else f"its loss was {loss:g}",
        )
        if (known := trials[trial.number].result) is not None:
            if known != result:
                told = known.score if known.score is not None else known.reason
                raise SearchError(f"trial {trial.number} has a loss already: {shown(told)}, and not {loss:g}")
            return
        self._store.begin(NAME, trials[trial.number])
        self._store.end(NAME, trials[trial.number], result)

    @property
    def best(self) -> Suggestion:
        """What the search ends with; before that, the best so far.

        Raises:
            SearchError: no trial has a loss that is a number.
        """
        history = self._history()
        if not any(trial.measured for trial in history):
            raise SearchError("no trial has ended with a loss that is a number")
        asked = self._method.ask(history)
        found = asked if isinstance(asked, SearchResult) else self._method.result(history, "so far")
        number = next((trial.number for trial in history if trial.params == found.best), 0)
        return Suggestion(number, found.best, found.score)

    def _trials(self) -> list[Trial]:
        return self._store.trials(NAME)

    def _history(self) -> History:
        """Trials of the batches that are whole; if none is, those that have ended."""
        trials = self._trials()
        waiting = [trial.batch for trial in trials if trial.result is None]
        whole = [trial for trial in trials if not waiting or trial.batch < min(waiting)]
        return whole or [trial for trial in trials if trial.result is not None]

    def _plan(self) -> bool:
        """Write the next batch; False when the search has ended."""
        asked = self._method.ask(self._trials())
        if isinstance(asked, SearchResult):
            self._store.keep_answer(NAME, self._limits, asked)
            if at := self._space.at_bounds(asked.best):
                log.warning("the search %s", bounds_note(at))
            return False
        self._store.add_batch(NAME, asked, [_id(proposal.params) for proposal in asked])
        return True


def _names(components: Iterable[str]) -> list[str]:
    """Names of components, where they are not a model or one name by mistake."""
    names = list(components) if isinstance(components, Iterable) and not isinstance(components, str) else []
    if not names or not all(isinstance(name, str) for name in names):
        given = type(components).__name__ if not isinstance(components, str | list | tuple) else shown(components)
        raise ConfigError(f"rlrs.Search: components should be rlrs.partition(model), or a list of names, not {given}")
    return names


def _id(params: Mapping[str, float]) -> str:
    return hashlib.sha256(json.dumps(dict(params), sort_keys=True).encode()).hexdigest()[:12]
