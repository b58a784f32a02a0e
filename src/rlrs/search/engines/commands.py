"""Runs of the user's own trainer, side by side on this machine: one process each, in a folder of its own.

A run learns what it is to be from `run.json` and answers with `metrics.jsonl` and `result.json` (`rlrs.runs`): by
itself or, where only its output says how it went, by way of this engine. One that is lost is started again in its
folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from rlrs.environment import cores
from rlrs.messages import printable, shortened
from rlrs.records import Pruning, RecordError, RunResult, write_record
from rlrs.records.checked import read_checked
from rlrs.runs import RUN_FILE, RUN_VARIABLE, AnyRun, OwnRun, ReportedResult, Run, RunError
from rlrs.runs.asked import METRICS_FILE, RESULT_FILE
from rlrs.search.engines.engine import WORKER_ENVIRONMENT, EngineError, Job, Patience
from rlrs.search.engines.output import Output
from rlrs.search.engines.processes import devices_by_slot

_LIBC = ctypes.CDLL(None)  # loaded before any process is forked
LOOK_EVERY = 0.05
"""Seconds between looks at the processes. Chosen here, not studied."""
GRACE = 30.0
"""Seconds that a process may take to end after its run has a result. Chosen here, not studied."""
HUB_TRAINER = "rlrs.training.hub_trainer:train"
"""What trains a run of `trainer: {transformers: ...}`."""
LOG_FILE = "log.txt"
"""What a run's process writes to its standard output and error."""


class Commands:
    """Processes of the user's own trainer; use as a context manager.

    Args:
        folder: in which every run has a folder of its own.
        processes: how many runs are trained side by side; as many as there are cores if None.
        time_limit: seconds that an attempt at a run may take; None sets no limit.
        gpus: of a run; see `Processes`.
    """

    def __init__(
        self, folder: Path, processes: int | None = None, *, time_limit: float | None = None, gpus: float = 0
    ) -> None:
        self.slots = processes or cores()
        self.time_limit = time_limit
        self._folder = folder.resolve()
        self._devices = devices_by_slot(self.slots, gpus)
        self._attempts: list[Attempt] = []
        self._queue: deque[Job] = deque()
        self._ended: deque[tuple[Hashable, RunResult]] = deque()
        self._patience, self._steps, self._inside = Patience(), 0, False

    def __enter__(self) -> Self:
        end_left_overs(self._folder)
        self._inside = True
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for attempt in self._attempts:
            attempt.kill()
        self._attempts, self._inside = [], False

    @property
    def steps(self) -> int:
        """Training steps done so far, for progress; those of an attempt that was lost are taken back."""
        return self._steps + sum(attempt.steps for attempt in self._attempts)

    @property
    def pending(self) -> int:
        """Runs that were submitted and not yet handed back."""
        return len(self._queue) + len(self._ended) + len(self._attempts)

    def submit(
        self,
        key: Hashable,
        spec: AnyRun,
        folder: Path | None = None,
        *,
        validate: bool = True,
        prune: Pruning | None = None,
    ) -> None:
        """Train a run in a process; see `Engine.submit`. One without a folder has one in the engine's."""
        assert self._inside, "an engine is used inside its `with` block"
        if folder is None:
            folder = own_folder(self._folder, spec, prune)
        self._queue.append(Job(key, spec, folder.resolve(), validate, prune))

    def next(
        self, tick: Callable[[int], None] | None = None, timeout: float | None = None
    ) -> tuple[Hashable, RunResult] | None:
        """Wait for any submitted run; see `Engine.next`."""
        assert self.pending, "nothing was submitted"
        until = None if timeout is None else time.monotonic() + timeout
        told = 0.0
        while not self._ended:
            self._hand_out()
            for attempt in list(self._attempts):
                self._look_at(attempt)
            if tick and time.monotonic() - told > 0.25:
                tick(self.steps)
                told = time.monotonic()
            if self._ended:
                break
            if until is not None and time.monotonic() >= until:
                return None
            time.sleep(LOOK_EVERY)
        self._hand_out()  # before the caller writes this one down
        return self._ended.popleft()

    def _hand_out(self) -> None:
        waiting, self._queue = self._queue, deque()
        for job in waiting:
            assert job.folder is not None
            # The same run of another arm: its result is this one's too.
            busy = any(attempt.job.folder == job.folder for attempt in self._attempts)
            if busy or len(self._attempts) >= self.slots:
                self._queue.append(job)
            elif (found := _finished(job)) is not None:
                self._steps += found.steps
                self._end(job, found)
            else:
                slot = min(set(range(self.slots)) - {attempt.slot for attempt in self._attempts})
                self._attempts.append(Attempt(job, slot, self._devices[slot]))

    def _look_at(self, attempt: Attempt) -> None:
        code = attempt.process.poll()
        try:
            attempt.listen(ended=code is not None)
        except RunError as error:
            self._drop(attempt)
            self._give_up(attempt, str(error))
            return
        late = self.time_limit is not None and attempt.seconds > self.time_limit
        has_result = (attempt.folder / RESULT_FILE).exists()
        if has_result and attempt.result_since is None:
            attempt.result_since = time.monotonic()
        since = attempt.result_since
        lingers = since is not None and (attempt.ends_by_us or time.monotonic() - since > GRACE)
        if code is None and not late and not lingers:
            return
        self._drop(attempt)
        if has_result:
            self._take(attempt)
        elif late:
            self._again(attempt, f"it took more than the time limit of {self.time_limit:g} s")
        elif code:
            self._again(attempt, death(code or 0))
        else:
            self._give_up(
                attempt, "it ended without a result: run.finish(valid_loss=...) was not called", last_lines=True
            )

    def _take(self, attempt: Attempt) -> None:
        result = read_result(attempt.folder)
        if result.status == "failed":
            self._give_up(attempt, str(result.reason))
            return
        self._steps += result.steps
        self._end(attempt.job, result.plain_result())

    def _end(self, job: Job, result: RunResult) -> None:
        self._patience.saw(result)
        self._ended.append((job.key, result))

    def _drop(self, attempt: Attempt) -> None:
        self._attempts.remove(attempt)
        attempt.kill()

    def _again(self, attempt: Attempt, reason: str) -> None:
        reason = f"{reason}{attempt.last_lines()}"
        if (again := attempt.job.after(reason)) is not None:
            self._queue.appendleft(again)
        else:
            self._end(attempt.job, attempt.job.given_up(reason, attempt.steps, attempt.seconds))

    def _give_up(self, attempt: Attempt, reason: str, *, last_lines: bool = False) -> None:
        """End a run that another attempt would not change."""
        where = attempt.last_lines() if last_lines else f" ({printable(str(attempt.folder))})"
        result = RunResult(
            status="failed",
            steps=attempt.steps,
            score=None,
            valid_loss=None,
            tokens=0,
            seconds=attempt.seconds,
            reason=f"{reason}{where}",
        )
        self._end(attempt.job, result)


class Attempt:
    """A process that trains a run.

    Args:
        job: the run, and what was asked of it.
        slot: of the engine.
        device: that the process may see; None for all.
        verify: steps that the run is to verify, in the place of training; see `AskedRun`.
    """

    def __init__(self, job: Job, slot: int, device: str | None, verify: int = 0) -> None:
        spec = job.spec
        assert isinstance(spec, OwnRun), "this engine trains runs of the user's own trainer"
        assert job.folder is not None
        self.job, self.slot, self.folder = job, slot, job.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RESULT_FILE).unlink(missing_ok=True)
        write_record(self.folder / RUN_FILE, spec.asked(validate=job.validate, prune=job.prune, verify=verify))
        trainer = spec.trainer
        called = trainer.call if trainer.transformers is None else HUB_TRAINER
        if called is not None:
            command = [sys.executable, "-m", "rlrs.runs.calling", called]
        else:
            if "ratios" in trainer.placeholders():
                spec.asked().relative_rates().save(self.folder / "ratios.yaml")
            command = spec.command(str(self.folder))
        environment = {**WORKER_ENVIRONMENT, "PYTHONUNBUFFERED": "1", **os.environ}
        if called is not None:  # what this process imports, that one does
            environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        environment[RUN_VARIABLE] = str(self.folder / RUN_FILE)
        if device is not None:
            environment["CUDA_VISIBLE_DEVICES"] = device
        self.log = self.folder / LOG_FILE
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._output = Output(trainer, spec.args, self.folder, self.log) if trainer.loss is not None else None
        self._run = Run.read(self.folder / RUN_FILE) if self._output is not None else None
        self._began = time.monotonic()
        self.result_since: float | None = None
        self.ends_by_us = False
        """Whether its run has ended, which the process does not know."""
        with self.log.open("ab") as log, warnings.catch_warnings():
            # A library with threads (JAX) warns of every fork; between it and exec, one system call is made.
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                    preexec_fn=_end_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise EngineError(
                    f"trainer.command: {printable(command[0], 200)} cannot be started: {error.strerror or error}"
                ) from None

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._began

    @property
    def steps(self) -> int:
        """That it has reported."""
        try:
            with (self.folder / METRICS_FILE).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                last = file.read().rpartition(b"\n")[0].rpartition(b"\n")[2]
            step = last.partition(b'"step": ')[2].partition(b",")[0]
            return int(step)
        except (OSError, ValueError):
            return 0

    def listen(self, *, ended: bool) -> None:
        """Report what the output says, where the process does not report itself.

        Raises:
            RunError: the run is not what was asked for, or a number never appears.
        """
        run, output = self._run, self._output
        if run is None or output is None or run.result is not None:
            return
        whole = ended and self.process.returncode == 0
        for step, loss in output.losses(ended=whole):
            if run.report(step, train_loss=loss):
                self.ends_by_us = True
                return
        for step, loss in output.valid_losses(ended=whole):
            run.report(step, valid_loss=loss)
        if whole:
            # One that was killed after its last step reported its losses before.
            output.check_found(loss=not self.steps, valid_loss=self.job.validate)
            run.finish(valid_loss=output.last_valid_loss)

    def last_lines(self) -> str:
        """The end of what this attempt wrote, for a message, and where all of it is."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, os.fstat(file.fileno()).st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        said = " | ".join(printable(line, 200) for line in lines[-3:])
        return f"; its last lines: {shortened(said, 400)} ({self.log})" if said else f" ({self.log} is empty)"

    def kill(self) -> None:
        """End the process and those that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def own_folder(runs: Path, spec: AnyRun, prune: Pruning | None) -> Path:
    """The folder of a run that was given none: one that may end early is another run than the same to its end."""
    limits = f"-{hashlib.sha256(prune.model_dump_json().encode()).hexdigest()[:8]}" if prune else ""
    return runs / f"{spec.id}{limits}"


def _finished(job: Job) -> RunResult | None:
    """The result that a run's folder holds, if it is all that is asked for."""
    assert job.folder is not None
    if not (job.folder / RESULT_FILE).exists():
        return None
    found = read_result(job.folder)
    if found.id != job.spec.id or found.status == "failed" or not (job.folder / METRICS_FILE).exists():
        return None
    if job.validate and found.status == "finished" and found.valid_loss is None:
        return None
    return found.plain_result()


def read_result(folder: Path) -> ReportedResult:
    """How the run of a folder ended.

    Raises:
        EngineError: the file is damaged.
    """
    try:
        remedy = "delete the folder to start the run again"
        return read_checked(folder / RESULT_FILE, ReportedResult, None, "run's result", remedy)
    except RecordError as error:
        raise EngineError(str(error)) from None


def death(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "its process was killed (out of memory?)"
    if code < 0:
        return f"its process crashed ({signal.Signals(-code).name})"
    return f"its process ended with code {code}"


def _end_with_parent() -> None:
    """In a new process: without this it would train on when the driver is killed."""
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def end_left_overs(folder: Path) -> None:
    """End processes of runs in this folder that a driver left which was killed: it is held by this driver alone."""
    mine = f"{RUN_VARIABLE}={folder}{os.sep}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int(process.name) != os.getpid() and any(
                entry.startswith(mine) for entry in (process / "environ").read_bytes().split(b"\0")
            ):
                os.kill(int(process.name), signal.SIGKILL)
