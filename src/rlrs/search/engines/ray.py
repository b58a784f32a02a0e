"""Runs trained on a Ray cluster: the driver asks and tells, every run is one Ray task.

A worker needs this package and, by path, the data; where it is not there, its files come by Ray's object store. Runs of
the user's own trainer are processes that the workers start, in folders that all nodes share.
"""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlrs.data import TokenData
from rlrs.environment import cores
from rlrs.extras import install
from rlrs.files import write_atomic
from rlrs.records import Pruning, RunResult
from rlrs.runs import AnyRun
from rlrs.search.engines.commands import own_folder
from rlrs.search.engines.engine import WORKER_ENVIRONMENT, Clock, EngineError, Job, Patience
from rlrs.search.engines.node_data import MARK, Source, open_data, pack, run_folder
from rlrs.search.engines.own_task import Workplace, train_own
from rlrs.search.engines.ranks import Ranks
from rlrs.training import RunSpec

LOOK_EVERY = 0.5
"""Seconds between looks at the workers' progress. Chosen here, not studied."""


class Ray:
    """A Ray cluster; use as a context manager.

    Token authentication stays as Ray has it, which is on: nodes of a cluster share the token of its head.

    Args:
        data_folder: what `rlrs.data.prepare` wrote; None for runs of the user's own trainer.
        address: of the cluster, as `ray.init` takes it (`auto`, `HOST:6379`, `ray://HOST:10001`); None starts Ray on
            this machine and ends it with the block. A program that is connected already stays so.
        processes: with `address` None, runs side by side; the number of cores if None.
        time_limit: seconds that an attempt at a run may take, from its start on a node; None sets no limit.
        cpus: of a run.
        gpus: of a run; a fraction lets several share a GPU. Ray sets CUDA_VISIBLE_DEVICES.
        resources: of a run, by the names that the nodes were started with.
        runs_folder: for runs of the user's own trainer: where each has a folder, on a file system that all nodes share.
        ranks: processes of one node that train one run together, each on a GPU of its own where the run has as many.

    Raises:
        EngineError: no cluster at that address, or none of its nodes has what a run asks for.
        ImportError: the extra `ray` is not installed.
    """

    def __init__(
        self,
        data_folder: Path | None,
        address: str | None = None,
        *,
        processes: int | None = None,
        time_limit: float | None = None,
        cpus: float = 1,
        gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        runs_folder: Path | None = None,
        ranks: int = 1,
    ) -> None:
        if find_spec("ray") is None:
            raise ImportError(f"the engine ray needs the library ray: {install('ray')}")
        self.address, self.time_limit = address, time_limit
        self._processes, self._ranks = processes or cores(), ranks
        self._asked = {"CPU": cpus, "GPU": gpus, **(resources or {})}
        self._source: Source | None = None
        if data_folder is not None:
            self._source = Source(str(data_folder.resolve()), TokenData.load(data_folder).summary, uuid.uuid4().hex)
        self._runs, self._workplace = runs_folder, Workplace.here(time_limit)
        self._jobs: dict[Any, tuple[Job, str]] = {}  # by Ray's reference: the job, and the name of this attempt
        self._seen: dict[str, tuple[int, float]] = {}  # by attempt: steps, and when it was first seen to have begun
        self._clock = Clock()
        self._ended: deque[tuple[Hashable, RunResult]] = deque()
        self._patience, self._steps, self._looked, self._ours, self.slots = Patience(), 0, 0.0, False, 0

    def __enter__(self) -> Self:
        import ray

        if not ray.is_initialized():
            self._connect()
            self._ours = True
        try:
            self.slots = self._count_slots()
            environment = {key: value for key, value in WORKER_ENVIRONMENT.items() if key != "OMP_NUM_THREADS"}
            self._task: Any = ray.remote(_work if self._source is not None else train_own).options(
                max_retries=0,  # attempts are counted here, so that none is made behind the search's back
                num_cpus=self._asked["CPU"],
                num_gpus=self._asked["GPU"],
                resources={name: n for name, n in self._asked.items() if name not in ("CPU", "GPU")},
                runtime_env={"env_vars": environment},
            )
            self._board = self._new_board()
            ray.get(self._board.look.remote([]))  # it is there before the first run begins
            if self._source is not None:
                write_atomic(Path(self._source.folder) / MARK, self._source.mark)
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        import ray
        from ray import exceptions as lost

        if self._source is not None:
            (Path(self._source.folder) / MARK).unlink(missing_ok=True)
        try:
            for ref in self._jobs:
                ray.cancel(ref, force=True)
            if hasattr(self, "_board"):
                ray.kill(self._board)
        except (lost.RayError, ConnectionError, ValueError):
            pass  # it is going away as it is
        self._jobs = {}
        if self._ours:
            ray.shutdown()

    def _connect(self) -> None:
        import ray
        from ray import exceptions as lost

        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self.address is None:
                ray.init("local", num_cpus=self._processes, include_dashboard=False, **quiet)
            else:
                ray.init(self.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, lost.RayError) as error:
            first = str(error).strip().partition("\n")[0]
            raise EngineError(f"no Ray cluster at {self.address or 'this machine'}: {first}") from None

    def _count_slots(self) -> int:
        """Runs that fit on the nodes that are there, side by side."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        asked = {name: amount for name, amount in self._asked.items() if amount}
        slots = sum(int(min(node.get(name, 0) / amount for name, amount in asked.items())) for node in nodes)
        if not slots:
            wanted = ", ".join(f"{name} {amount:g}" for name, amount in asked.items())
            raise EngineError(f"none of the {len(nodes)} nodes of the Ray cluster has what a run asks for: {wanted}")
        return slots

    def _new_board(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On the driver's node, so that it is not lost with a worker's.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()

    @property
    def steps(self) -> int:
        """Training steps done so far, for progress; those of an attempt that was lost are taken back."""
        return self._steps + sum(self._seen.get(attempt, (0, 0.0))[0] for _, attempt in self._jobs.values())

    @property
    def pending(self) -> int:
        """Runs that were submitted and not yet handed back."""
        return len(self._jobs) + len(self._ended)

    def submit(
        self,
        key: Hashable,
        spec: AnyRun,
        folder: Path | None = None,
        *,
        validate: bool = True,
        prune: Pruning | None = None,
    ) -> None:
        """Train a run on some node; see `Engine.submit`. Files of a run that a node wrote elsewhere come with it."""
        if folder is None and self._runs is not None:
            folder = own_folder(self._runs, spec, prune)
        if folder is not None:
            folder.resolve().parent.mkdir(parents=True, exist_ok=True)
        self._start(Job(key, spec, folder, validate, prune))

    def _start(self, job: Job) -> None:
        attempt = uuid.uuid4().hex
        folder = None if job.folder is None else str(job.folder.resolve())
        asked = (self._board, attempt, job.spec, folder, job.validate, job.prune)
        arguments = (self._workplace, *asked) if self._source is None else (self._source, *asked, self._ranks)
        self._jobs[self._task.remote(*arguments)] = job, attempt

    def next(
        self, tick: Callable[[int], None] | None = None, timeout: float | None = None
    ) -> tuple[Hashable, RunResult] | None:
        """Wait for any submitted run; see `Engine.next`."""
        import ray

        assert self.pending, "nothing was submitted"
        until = None if timeout is None else time.monotonic() + timeout
        while not self._ended:
            wait = 0.25 if until is None else max(0.0, min(0.25, until - time.monotonic()))
            done, _ = ray.wait(list(self._jobs), num_returns=1, timeout=wait)
            for ref in done:
                self._take(ref)
            if time.monotonic() - self._looked > LOOK_EVERY and not self._ended:
                self._look()
            if tick:
                tick(self.steps)
            if until is not None and time.monotonic() >= until and not self._ended:
                return None
        return self._ended.popleft()

    def _take(self, ref: Any) -> None:
        """Take what a task left: a result, an error, or nothing because it was lost."""
        import ray
        from ray import exceptions as lost

        job, attempt = self._jobs.pop(ref)
        try:
            kind, what, files = ray.get(ref)
        except (lost.LocalRayletDiedError, lost.RaySystemError) as error:
            raise EngineError(f"the Ray cluster is gone: {str(error).partition(chr(10))[0]}") from None
        except (lost.NodeDiedError, lost.ObjectLostError):
            self._again(job, attempt, "its node was lost", lost_machine=True)
        except lost.OutOfMemoryError:
            self._again(job, attempt, "its node was out of memory")
        except lost.WorkerCrashedError:
            self._again(job, attempt, "its worker was killed or crashed")
        else:
            if kind == "result":
                self._keep_files(job, files)
                self._end(job, what)
            elif kind == "no data":
                self._ship_data()
                self._start(job)
            elif kind == "error" and isinstance(what, (MemoryError, RuntimeError)):
                self._again(job, attempt, str(what).strip().partition("\n")[0] or "out of memory")
            else:
                raise what

    def _end(self, job: Job, result: RunResult) -> None:
        self._steps += result.steps if result.status != "failed" else 0
        self._patience.saw(result)
        self._ended.append((job.key, result))

    def _again(self, job: Job, attempt: str, reason: str, *, lost_machine: bool = False) -> None:
        again = job.after(reason, lost_machine=lost_machine)
        if again is not None:
            self._start(again)
        else:
            self._end(job, job.given_up(reason, *self._spent(attempt)))

    def _look(self) -> None:
        """Read the workers' progress, and end what takes too long."""
        import ray
        from ray import exceptions as lost

        self._looked = time.monotonic()
        attempts = [attempt for _, attempt in self._jobs.values()]
        try:
            steps: Any = ray.get(self._board.look.remote(attempts), timeout=10)
        except lost.GetTimeoutError:  # it is slow to answer: progress is for another time
            return
        except lost.RayActorError:
            self._board = self._new_board()  # progress starts at nothing; runs under way tell the old one in vain
            return
        now = self._clock.now()
        self._seen = {name: (done, self._seen.get(name, (0, now))[1]) for name, done in steps.items()}
        for ref, (job, attempt) in list(self._jobs.items()):
            limit = self.time_limit if self._source is not None else None  # else the worker's own engine looks at it
            late = limit is not None and self._spent(attempt)[1] > limit
            if late and not ray.wait([ref], timeout=0)[0]:
                del self._jobs[ref]
                ray.cancel(ref, force=True)
                self._again(job, attempt, f"it took more than the time limit of {limit:g} s")

    def _spent(self, attempt: str) -> tuple[int, float]:
        """Steps and seconds of an attempt, none if it was not seen to have begun."""
        steps, began = self._seen.get(attempt, (0, self._clock.now()))
        return steps, self._clock.now() - began

    def _ship_data(self) -> None:
        """Put the data's files into the object store, for nodes that do not have its path."""
        import ray

        assert self._source is not None
        if self._source.files is None:
            files = {name: ray.put(content) for name, content in pack(Path(self._source.folder)).items()}
            self._source = replace(self._source, files=files)

    @staticmethod
    def _keep_files(job: Job, files: Mapping[str, bytes]) -> None:
        if job.folder is None or (job.folder / "result.json").exists():
            return
        # The result last: with it the run counts as finished.
        for name in sorted(files, key=lambda name: (name == "result.json", name)):
            path = job.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, files[name])


class _Board:
    """An actor that workers write their steps on."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}

    def write(self, attempt: str, steps: int) -> None:
        """Note the steps that an attempt has done; the first note, at 0 steps, says that it has begun."""
        self._steps[attempt] = steps

    def look(self, attempts: list[str]) -> dict[str, int]:
        """Steps of these attempts, those that have begun; others are forgotten."""
        self._steps = {attempt: self._steps[attempt] for attempt in attempts if attempt in self._steps}
        return self._steps


def _work(
    source: Source,
    board: Any,
    attempt: str,
    spec: RunSpec,
    folder: str | None,
    validate: bool,
    prune: Pruning | None,
    ranks: int,
) -> tuple[str, Any, dict[str, bytes]]:
    """One run, in a worker; Ray's own errors are kept for lost workers."""
    import torch

    board.write.remote(attempt, 0)
    torch.set_num_threads(1)
    try:
        if (found := open_data(source)) is None:
            return "no data", None, {}
        place, data = found
        where = run_folder(source, folder)
        with Ranks(ranks, place) as team:
            result = team.train(
                *(spec, data, where),
                progress=lambda step, loss: board.write.remote(attempt, step) and None,
                validate=validate,
                keep_weights=False,
                prune=prune,
            )
    except Exception as error:
        return "error", error, {}
    files = {} if where is None else {path.name: path.read_bytes() for path in where.iterdir() if path.is_file()}
    return "result", result, files
