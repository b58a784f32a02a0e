"""What all settings share: strict, frozen classes, and numbers as YAML means them."""

from __future__ import annotations

import math
import numbers
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rlrs.messages import shown


class ConfigError(ValueError):
    """Settings that cannot be used; the message says which, where, and what would be right."""


def number(value: Any) -> Any:
    """Text that is a number as one; anything else that is not a finite number is refused."""
    # From Python, or in quotes: a YAML file's own numbers are numbers already.
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {value!r}")
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ValueError(f"should be a number, not {shown(value)}") from None
    if not isinstance(value, numbers.Real):
        raise ValueError(f"should be a number, not {shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"should be a finite number, not {value!r}")
    return value


def whole(value: Any) -> Any:
    """The same where a whole number is wanted: `8e3` is one, 0.5 is none."""
    value = number(value)
    if value != value // 1 or abs(value) > LARGEST:
        raise ValueError(f"should be a whole number, at most {LARGEST:,}, not {shown(value)}")
    return int(value) if isinstance(value, float) else value


LARGEST = 2**53
"""Largest whole number that is also a floating-point number: no count in a study comes near."""

MOST_STEPS = 10**12
"""Of a run; beyond any, as in `rlrs.schedules`."""
MOST = 1e6
"""Largest rate, factor or weight decay, as in records: beyond any use, and far from where floats end. Chosen here."""

Positive = Annotated[float, BeforeValidator(number), Field(gt=0)]
Factor = Annotated[float, BeforeValidator(number), Field(gt=0, le=MOST)]
"""A rate, or what a rate or a size is multiplied by."""
Decay = Annotated[float, BeforeValidator(number), Field(ge=0, le=MOST)]
"""A weight decay."""
BelowOne = Annotated[float, BeforeValidator(number), Field(ge=0, lt=1)]
"""A share of an average that is kept; at 1 nothing would ever come in."""
NonNegative = Annotated[float, BeforeValidator(number), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(number), Field(ge=0, le=1)]
Count = Annotated[int, BeforeValidator(whole), Field(ge=1)]
CountFrom0 = Annotated[int, BeforeValidator(whole), Field(ge=0)]
"""From 0 on."""


class Settings(BaseModel):
    """Base of all settings: frozen, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
