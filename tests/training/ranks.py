"""Runs in processes of their own, which can be killed, or be ranks of one run."""

import contextlib
import faulthandler
import json
import multiprocessing
import os
import signal
import time
from multiprocessing import connection

from ports import free_port

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "pytest",
        "rlrs.training",
        "small",
        "torch.distributed.checkpoint",
        "torch.distributed.fsdp",
        "torch._dynamo",
        "torch._inductor",
    ]
)
TIMEOUT = 60  # seconds; a run takes one or two


def start(work, arguments=(), *, ranks=1, output):
    """Start `work(world, *arguments)` on every rank; the processes."""
    output.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = [
        PROCESSES.Process(target=_one_rank, args=(work, arguments, rank, ranks, port, output), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def run(work, arguments=(), *, ranks=1, output):
    """What rank 0's work returns, as JSON has it; an AssertionError with the output of a rank that failed."""
    (output / "returned.json").unlink(missing_ok=True)
    codes = end(start(work, arguments, ranks=ranks, output=output))
    failed = [rank for rank, code in enumerate(codes) if code != 0]
    assert not failed, (output / f"{failed[0]}.out").read_text()[-3000:]
    return json.loads((output / "returned.json").read_text())


def end(processes):
    """Exit codes, when all have ended."""
    deadline = time.monotonic() + TIMEOUT
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def kill(processes, *, when_one_has_ended=False):
    """SIGKILL for all; when one has been killed by another way, or at once."""
    if when_one_has_ended:
        connection.wait([process.sentinel for process in processes], TIMEOUT)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    return end(processes)


def _one_rank(work, arguments, rank, ranks, port, output):
    with (output / f"{rank}.out").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.dump_traceback_later(TIMEOUT - 5)  # into the output, for whoever reads the failure
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    import torch

    from rlrs.training import Stopped, world

    torch.set_num_threads(1)
    try:
        with world() as here:
            returned = work(here, *arguments)
    except Stopped:
        os._exit(75)
    if rank == 0:
        (output / "returned.json").write_text(json.dumps(returned))
    os._exit(0)  # not by way of the interpreter's end, where threads of a process group can hang
