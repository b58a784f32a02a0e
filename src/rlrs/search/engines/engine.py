"""What every engine does: trains runs side by side, tries a lost one again, and gives up on one that is lost twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rlrs.records import Pruning, RunResult
from rlrs.runs import AnyRun

ATTEMPTS = 2
"""Times that a run is tried whose worker crashes or hangs. Chosen here, not studied."""

LOSSES = 5
"""Times that a run may lose its machine before it is given up: that is not its own fault. Chosen here, not studied."""

HOPELESS = 3
"""Runs given up, with none that ended, after which the engine itself is taken to be broken. Chosen here."""

# One thread a run: OpenMP barriers cost more than they give at these sizes, and the numbers of a run then do not
# depend on how many cores there are. Large thresholds keep glibc from handing pages back between steps.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "TOKENIZERS_PARALLELISM": "false",
}


MOST_BETWEEN_LOOKS = 2.0
"""Seconds that may pass between two looks of a driver at its runs: more than that, and it was suspended itself."""


class Clock:
    """Seconds in which this process could run, and its workers with it.

    While the whole tree of processes is suspended (Ctrl-Z, a scheduler that preempts), time passes and nothing is
    trained: of a long gap between two looks only `MOST_BETWEEN_LOOKS` counts.
    """

    def __init__(self) -> None:
        self._last, self._counted = time.monotonic(), 0.0

    def now(self) -> float:
        """Seconds counted so far; to be asked several times a second."""
        at = time.monotonic()
        self._counted += min(at - self._last, MOST_BETWEEN_LOOKS)
        self._last = at
        return self._counted


class EngineError(RuntimeError):
    """An engine that cannot train: workers that do not start, a cluster that is not there, run after run lost."""


class Engine(Protocol):
    """Where runs are trained; used as a context manager, inside whose block runs are submitted."""

    @property
    def slots(self) -> int:
        """Runs that are trained side by side."""
        ...

    @property
    def steps(self) -> int:
        """Training steps done so far, for progress; those of an attempt that was lost are taken back."""
        ...

    @property
    def pending(self) -> int:
        """Runs that were submitted and not yet handed back."""
        ...

    def submit(
        self,
        key: Hashable,
        spec: AnyRun,
        folder: Path | None = None,
        *,
        validate: bool = True,
        prune: Pruning | None = None,
    ) -> None:
        """Train a run; with a folder it keeps its files there and resumes from them.

        Args:
            key: comes back with the result.
            spec: the run.
            folder: the run's own; None for a run that keeps no files.
            validate: evaluate on the validation sample; a trial whose score is its training loss needs none.
            prune: when to end the run early; without a folder.
        """

    def next(
        self, tick: Callable[[int], None] | None = None, timeout: float | None = None
    ) -> tuple[Hashable, RunResult] | None:
        """Wait for any submitted run; hand back its key and its result, or None when `timeout` seconds have passed.

        A run whose worker crashes (the kernel's out-of-memory killer, say), hangs past the time limit or loses its
        machine is tried again, and handed back with the status "failed" and the reason when it is given up.

        Args:
            tick: called a few times a second with `steps`, for progress.
            timeout: seconds; None waits as long as it takes.

        Raises:
            EngineError: workers do not start, or one run after another fails and none ends.
            ValueError, OSError: what training raised for reasons that another attempt does not change.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None: ...


@dataclass(frozen=True)
class Job:
    """A run with what was asked of it, and how its attempts so far were lost."""

    key: Hashable
    spec: AnyRun
    folder: Path | None
    validate: bool
    prune: Pruning | None
    crashes: tuple[str, ...] = ()
    losses: int = 0

    def after(self, reason: str, *, lost_machine: bool = False) -> Job | None:
        """The job to try again after an attempt was lost; None when the run is to be given up."""
        job = replace(self, losses=self.losses + 1) if lost_machine else replace(self, crashes=(*self.crashes, reason))
        return job if job.losses < LOSSES and len(job.crashes) < ATTEMPTS else None

    def given_up(self, reason: str, steps: int, seconds: float) -> RunResult:
        """The result of a run that is given up; steps and seconds are those of its last attempt."""
        reasons = dict.fromkeys([*self.crashes, reason])
        attempts = len(self.crashes) + self.losses + 1
        return RunResult(
            status="failed",
            steps=steps,
            score=None,
            valid_loss=None,
            tokens=0,
            seconds=seconds,
            reason=f"given up after {attempts} attempts: {'; '.join(reasons)}",
        )


class Patience:
    """Tells runs that cannot be trained from an engine that cannot train."""

    def __init__(self) -> None:
        self._failed, self._ended = 0, False

    def saw(self, result: RunResult) -> None:
        """Note a result.

        Raises:
            EngineError: several runs were given up and none has ended.
        """
        if result.status != "failed":
            self._ended = True
            return
        self._failed += 1
        if not self._ended and self._failed >= HOPELESS:
            raise EngineError(
                f"{self._failed} runs were given up and none has ended, so something is wrong with where they are "
                f"trained; the last was {result.reason}"
            )
