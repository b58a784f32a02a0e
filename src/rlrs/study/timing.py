"""How long a step of proxy and target takes here: as a study has measured it, or by a probe of seconds."""

from __future__ import annotations

import contextlib
import math
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlrs.comparison import read_results
from rlrs.data import TokenData, vocabulary_size
from rlrs.inspection import meta_model
from rlrs.models import concrete, count_parameters, training_flops
from rlrs.records import RecordError, Results, RunResult
from rlrs.settings import ScaleConfig, StudyConfig, kept
from rlrs.training import RunSpec, train

PROBE_SECONDS = 4.0
"""Of steps that are timed, for each size. Chosen here."""
LEAST_STEPS, MOST_STEPS = 3, 60
"""Of a probe; the first two, which allocate, are left out."""
MOST_FLOPS = 2e11
"""Of a step, beyond which a probe here would take minutes, and says nothing of the machine that is meant."""
BYTES = 24
"""Of memory for a parameter in training: weight, gradient, two moments and what a step makes of them."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of a training step here, one run at a time.

    Args:
        proxy: None if not known.
        target: None if not known.
        how: they were found, in words.
    """

    proxy: float | None
    target: float | None
    how: str


def step_times(study: StudyConfig, folder: Path, *, probe: bool = True) -> StepTimes:
    """Measured by an earlier run of this study in its run directory, or else by a short probe.

    Args:
        study: settings, resolved.
        folder: its run directory; may be missing.
        probe: train some steps where nothing was measured.
    """
    found = _measured(study, folder / "results.json")
    if found is not None:
        return found
    if study.trainer is not None:
        return StepTimes(None, None, "your trainer is not started for a plan: hours are known once a study has run")
    if study.engine.gpus or study.engine.ranks > 1 or study.engine.kind != "processes":
        return StepTimes(None, None, "its runs are trained on other devices than a probe here would be")
    if not probe:
        return StepTimes(None, None, "nothing was timed")
    proxy, target = (probed(study, scale) for scale in (study.proxy, study.target))
    left_out = [name for name, value in (("proxy", proxy), ("target", target)) if value is None]
    how = "some steps of each size, timed here on one thread"
    return StepTimes(proxy, target, f"{how}; too large to be timed here: {' and '.join(left_out)}" if left_out else how)


def probed(study: StudyConfig, scale: ScaleConfig) -> float | None:
    """Seconds of a step of a size, on text of chance; None where it is too large for this machine.

    Args:
        study: settings, resolved.
        scale: its proxy or target.
    """
    size, length = vocabulary_size(study.data), study.data.sequence_length
    model = meta_model(concrete(scale).model, size)
    flops = float(training_flops(model, length)) * scale.batch_size * length
    if flops > MOST_FLOPS or BYTES * count_parameters(model).total > 0.5 * _free_memory():
        return None
    tokens = np.random.default_rng(0).integers(0, size, max(4096, 4 * scale.batch_size * (length + 1)))
    data = TokenData(train=tokens, valid=tokens, sequence_length=length, vocab_size=size, hash="probe")
    settings = study.training.model_copy(update={"log_every": 1, "compile": False, "loss_limit": 1e9})
    if settings.dtype == "auto":
        settings = settings.model_copy(update={"dtype": "float32"})
    spec = RunSpec(
        model=concrete(scale).model,
        training=settings,
        steps=MOST_STEPS,
        batch_size=scale.batch_size,
        seed=0,
        lr=1e-4,
        final_fraction=1.0,
        ratios={},
        data_hash=data.hash,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has
    try:
        clock = _Clock()
        with contextlib.suppress(_EnoughError):
            train(spec, data, progress=clock.tick, validate=False)
        return statistics.median(clock.seconds())
    finally:
        torch.set_num_threads(threads)


class _EnoughError(Exception):
    """A probe has timed what it wanted."""


class _Clock:
    def __init__(self) -> None:
        self.moments = [time.perf_counter()]

    def tick(self, step: int, loss: float) -> None:
        self.moments.append(time.perf_counter())
        if step >= LEAST_STEPS and self.moments[-1] - self.moments[0] > PROBE_SECONDS:
            raise _EnoughError

    def seconds(self) -> list[float]:
        """Of each step after the first two."""
        return [after - before for before, after in zip(self.moments[2:], self.moments[3:], strict=False)]


def _free_memory() -> float:
    """Bytes."""
    return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


def _measured(study: StudyConfig, path: Path) -> StepTimes | None:
    """From the results of a study with the same sizes, text and training."""
    try:
        results = read_results(path)
    except (OSError, RecordError):
        return None
    mine, theirs = kept(study, {}), results.study.config
    if any(_differ(mine.get(part), theirs.get(part)) for part in ("proxy", "target", "data", "training")):
        return None
    proxy, target = (_seconds(_runs(results, stage)) for stage in ("search", "transfer"))
    return StepTimes(proxy, target, f"measured by the runs of {path.parent}") if proxy and target else None


def _differ(mine: Any, theirs: Any) -> bool:
    """Whether sections of settings differ in what both say and decides how long a step takes."""
    if not mine or not theirs:
        return mine != theirs
    said = {k for k in mine.keys() & theirs.keys() if mine[k] is not None and theirs[k] is not None}
    return any(mine[k] != theirs[k] for k in said - {"folder", "scale"})


def _runs(results: Results, stage: str) -> Iterable[RunResult]:
    found = (getattr(arm, stage) for arm in results.arms.values())
    return [t.result for part in found if part for t in part.trials if t.result is not None and t.whole]


def _seconds(runs: Iterable[RunResult]) -> float | None:
    known = [(run.seconds, run.steps) for run in runs if run.seconds and run.steps]
    return math.fsum(s for s, _ in known) / sum(n for _, n in known) if known else None


def measured_noise(folder: Path) -> tuple[float, Mapping[str, float]] | None:
    """Noise of the paired differences of an earlier study, and its gains over its controls; None without one.

    Args:
        folder: a run directory.

    Returns:
        The largest standard deviation of `rlrs` minus a control over seeds, and control -> mean gain, in nats.
    """
    try:
        results = read_results(folder / "results.json")
    except (OSError, RecordError):
        return None
    if results.comparison is None or not results.comparison.differences:
        return None
    found = results.comparison.differences
    noise = max(statistics.stdev(difference.per_seed) for difference in found.values())
    return noise, {control: -difference.mean for control, difference in found.items()}
