"""What of this machine and installation stands in the way of a study: `rlrs doctor`."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlrs.environment import cores
from rlrs.extras import install
from rlrs.files import locked

if TYPE_CHECKING:
    from rlrs.data import TokenData
    from rlrs.training import RunSpec

EXTRAS: dict[str, str] = {
    "study": "everything that `rlrs run` needs",
    "data": "text to tokens",
    "datasets": "parquet, zst and data sets by name",
    "training": "the reference trainer",
    "search": "searches and their record (Optuna)",
    "methods": "the response surface and other samplers",
    "compare": "statistics of a comparison",
    "report": "the page of a study",
    "cli": "the command line",
    "audit": "audit trail, signatures, rollout",
    "discover": "components found by how tensors learn",
    "ray": "runs on a Ray cluster",
    "postgresql": "a database that several drivers share",
    "dashboard": "`rlrs dashboard`",
    "transformers": "transformers' models and Trainer",
    "accelerate": "Accelerate",
    "lightning": "Lightning and Fabric",
    "peft": "adapters (PEFT)",
    "trl": "TRL's trainers",
    "jax": "optax",
    "tensorboard": "curves in TensorBoard",
    "mlflow": "curves in MLflow",
    "torchtitan": "torchtitan",
    "docs": "building the site",
}
"""Extra -> what it is for; `dev` and `integrations` are sums of these."""
LEAST_FREE, LITTLE_FREE = 1, 5
"""GiB of disk below which a study will fail, or soon may. Chosen here: checkpoints of a small study take below 1."""
SANITY_STEPS, SANITY_SECONDS = 120, 10.0


@dataclass(frozen=True)
class Diagnosis:
    """One thing that was looked at.

    >>> print(Diagnosis("disk", "fix", "0.2 GiB free", "free some space"))
    FIX   disk         0.2 GiB free. Do: free some space
    """

    name: str
    status: Literal["ok", "note", "fix"]
    """`note` costs speed or a feature; `fix` stops a study, or makes its numbers wrong."""
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        remedy = f". Do: {self.remedy}" if self.remedy else ""
        return f"{self.status.upper() if self.status == 'fix' else self.status:<5} {self.name:<12} {self.found}{remedy}"


def examine(folder: str | Path = ".") -> Iterator[Diagnosis]:
    """Everything that is looked at, one after the other; the last is a short training run.

    Args:
        folder: where studies will be.
    """
    checks: tuple[Callable[[], Iterator[Diagnosis]], ...] = (
        _versions,
        _extras,
        _threads,
        _allocator,
        _memory,
        lambda: _disk(Path(folder)),
        _shared_memory,
        _gpu,
        _sanity,
    )
    for check in checks:
        yield from check()


def requirements(extra: str | None) -> dict[str, str]:
    """Package -> bounds of version of an extra (of rlrs itself, if None), those of extras within it included.

    >>> sorted(requirements(None))
    ['PyYAML', 'numpy', 'torch']
    """
    found: dict[str, str] = {}
    for line in requires("rlrs") or ():
        parts = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?\s*([^;]*?)(?:;\s*extra == ['\"]([\w-]+)['\"])?\s*", line)
        if parts is None or parts[4] != extra:
            continue
        if parts[1] == "rlrs":
            for inner in parts[2].split(","):
                found |= requirements(inner)
        else:
            found[parts[1]] = parts[3]
    return found


def _versions() -> Iterator[Diagnosis]:
    import platform

    from rlrs.environment import environment

    facts = environment()
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    yield Diagnosis("python", "ok", f"{platform.python_version()}, rlrs {facts['rlrs']}{commit}, {platform.platform()}")
    try:
        needed = requirements(None)
    except PackageNotFoundError:
        yield Diagnosis("packages", "note", "rlrs is not installed: it is imported from a folder", install("study"))
        return
    wrong = list(_unmet(needed))
    found = ", ".join(f"{name} {_version(name) or 'missing'}" for name in needed)
    yield Diagnosis("packages", "fix" if wrong else "ok", found, f"pip install {' '.join(wrong)}" if wrong else "")


def _unmet(needed: Mapping[str, str]) -> Iterator[str]:
    """Requirements that are installed in a version out of their bounds, or not at all."""
    for name, bounds in needed.items():
        have = _version(name)
        if have is None or not _within(have, bounds):
            yield f"'{name}{bounds}'"


def _within(have: str, bounds: str) -> bool:
    for operator, bound in re.findall(r"(>=|<)\s*([\d.]+)", bounds):
        old, new = _numbers(have), _numbers(bound)
        if (operator == ">=" and old < new) or (operator == "<" and old >= new):
            return False
    return True


def _numbers(text: str) -> list[int]:
    found = [int(part) for part in re.match(r"[\d.]*", text)[0].split(".") if part]  # pyright: ignore[reportOptionalSubscript]
    while found and found[-1] == 0:
        found.pop()
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _extras() -> Iterator[Diagnosis]:
    try:
        needed = {extra: requirements(extra) for extra in EXTRAS}
    except PackageNotFoundError:
        return
    there, missing, wrong = [], [], []
    for extra, packages in needed.items():
        if absent := [name for name in packages if _version(name) is None]:
            missing.append(f"{extra} ({EXTRAS[extra]}: {', '.join(absent)})")
        elif unmet := list(_unmet(packages)):
            wrong += [one for one in unmet if one not in wrong]
        else:
            there.append(extra)
    yield Diagnosis("extras", "ok", f"installed: {', '.join(there) or 'none'}")
    if missing:
        yield Diagnosis("extras", "note", f"not installed: {'; '.join(missing)}", f"if you want one: {install('NAME')}")
    if wrong:
        yield Diagnosis(
            "extras", "fix", "packages out of the versions that rlrs works with", f"pip install {' '.join(wrong)}"
        )


def _threads() -> Iterator[Diagnosis]:
    import torch

    have, used, load = cores(), torch.get_num_threads(), os.getloadavg()[0]
    set_ = os.environ.get("OMP_NUM_THREADS")
    said = f"{used} torch threads, {have} cores, OMP_NUM_THREADS {set_ or 'not set'}"
    if used > have:
        yield Diagnosis(
            "threads", "fix", said, f"set OMP_NUM_THREADS={have}: more threads than cores wait for each other"
        )
    else:
        yield Diagnosis("threads", "ok", said)
    limit = _cpu_limit()
    if limit is not None and limit < have:
        remedy = f"run studies with --processes {max(1, math.floor(limit))}"
        yield Diagnosis("threads", "note", f"this container may use {limit:g} of {have} cores", remedy)
    if load > 1.5 * have:
        remedy = "figures of speed say nothing until the others are done"
        yield Diagnosis("load", "note", f"{load:.1f} processes want {have} cores", remedy)


def _cpu_limit() -> float | None:
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _allocator() -> Iterator[Diagnosis]:
    preloaded = re.findall(r"(jemalloc|tcmalloc|mimalloc)", os.environ.get("LD_PRELOAD", ""))
    if preloaded:
        yield Diagnosis("allocator", "ok", f"{preloaded[0]}, preloaded")
        return
    set_ = [name for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if name in os.environ]
    said = f"the system's; {', '.join(set_) if set_ else 'its thresholds are not set'}"
    # Runs of a study have them set by the engine (rlrs.search.engines); a loop of one's own does not.
    remedy = "" if set_ else "for small models on CPU in a loop of your own, MALLOC_TRIM_THRESHOLD_=1073741824"
    yield Diagnosis("allocator", "ok" if set_ else "note", said, remedy)


def _memory() -> Iterator[Diagnosis]:
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    total, free = kib.get("MemTotal", 0) / 2**20, kib.get("MemAvailable", 0) / 2**20
    status = "note" if free < 1 else "ok"
    remedy = "a run of the demo takes 0.4 GiB; take fewer --processes" if status == "note" else ""
    yield Diagnosis("memory", status, f"{free:.1f} of {total:.1f} GiB free", remedy)


def _disk(folder: Path) -> Iterator[Diagnosis]:
    if not folder.is_dir():
        yield Diagnosis("disk", "fix", f"{folder} is no folder", "name the folder where studies will be")
        return
    free = shutil.disk_usage(folder).free / 2**30
    said = f"{free:.1f} GiB free in {folder}"
    if free < LITTLE_FREE:
        yield Diagnosis("disk", "fix" if free < LEAST_FREE else "note", said, "free some, or take --out elsewhere")
    else:
        yield Diagnosis("disk", "ok", said)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as place, locked(Path(place) / "lock"):
            pass
    except OSError as error:
        yield Diagnosis("disk", "fix", f"{folder}: {error.strerror or error}", "take --out elsewhere")


def _shared_memory() -> Iterator[Diagnosis]:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return
    free = usage.free / 2**30
    little = free < 1
    remedy = "in a container: --shm-size=2g; data loaders with workers, NCCL and Ray need it" if little else ""
    yield Diagnosis("/dev/shm", "note" if little else "ok", f"{free:.1f} of {usage.total / 2**30:.1f} GiB free", remedy)


def _gpu() -> Iterator[Diagnosis]:
    import torch

    built = torch.version.cuda or getattr(torch.version, "hip", None)
    device = any(Path(path).exists() for path in ("/dev/nvidia0", "/dev/kfd"))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            yield Diagnosis("gpu", "ok", f"{about.name}, {about.total_memory / 2**30:.0f} GiB, torch for {built}")
    elif device and built is None:
        yield Diagnosis(
            "gpu", "fix", "there is a GPU, and torch is a build for CPUs", "install torch for it (pytorch.org)"
        )
    elif device:
        remedy = "see nvidia-smi: the driver may be older than torch's CUDA, or the container has no access"
        yield Diagnosis("gpu", "fix", f"there is a GPU, and torch for {built} cannot use it", remedy)
    else:
        yield Diagnosis("gpu", "ok", f"none; torch for {built or 'CPUs'}")


class _TooSlowError(Exception):
    """The sanity run has had its time."""


def _sanity() -> Iterator[Diagnosis]:
    """Train a mixture of experts for at most ten seconds; checkpoints, metrics and result are written."""
    try:
        from rlrs.training import train
    except ImportError as error:
        yield Diagnosis("trainer", "note", f"not tried: {error.name or error} is missing", install("training"))
        return
    spec, data = _small_run()
    began = time.monotonic()
    done = 0

    def tick(steps: int, loss: float) -> None:
        nonlocal done
        done = steps
        if time.monotonic() - began > SANITY_SECONDS:
            raise _TooSlowError

    try:
        with tempfile.TemporaryDirectory(prefix="rlrs-doctor-") as folder:
            result = train(spec, data, folder, progress=tick)
    except _TooSlowError:
        remedy = "this machine is busy or slow; a study takes as many times longer"
        yield Diagnosis("trainer", "note", f"{done} of {SANITY_STEPS} steps in {SANITY_SECONDS:.0f} s", remedy)
        return
    except Exception as error:  # whatever it is, it is what the report is for
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        yield Diagnosis(
            "trainer", "fix", f"the sanity run stopped: {said[:300]}", "report it, with `rlrs doctor --json`"
        )
        return
    seconds = time.monotonic() - began
    guess = math.log(data.vocab_size)
    if result.score is None or result.score > 0.9 * guess:
        said = f"{result.status}, loss {result.score} after {result.steps} steps; a uniform guess has {guess:.2f}"
        yield Diagnosis(
            "trainer", "fix", said, "the numbers of this machine are wrong: report it, with `rlrs doctor --json`"
        )
    else:
        said = f"{result.steps} steps in {seconds:.1f} s, loss {guess:.2f} to {result.score:.2f}"
        yield Diagnosis("trainer", "ok", said)


def _small_run() -> tuple[RunSpec, TokenData]:
    """A run whose next token is the last one plus 1 or 2: half of its loss is learnt in some dozen steps."""
    import numpy as np

    from rlrs.data import TokenData
    from rlrs.settings import ModelConfig, TrainingConfig
    from rlrs.training import RunSpec

    draw = np.random.default_rng(0)
    train, valid = ((draw.integers(1, 3, size).cumsum() % 64).astype(np.uint16) for size in (8_000, 1_000))
    data = TokenData(train=train, valid=valid, sequence_length=16, vocab_size=64, hash="doctor")
    spec = RunSpec(
        model=ModelConfig(d_model=32, n_layers=1, n_heads=2, n_experts=2),
        training=TrainingConfig(dtype="float32", eval_tokens=256, log_every=5, checkpoint_every=50, score_steps=10),
        steps=SANITY_STEPS,
        batch_size=8,
        seed=0,
        lr=1e-2,
        final_fraction=0.1,
        ratios={"embedding": [(0.0, 5.0), (1.0, 0.5)]},
        data_hash=data.hash,
    )
    return spec, data
