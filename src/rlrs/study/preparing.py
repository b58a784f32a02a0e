"""The data of a study whose trainer is not the reference trainer, where the study prepares them."""

from __future__ import annotations

from pathlib import Path

from rlrs.data import prepare
from rlrs.data.records import prepare_records
from rlrs.settings import StudyConfig
from rlrs.study.directory import StudyProgress, in_megabytes
from rlrs.study.kinds import OwnRuns


def own_runs(study: StudyConfig, folder: Path, progress: StudyProgress) -> OwnRuns:
    """The runs of a study's own trainer, its data prepared if they are the study's.

    Args:
        study: settings, resolved; has `trainer`.
        folder: the run directory, held by this process.
        progress: is told what happens.

    Raises:
        ConfigError: data that cannot be used.
    """
    assert study.trainer is not None
    config = study.trainer.transformers
    if config is None:
        return OwnRuns(study)
    progress.stage("data", 0)
    if config.trainer == "SFTTrainer":
        return OwnRuns(study, folder / "data", prepare_records(study.data, folder / "data"))
    return OwnRuns(study, folder / "data", prepare(study.data, folder / "data", in_megabytes(progress)).summary)
