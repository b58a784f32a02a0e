"""Thresholds of the checks: the defaults, or those of healthy runs, in monitor.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from rlrs.files import write_atomic
from rlrs.monitoring.checks import CHECKS
from rlrs.records import Record, RecordError
from rlrs.records.frozen import check_version, first_problem, shown
from rlrs.yaml_files import YAMLError, dump_yaml, load_yaml

FILE = "monitor.yaml"
FORMAT = 1


class Thresholds(Record):
    """Thresholds by check; what is not named has its default (`rlrs.monitoring.CHECKS`).

    >>> Thresholds().get("loss_spike", None), Thresholds(components={"update_ratio_high": {"router": 0.3}}).get(
    ...     "update_ratio_high", "router"
    ... )
    (6.0, 0.3)
    """

    format: Literal[1] = 1
    runs: tuple[str, ...] = ()
    """Healthy runs that they come from."""
    observations: int = Field(default=0, ge=0)
    every: int | None = Field(default=None, ge=1)
    """Steps between two observations of those runs: windows and patience count observations."""
    held_out_alarms: int | None = Field(default=None, ge=0)
    """Runs that the thresholds of the others would have raised an alarm in: an estimate of false alarms."""
    disabled: tuple[str, ...] = ()
    """Checks that are not made."""
    thresholds: dict[str, float] = Field(default_factory=dict)
    components: dict[str, dict[str, float]] = Field(default_factory=dict)
    """Check -> component -> threshold."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (*self.disabled, *self.thresholds, *self.components):
            if name not in CHECKS:
                raise ValueError(f"no check {shown(name)}; should be one of {', '.join(CHECKS)}")
        for name, value in (
            *self.thresholds.items(),
            *((name, value) for name, by in self.components.items() for value in by.values()),
        ):
            if value < 0:
                raise ValueError(f"threshold of {name}: {value:g} should be 0 or more")
        return self

    def get(self, check: str, component: str | None) -> float | None:
        """Threshold of a check for a component; None if the check is disabled."""
        if check in self.disabled:
            return None
        by_component = self.components.get(check, {})
        if component is not None and component in by_component:
            return by_component[component]
        return self.thresholds.get(check, CHECKS[check].default)

    @classmethod
    def load(cls, path: str | Path) -> Thresholds:
        """Read a monitor.yaml.

        Raises:
            RecordError: it cannot be read, or holds what it should not; one line that names the file.
        """
        try:
            plain = load_yaml(path)
        except YAMLError as error:
            raise RecordError(str(error)) from None
        if not isinstance(plain, dict):
            raise RecordError(f"{path}: should be a mapping, such as `rlrs monitor calibrate` writes")
        check_version(Path(path), plain, "format", FORMAT)
        if unknown := [key for key in plain if key not in cls.model_fields]:
            known = ", ".join(cls.model_fields)
            raise RecordError(f"{path}: no key {shown(unknown[0])} in a monitor.yaml; should be one of {known}")
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise RecordError(f"{path}: {first_problem(error)}") from None

    def save(self, path: str | Path) -> None:
        """Write them, in one step."""
        write_atomic(path, dump_yaml({"format": FORMAT, **self.model_dump(mode="json", exclude_defaults=True)}))
