"""A run of a study's model that is trained to see how its tensors learn."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from rlrs.data import prepare
from rlrs.discovery import StatisticsProbe
from rlrs.grouping.found_components import GroupingError
from rlrs.records import Recipe
from rlrs.settings import StudyConfig
from rlrs.study import resolve
from rlrs.study.kinds import ReferenceRuns
from rlrs.training import StopFlag, World
from rlrs.training.loop import Loop


def probe_run(
    study: StudyConfig,
    folder: Path,
    *,
    model: Literal["proxy", "target"] = "proxy",
    steps: int | None = None,
    seed: int = 0,
    every: int = 10,
) -> tuple[Path, str]:
    """Train one run with uniform ratios and the study's base rate; `statistics.SEED.npz` in the folder.

    On one process, in float32 where the study's dtype is `auto`. Nothing but data and statistics is kept.

    Args:
        study: settings.
        folder: for data and statistics; made if missing.
        model: of the study.
        steps: optimizer steps; the study's if None.
        seed: of weights and data order.
        every: steps between two observations.

    Returns:
        Path of the statistics, and how the run ended: `finished` or `diverged`.

    Raises:
        GroupingError: the study's trainer is one of the user's own, or too few steps for one observation.
    """
    study = resolve(study)
    if study.trainer is not None:
        raise GroupingError(
            f"{study.name} has a trainer of its own: put rlrs.discovery.StatisticsProbe around its steps, and group "
            "the file that it saves"
        )
    scale = study.proxy if model == "proxy" else study.target
    if (steps or scale.steps) < 2:
        raise GroupingError(f"{steps or scale.steps} step should be 2 or more: an observation is of two of them")
    if study.training.dtype == "auto":
        study = study.model_copy(update={"training": study.training.model_copy(update={"dtype": "float32"})})
    (folder / "data").mkdir(parents=True, exist_ok=True)
    data = prepare(study.data, folder / "data")
    recipe = Recipe.from_settings(study.training, study.search.lr)
    spec = ReferenceRuns(study, data).spec(scale, recipe, seed, lr=recipe.lr, steps=steps)
    with torch.random.fork_rng():
        loop = Loop(spec, data, None, World(), validate=False, prune=None, stop=StopFlag())
        with StatisticsProbe(loop.state.model, loop.state.optimizers, every=every) as probe:
            result = loop.train(None)
    path = folder / f"statistics.{seed}.npz"
    probe.save(path)
    return path, result.status
