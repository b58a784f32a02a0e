"""One run of the user's own trainer that verifies its rates: a process, some steps, and what it found."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from rlrs.messages import printable
from rlrs.records import RecordError, read_record
from rlrs.runs import OwnRun
from rlrs.runs.asked import RESULT_FILE
from rlrs.runs.verifying import Verification, file_name, together
from rlrs.search.engines.commands import LOOK_EVERY, Attempt, death, end_left_overs, read_result
from rlrs.search.engines.engine import EngineError, Job
from rlrs.search.engines.processes import devices_by_slot
from rlrs.verify import Report

GRACE = 10.0
"""Seconds that the other processes of a run have for their findings after its first one has ended. Chosen here."""


def verified(
    spec: OwnRun,
    folder: Path,
    *,
    steps: int,
    time_limit: float | None = None,
    gpus: float = 0,
    tick: Callable[[int], None] | None = None,
) -> Report:
    """Verify the rates of a run in its own process, which ends when all its ranks have found something.

    Args:
        spec: the run; its trainer reports to rlrs.
        folder: of its files, emptied first; stays, with the process's log.
        steps: of every optimizer to look at.
        time_limit: seconds that it may take; None sets no limit.
        gpus: of a run; see `Commands`.
        tick: called a few times a second with the steps that were reported.

    Raises:
        EngineError: the process cannot be started, or ends or fails before it has found anything.
    """
    folder = folder.resolve()
    end_left_overs(folder)
    shutil.rmtree(folder, ignore_errors=True)
    job = Job("verify", spec, folder, validate=False, prune=None)
    attempt = Attempt(job, 0, devices_by_slot(1, gpus)[0], verify=steps)
    since: float | None = None
    try:
        while True:
            code = attempt.process.poll()  # before the files: what it wrote last is there then
            found = _found(folder)
            if found and len(found) >= found[0].ranks:
                return together(found)
            if found and since is None:
                since = time.monotonic()
            if code is not None or (since is not None and time.monotonic() - since > GRACE):
                break
            if time_limit is not None and attempt.seconds > time_limit:
                raise EngineError(
                    f"the run to verify took more than the time limit of {time_limit:g} s{attempt.last_lines()}"
                )
            if tick is not None:
                tick(attempt.steps)
            time.sleep(LOOK_EVERY)
    finally:
        attempt.kill()
    if found:
        return together(found)
    if (folder / RESULT_FILE).exists():  # it failed, and said why
        raise EngineError(f"the run to verify: {read_result(folder).reason} ({printable(str(folder))})")
    how = death(code) if code else "it ended before it had reported anything: run.report(step, train_loss=...)"
    raise EngineError(f"the run to verify: {how}{attempt.last_lines()}")


def _found(folder: Path) -> list[Verification]:
    try:
        return [read_record(path, Verification, "verify again") for path in sorted(folder.glob(file_name("*")))]
    except RecordError as error:
        raise EngineError(str(error)) from None
