"""Numbers as people read them: losses in nats, savings in percent, counts, rates."""

from __future__ import annotations

import math

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


def number(value: float, spec: str) -> str:
    """A number in a format, with a true minus sign and no negative zero."""
    text = format(value, spec)
    if text.startswith("-") and not any(digit in text for digit in "123456789"):
        text = text[1:]
    return text.replace("-", MINUS)


def nats(value: float | None) -> str:
    """A loss in nats per token, three decimals; a dash where there is none."""
    return NONE if value is None or not math.isfinite(value) else number(value, ".3f")


def difference(value: float | None, digits: int = 4) -> str:
    """A difference of losses in nats per token, signed."""
    return NONE if value is None or not math.isfinite(value) else number(value, f"+.{digits}f")


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent."""
    return NONE if value is None or not math.isfinite(value) else f"{number(100 * value, f'.{digits}f')}%"


def share(value: float) -> str:
    """A part of a whole in percent; what is there, however small, is not shown as nothing."""
    return "<0.1%" if 0 < value < 0.0005 else percent(value)


def digits_for(low: float | None, high: float | None) -> int:
    """Decimals that an interval of shares warrants: one if it is narrower than four points, else none."""
    return 1 if low is not None and high is not None and high - low < 0.04 else 0


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return NONE if value is None else number(value, ",.0f")


def compact(value: float) -> str:
    """A large count with three digits: 2.05 M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{number(value / limit, '#.3g').rstrip('.')}\N{NO-BREAK SPACE}{unit}"
    return number(value, "g")


def rate(value: float | None) -> str:
    """A learning rate, three digits: 0.0056, 1.2e-5."""
    if value is None:
        return NONE
    mantissa, _, exponent = format(value, ".3g").partition("e")
    return number(float(mantissa), "g") + (f"e{number(int(exponent), 'd')}" if exponent else "")


def ratio(value: float) -> str:
    """A relative rate, four digits: 1.125."""
    return number(value, ".4g")
