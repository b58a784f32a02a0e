"""The guard of a study's single runs, with the thresholds that it names looked up."""

from __future__ import annotations

from pydantic import ValidationError

from rlrs.monitoring.thresholds import Thresholds
from rlrs.records import RecordError
from rlrs.records.frozen import first_problem
from rlrs.settings import ConfigError, StudyConfig


def with_thresholds(study: StudyConfig) -> StudyConfig:
    """A study whose guard has the content of its monitor.yaml in the place of the path: a run is known by that.

    Raises:
        ConfigError: thresholds that cannot be read, or of runs that had lines at other steps.
    """
    if study.guard is None or study.guard.thresholds is None:
        return study
    given = study.guard.thresholds
    try:
        found = Thresholds.load(given) if isinstance(given, str) else Thresholds.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"guard.thresholds: {first_problem(error)}") from None
    except (RecordError, OSError) as error:
        raise ConfigError(f"guard.thresholds: {error}") from None
    every = study.training.log_every
    if found.every is not None and found.every != every:
        raise ConfigError(
            f"guard.thresholds: of runs with a line every {found.every} steps, and training.log_every={every}: these "
            "should be equal"
        )
    content = found.model_dump(mode="json", include={"every", "disabled", "thresholds", "components"})
    return study.model_copy(update={"guard": study.guard.model_copy(update={"thresholds": content})})
