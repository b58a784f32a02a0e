"""Runs trained side by side in processes of this machine, one thread each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlrs.data import TokenData
from rlrs.environment import cores
from rlrs.training import Pruning, RunResult, RunSpec, train

# One thread a process: OpenMP barriers cost more than they give at these sizes, and the numbers of a run then do
# not depend on how many cores there are. Large thresholds keep glibc from handing pages back between steps.
_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": "1073741824",
    "TOKENIZERS_PARALLELISM": "false",
}


class EngineError(RuntimeError):
    """Worker processes that die again and again."""


@dataclass(frozen=True)
class _Job:
    key: Hashable
    spec: RunSpec
    folder: Path | None
    validate: bool
    prune: Pruning | None
    deaths: int = 0


class Processes:
    """A pool of worker processes; use as a context manager.

    Args:
        data_folder: what `rlrs.data.prepare` wrote; each worker maps it.
        processes: how many runs are trained side by side; the number of cores if None.
    """

    def __init__(self, data_folder: Path, processes: int | None = None) -> None:
        self.processes = processes or cores()
        self._context = multiprocessing.get_context("spawn")
        self._steps = self._context.Value("q", 0)
        self._data_folder = data_folder
        self._pool: ProcessPoolExecutor | None = None
        self._jobs: dict[Future[RunResult], _Job] = {}

    def __enter__(self) -> Self:
        self._pool = self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is None:
            return
        if kind is not None:  # do not wait for runs that nobody will read: they resume from their checkpoints
            _kill(self._pool)
        self._pool.shutdown(cancel_futures=True)
        self._pool = None

    def _start(self) -> ProcessPoolExecutor:
        os.environ.update({key: value for key, value in _WORKER_ENVIRONMENT.items() if key not in os.environ})
        return ProcessPoolExecutor(
            self.processes, self._context, initializer=_start_worker, initargs=(self._data_folder, self._steps)
        )

    @property
    def steps(self) -> int:
        """Training steps that all workers have done so far, for progress."""
        return self._steps.value

    @property
    def pending(self) -> int:
        """Runs that were submitted and not yet handed back."""
        return len(self._jobs)

    def submit(
        self,
        key: Hashable,
        spec: RunSpec,
        folder: Path | None = None,
        *,
        validate: bool = True,
        prune: Pruning | None = None,
    ) -> None:
        """Train a run in a worker; with a folder it writes checkpoints there and resumes from them.

        Args:
            key: comes back with the result.
            spec: the run.
            folder: the run's own; None for a run that keeps no files.
            validate: evaluate on the validation sample; a trial whose score is its training loss needs none.
            prune: when to end the run early; without a folder.
        """
        self._submit(_Job(key, spec, folder, validate, prune))

    def _submit(self, job: _Job) -> None:
        assert self._pool is not None, "an engine is used inside its `with` block"
        self._jobs[self._pool.submit(_work, job.spec, job.folder, job.validate, job.prune)] = job

    def next(self, tick: Callable[[int], None] | None = None) -> tuple[Hashable, RunResult]:
        """Wait for any submitted run; hand back its key and its result.

        A worker that dies (the kernel's out-of-memory killer, say) takes the pool with it: the pool is started
        again and what was under way is tried a second time.

        Args:
            tick: called a few times a second with `steps`, for progress.

        Raises:
            EngineError: a run's worker died twice.
        """
        assert self._jobs, "nothing was submitted"
        while True:
            done, _ = wait(self._jobs, timeout=0.25, return_when=FIRST_COMPLETED)
            if tick:
                tick(self.steps)
            if not done:
                continue
            future = next(iter(done))
            try:
                result = future.result()
            except BrokenProcessPool:
                self._restart()
                continue
            return self._jobs.pop(future).key, result

    def _restart(self) -> None:
        assert self._pool is not None
        _kill(self._pool)
        self._pool.shutdown(cancel_futures=True)
        jobs, self._jobs = list(self._jobs.items()), {}
        self._pool = self._start()
        for future, job in jobs:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._jobs[future] = job
            elif job.deaths:
                raise EngineError(
                    f"the worker of run {job.spec.id} was killed twice (out of memory?); finished runs are kept, "
                    "and the same command goes on from them"
                )
            else:
                self._submit(replace(job, deaths=job.deaths + 1))


_data: TokenData
_counter: Any


def _start_worker(data_folder: Path, counter: Any) -> None:
    import torch

    global _data, _counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it ends its workers
    torch.set_num_threads(1)
    _data, _counter = TokenData.load(data_folder), counter
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Without this a worker whose parent was killed would train on, beside the study that was started again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _work(spec: RunSpec, folder: Path | None, validate: bool, prune: Pruning | None) -> RunResult:
    done = 0

    def progress(step: int, loss: float) -> None:
        nonlocal done
        with _counter.get_lock():
            _counter.value += step - done
        done = step

    return train(spec, _data, folder, progress=progress, validate=validate, keep_weights=False, prune=prune)


def _kill(pool: ProcessPoolExecutor) -> None:
    for process in list((pool._processes or {}).values()):
        process.kill()
