"""Runs trained side by side in processes of this machine, one thread each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlrs.data import TokenData
from rlrs.environment import cores
from rlrs.messages import plural
from rlrs.records import Pruning, RunResult
from rlrs.runs import AnyRun
from rlrs.search.engines.engine import WORKER_ENVIRONMENT, Clock, EngineError, Job, Patience
from rlrs.search.engines.ranks import Ranks
from rlrs.training import RunSpec

STARTS = 3
"""Workers that may die while they start, one after another, before the engine gives up. Chosen here, not studied."""


class Processes:
    """Worker processes, each with one run at a time; use as a context manager.

    Every worker has a pipe of its own, so that one that dies takes no other with it and shares no lock.

    Args:
        data_folder: what `rlrs.data.prepare` wrote; each worker maps it.
        processes: how many runs are trained side by side; as many as the cores have room for if None.
        time_limit: seconds that an attempt at a run may take, those in which everything is suspended not counted; None
            sets no limit.
        gpus: of a run: 1 gives every worker a GPU of its own, 0.5 puts two workers on each; 0 leaves all visible.
        ranks: processes that train one run together, each on a GPU of its own where the run has as many.
    """

    def __init__(
        self,
        data_folder: Path,
        processes: int | None = None,
        *,
        time_limit: float | None = None,
        gpus: float = 0,
        ranks: int = 1,
    ) -> None:
        self.slots = processes or max(1, cores() // ranks)
        self._ranks = ranks
        self.time_limit = time_limit
        self._devices = devices_by_slot(self.slots, gpus)
        self._context = multiprocessing.get_context("spawn")
        self._data_folder = data_folder
        self._workers: list[_Worker] = []
        self._queue: deque[Job] = deque()
        self._ended: deque[tuple[Hashable, RunResult]] = deque()
        self._clock, self._patience, self._starts, self._steps, self._inside = Clock(), Patience(), 0, 0, False

    def __enter__(self) -> Self:
        self._inside = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # Runs under way are ones that nobody will read: those with files resume from their checkpoints.
        for worker in self._workers:
            worker.kill()
        self._workers, self._inside = [], False

    @property
    def steps(self) -> int:
        """Training steps done so far, for progress; those of an attempt that was lost are taken back."""
        return self._steps + sum(worker.steps for worker in self._workers)

    @property
    def pending(self) -> int:
        """Runs that were submitted and not yet handed back."""
        return len(self._queue) + len(self._ended) + sum(worker.job is not None for worker in self._workers)

    def submit(
        self,
        key: Hashable,
        spec: AnyRun,
        folder: Path | None = None,
        *,
        validate: bool = True,
        prune: Pruning | None = None,
    ) -> None:
        """Train a run in a worker; see `Engine.submit`."""
        assert self._inside, "an engine is used inside its `with` block"
        self._queue.append(Job(key, spec, folder, validate, prune))
        self._hand_out()

    def next(
        self, tick: Callable[[int], None] | None = None, timeout: float | None = None
    ) -> tuple[Hashable, RunResult] | None:
        """Wait for any submitted run; see `Engine.next`."""
        assert self.pending, "nothing was submitted"
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ended:
            self._hand_out()
            self._listen(0.25 if until is None else max(0.0, min(0.25, until - time.monotonic())))
            self._end_late_ones()
            if tick:
                tick(self.steps)
            if until is not None and time.monotonic() >= until and not self._ended:
                return None
        self._hand_out()  # before the caller writes this one down
        return self._ended.popleft()

    def _hand_out(self) -> None:
        """Give queued runs to workers that are free, and start workers while there are more runs than those."""
        for worker in self._workers:
            if self._queue and worker.ready and worker.job is None:
                worker.start(self._queue.popleft(), self._clock.now())
        free = sum(worker.job is None for worker in self._workers)
        while free < len(self._queue) and len(self._workers) < self.slots:
            taken = {worker.slot for worker in self._workers}
            slot = next(slot for slot in range(self.slots) if slot not in taken)
            self._workers.append(_Worker(self._context, slot, self._devices[slot], self._data_folder, self._ranks))
            free += 1

    def _listen(self, timeout: float) -> None:
        for pipe in connection.wait([worker.pipe for worker in self._workers], timeout):
            worker = next(worker for worker in self._workers if worker.pipe is pipe)
            try:
                kind, what = worker.pipe.recv()
            except (EOFError, OSError, pickle.UnpicklingError):
                self._lost(worker, worker.death())
                continue
            if kind == "ready":
                worker.ready, self._starts = True, 0
            elif kind == "steps":
                worker.steps = what
            elif kind == "result":
                self._end(worker, what)
            elif isinstance(what, (MemoryError, RuntimeError)) and worker.job is not None:
                self._lost(worker, str(what).strip().partition("\n")[0] or "out of memory")
            else:
                raise what

    def _end(self, worker: _Worker, result: RunResult) -> None:
        assert worker.job is not None
        self._steps += result.steps
        self._patience.saw(result)
        self._ended.append((worker.job.key, result))
        worker.job, worker.steps = None, 0

    def _end_late_ones(self) -> None:
        now = self._clock.now()
        for worker in list(self._workers):
            late = self.time_limit is not None and worker.job and now - worker.began > self.time_limit
            # A result that came in time is taken, even if this process was too busy to look.
            if late and not worker.pipe.poll():
                self._lost(worker, f"it took more than the time limit of {self.time_limit:g} s")

    def _lost(self, worker: _Worker, reason: str) -> None:
        """Replace a worker, and try its run again or give it up."""
        self._workers.remove(worker)
        worker.kill()
        job = worker.job
        if job is None:
            self._starts += not worker.ready
            if self._starts >= STARTS:
                raise EngineError(f"workers do not start: {self._starts} one after another, the last: {reason}")
        elif (again := job.after(reason)) is not None:
            self._queue.appendleft(again)
        else:
            result = job.given_up(reason, worker.steps, self._clock.now() - worker.began)
            self._patience.saw(result)
            self._ended.append((job.key, result))


class _Worker:
    """A worker process as its driver sees it."""

    def __init__(self, context: Any, slot: int, device: str | None, data_folder: Path, ranks: int) -> None:
        self.slot, self.ready, self.steps = slot, False, 0
        self.job: Job | None = None
        self.began = 0.0
        self.pipe, theirs = context.Pipe()
        environment = {key: value for key, value in WORKER_ENVIRONMENT.items() if key not in os.environ}
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        self.process = context.Process(target=_serve, args=(theirs, data_folder, ranks), daemon=True)
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)  # a spawned process takes the environment of this moment
        try:
            self.process.start()
        finally:
            for key, value in before.items():
                os.environ.pop(key) if value is None else os.environ.update({key: value})
        theirs.close()  # or its end would not be seen here

    def start(self, job: Job, now: float) -> None:
        self.job, self.began = job, now
        with contextlib.suppress(OSError):  # it died while idle: its pipe ends, and the job is taken up again
            self.pipe.send((job.spec, job.folder, job.validate, job.prune))

    def death(self) -> str:
        """How the process ended, in words."""
        self.process.join(5)
        code = self.process.exitcode
        if code == -signal.SIGKILL:
            return "its worker was killed (out of memory?)"
        if code is not None and code < 0:
            return f"its worker crashed ({signal.Signals(-code).name})"
        return f"its worker ended with code {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def devices_by_slot(slots: int, gpus: float) -> list[str | None]:
    """For each worker the GPUs that it sees, as CUDA_VISIBLE_DEVICES has them; None for all.

    Raises:
        EngineError: this machine has fewer GPUs than the workers need.
    """
    if not gpus:
        return [None] * slots
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = visible.split(",") if visible else [str(k) for k in range(torch.cuda.device_count())]
    each = max(1, round(gpus))  # a fraction is a share of one
    sharing = max(1, int(1 / gpus)) if gpus < 1 else 1
    if slots * each > len(known) * sharing:
        raise EngineError(
            f"this machine has {plural(len(known), 'GPU')}, too few for {plural(slots, 'worker')} with "
            f"engine.gpus={gpus:g}; set fewer processes, or engine.gpus: 0 to train on CPUs"
        )
    groups = [",".join(known[first : first + each]) for first in range(0, len(known) - each + 1, each)]
    return [groups[slot // sharing] for slot in range(slots)]


def _serve(pipe: Connection, data_folder: Path, ranks: int) -> None:
    """A worker's life: load the data once, then train what comes."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's: it ends its workers
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        data = TokenData.load(data_folder)
        with Ranks(ranks, data_folder) as team:
            pipe.send(("ready", None))
            while True:
                pipe.send(_work(team, data, pipe, *pipe.recv()))
    except EOFError:  # the driver is gone, or has no more runs
        return
    except Exception as error:
        pipe.send(("error", _sendable(error)))


def _work(
    team: Ranks,
    data: TokenData,
    pipe: Connection,
    spec: RunSpec,
    folder: Path | None,
    validate: bool,
    prune: Pruning | None,
) -> tuple[str, Any]:
    def progress(step: int, loss: float) -> None:
        pipe.send(("steps", step))

    try:
        result = team.train(spec, data, folder, progress=progress, validate=validate, keep_weights=False, prune=prune)
    except Exception as error:
        return "error", _sendable(error)
    return "result", result


def _sendable(error: Exception) -> Exception:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # some exceptions cannot be made again from their arguments
        return RuntimeError(f"{type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """Without this a worker whose parent was killed would train on, beside the study that was started again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
