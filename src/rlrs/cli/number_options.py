"""Numbers on the command line: finite, within bounds that are said."""

from __future__ import annotations

import math
from collections.abc import Callable

import typer

from rlrs.messages import shown

MOST = 1e6
"""Largest rate or factor, as in settings."""


def above_zero(what: str, most: float = MOST) -> Callable[[str], float]:
    """A parser of a number above 0.

    Args:
        what: the number is, as a message names it.
        most: largest value.

    >>> above_zero("a rate")("3e-3")
    0.003
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 < value <= most:
            raise typer.BadParameter(f"{what} should be a number above 0, at most {most:,.0f}, not {shown(text)}")
        return value

    return parse
