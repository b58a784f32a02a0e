"""What all settings share: strict, frozen classes, and numbers as YAML means them."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class ConfigError(ValueError):
    """Settings that cannot be used; the message says which, where, and what would be right."""


def number(value: Any) -> Any:
    """Text that is a number as one; anything else that is not a finite number is refused."""
    # YAML 1.1 reads `3e-3` as text and `yes` as a boolean: take the first as the number it is, refuse the second.
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {value!r}")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"should be a number, not {value!r}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"should be a finite number, not {value!r}")
    return value


Positive = Annotated[float, BeforeValidator(number), Field(gt=0)]
NonNegative = Annotated[float, BeforeValidator(number), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(number), Field(ge=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
