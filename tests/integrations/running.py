"""Runs of the examples in processes of their own, and what every integration has to show."""

import faulthandler
import importlib
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import rlrs
from ports import free_port
from rlrs.ratios import BASE

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS, LR, ALPHA = 20, 3e-3, 0.1
TIMEOUT = 60  # seconds for one run, which takes one or two
PAPER_DENSE = rlrs.Ratios.preset("paper-dense")

# One server imports the heavy packages once; every rank of every run is forked from it.
_PROCESSES = multiprocessing.get_context("forkserver")
_PRELOAD = (
    "torch",
    "torch.distributed.checkpoint",
    "transformers",
    "accelerate",
    "lightning",
    "peft",
    "trl",
    "datasets",
)
_PROCESSES.set_forkserver_preload([module for module in _PRELOAD if importlib.util.find_spec(module.partition(".")[0])])


def needs(*modules, extra):
    """Skip the test module unless all of these are installed (without importing them: that takes seconds)."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install -e '.[{extra}]'", allow_module_level=True)


def run(example, folder, *, ranks=1, resume=False, options=()):
    """Lines that an example recorded: a list per rank; `folder` keeps its checkpoint."""
    name = f"{ranks}.{'resumed' if resume else 'whole'}"
    argv = _argv(folder, name, resume, options)
    port = free_port()
    output = [folder / f"{name}.{rank}.out" for rank in range(ranks)]
    processes = [
        _PROCESSES.Process(target=_one_rank, args=(example, argv, rank, ranks, port, output[rank]), daemon=True)
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIMEOUT)
    failed = [rank for rank, process in enumerate(processes) if process.exitcode != 0]
    for process in processes:
        process.kill()
    assert not failed, f"{example}, rank {failed[0]} of {ranks}:\n{output[failed[0]].read_text()[-3000:]}"
    return _lines(folder, name, ranks)


def torchrun(example, folder, *, ranks):
    """The same, started by `torchrun`."""
    argv = _argv(folder, f"{ranks}.whole", False, ())
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    paths = [str(Path(rlrs.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(EXAMPLES / f"{example}.py"), *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return _lines(folder, f"{ranks}.whole", ranks)


def _argv(folder, name, resume, options):
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["--steps", str(STEPS), "--folder", str(folder / "checkpoint"), "--record", str(folder / name), *options]
    return [*argv, "--resume"] if resume else argv


def _lines(folder, name, ranks):
    return [
        [json.loads(line) for line in (folder / f"{name}.{rank}").read_text().splitlines()] for rank in range(ranks)
    ]


def _one_rank(example, argv, rank, ranks, port, output):
    """In a process of its own: what `torchrun` sets, then the example."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.dump_traceback_later(TIMEOUT - 5)  # into the output, for whoever reads the failure
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0"}
    os.environ |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    if ranks > 1:
        os.environ["TORCHELASTIC_RUN_ID"] = "test"  # by which Lightning knows that it need not start ranks
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("error", message=".*RelativeLR")
    sys.path.insert(0, str(EXAMPLES))
    importlib.import_module(example).main(argv)
    os._exit(0)  # not by way of the interpreter's end, where threads of a process group can hang


def largest_error(lines, *, ratios=PAPER_DENSE, warmup=STEPS // 10, steps=STEPS):
    """Largest relative difference of a recorded rate from the formula, over all steps and groups."""
    ratios = rlrs.Ratios(ratios)
    schedule = rlrs.BaseSchedule(total_steps=steps, warmup_steps=warmup, final_fraction=ALPHA)
    assert [line["step"] for line in lines] == list(range(steps))
    assert {name.partition("/")[0] for name in lines[0]["rates"]} >= set(ratios)
    worst = 0.0
    for line in lines:
        for name, rate in line["rates"].items():
            knots = ratios.get(name.partition("/")[0], BASE).knots
            right = LR * rlrs.relative_factor(schedule, knots, line["step"])
            worst = max(worst, abs(rate - right) / right)
    return worst


def differing_steps(resumed, whole):
    """How many of the resumed run's steps have another loss or another rate than the uninterrupted run's."""
    assert 0 < resumed[0]["step"] == STEPS // 2, "the resumed run did not begin at the checkpoint"
    assert resumed[-1]["step"] == STEPS - 1
    return sum(a != b for a, b in zip(resumed, whole[resumed[0]["step"] :], strict=True))
