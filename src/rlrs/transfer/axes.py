"""Sizes and horizons of a ladder as coordinates, of which only those are kept that the ladder can tell apart.

Shapes: R rungs, K axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Axis = Literal["width", "tokens", "depth"]
AXES: tuple[Axis, ...] = ("width", "tokens", "depth")
"""In the order in which they are taken up: of two that the ladder cannot tell apart, the first stands for both."""
_ALONE = 0.05
"""Least share of an axis's variance that the axes before it do not explain. Chosen here, not studied."""


@dataclass(frozen=True)
class Size:
    """One size and horizon.

    Args:
        width: of the model, `d_model`.
        depth: blocks.
        tokens: that a run is trained on.
    """

    width: float
    depth: float
    tokens: float

    def __post_init__(self) -> None:
        for axis in AXES:
            if not (value := getattr(self, axis)) > 0 or not math.isfinite(value):
                raise ValueError(f"{axis} should be a number above 0, not {value!r}")


@dataclass(frozen=True)
class Axes:
    """Natural logarithms of sizes, counted from the ladder's middle; see `identified`.

    Args:
        names: axes that the ladder tells apart.
        centre: of each, the mean of its logarithm over the rungs.
        left_out: axis -> why a law has no term for it.
    """

    names: tuple[Axis, ...]
    centre: Mapping[Axis, float]
    left_out: Mapping[Axis, str]

    def coordinates(self, size: Size) -> Array:
        """Of one size, [K]."""
        return np.array([math.log(getattr(size, name)) - self.centre[name] for name in self.names])


def identified(sizes: Sequence[Size]) -> Axes:
    """The axes that a ladder varies, and varies independently of those before.

    >>> axes = identified([Size(16, 2, 1e5), Size(32, 2, 1e5), Size(16, 2, 2e5), Size(32, 2, 2e5)])
    >>> axes.names, axes.left_out
    (('width', 'tokens'), {'depth': 'all rungs have a depth of 2'})

    Args:
        sizes: of the rungs, at least one.
    """
    names: list[Axis] = []
    left_out: dict[Axis, str] = {}
    taken = np.ones((len(sizes), 1))
    for axis in AXES:
        values_R = np.array([math.log(getattr(size, axis)) for size in sizes])
        varies = float(((values_R - values_R.mean()) ** 2).sum())
        if varies < 1e-9:
            left_out[axis] = f"all rungs have a {axis} of {getattr(sizes[0], axis):,.10g}"
            continue
        explained = taken @ np.linalg.lstsq(taken, values_R, rcond=None)[0]
        if float(((values_R - explained) ** 2).sum()) < _ALONE * varies:
            grows = " and ".join(names)
            left_out[axis] = f"on this ladder it goes with {grows}, whose slope stands for both"
            continue
        names.append(axis)
        taken = np.column_stack([taken, values_R])
    centre: dict[Axis, float] = {
        name: float(np.mean([math.log(getattr(size, name)) for size in sizes])) for name in names
    }
    return Axes(tuple(names), centre, left_out)
