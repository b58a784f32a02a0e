"""What was measured of a run's tensors: one compact file, and the figures that it gives."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlrs.files import write_atomic

Array = NDArray[np.float64]

SUMS = ("gradient", "gradient_before", "product", "second_moment", "touched", "weight", "update")
"""What is kept of every row at every observation: sums over its numbers. Squares of the gradient, of the gradient a
step before, their product, Adam's second moment, rows with a gradient, squares of weights and of the update."""
_FORMAT = 1
_WINDOW = 5
"""Observations that signal and noise are averaged over: one product of gradients is mostly noise. Chosen here."""


class StatisticsError(ValueError):
    """A file of statistics that cannot be used; the message names it."""


@dataclass(frozen=True)
class Row:
    """A tensor, or one of the experts that are fused in it."""

    tensor: str
    """Its canonical name."""
    component: str
    layer: int
    """From 0; -1 outside of the layers."""
    layers: int
    """Of its tower; 0 where the model has none."""
    expert: int
    """From 0; -1 for a tensor that is not a stack of experts."""
    numbers: int
    """Trained numbers in it."""
    table_rows: int = 0
    """Rows of the vocabulary's table; 0 for what is none."""


@dataclass(frozen=True)
class RunStatistics:
    """Statistics of a run. Shapes: T observations, R rows.

    Args:
        rows: what was measured.
        steps: optimizer steps done at each observation [T].
        sums: by name of `SUMS` [T, R].
        row_counts: table -> observations in which each of its rows had a gradient.
        curvature_steps: where curvature was measured [C].
        curvatures: along the update [C, R].
    """

    rows: list[Row]
    steps: NDArray[np.int64]
    sums: dict[str, Array]
    row_counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    curvature_steps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    curvatures: Array = field(default_factory=lambda: np.zeros((0, 0)))

    # Figures, all [T, R]

    def gradient(self) -> Array:
        """Root mean square of the gradient's numbers."""
        return np.sqrt(self.sums["gradient"] / self._numbers())

    def update_ratio(self) -> Array:
        """Norm of the update over that of the weights; NaN where these are 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.sqrt(self.sums["update"] / self.sums["weight"])
        return np.where(self.sums["weight"] > 0, ratio, np.nan)

    def signal_to_noise(self) -> Array:
        """Squared mean gradient over the variance between batches, over five observations; 0 where no mean shows."""
        signal = _moving_sum(self.sums["product"])
        whole = _moving_sum((self.sums["gradient"] + self.sums["gradient_before"]) / 2)
        noise = whole - np.clip(signal, 0, None)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(noise > 0, np.clip(signal, 0, None) / noise, np.where(whole > 0, np.inf, 0.0))

    def second_moment(self) -> Array:
        """Mean of Adam's second moment; NaN under an optimizer that has none."""
        return self.sums["second_moment"] / self._numbers()

    def touched(self) -> Array:
        """Share of a table's rows with a gradient; NaN for what is no table."""
        rows = np.array([row.table_rows or np.nan for row in self.rows])
        return self.sums["touched"] / rows

    def trend(self) -> Array:
        """Slope of log gradient norm over log step, a number a row [R]: below 0 where gradients fade."""
        kept = np.log(np.clip(self.gradient(), 1e-30, None))
        at = np.log(self.steps.astype(np.float64))
        at = at - at.mean()
        spread = float(at @ at)
        return at @ (kept - kept.mean(0)) / spread if spread else np.zeros(len(self.rows))

    def _numbers(self) -> Array:
        return np.array([row.numbers for row in self.rows], dtype=np.float64)

    # The file

    def save(self, path: str | Path) -> None:
        """Write an .npz of compressed float32 arrays; whole or not at all.

        Raises:
            ValueError: another ending.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"{path}: the name of a file of statistics should end in .npz")
        head = {"format": _FORMAT, "rows": [asdict(row) for row in self.rows]}
        arrays: dict[str, Any] = {
            "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
            "steps": self.steps.astype(np.int64),
            "curvature_steps": self.curvature_steps.astype(np.int64),
            "curvatures": self.curvatures.astype(np.float32),
            **{f"sum.{name}": values.astype(np.float32) for name, values in self.sums.items()},
            **{f"count.{name}": counts.astype(np.int32) for name, counts in self.row_counts.items()},
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: str | Path) -> RunStatistics:
        """Read a file.

        Raises:
            StatisticsError: it is none, or damaged; one line that names it.
            OSError: it cannot be read.
        """
        content = Path(path).read_bytes()
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                head = json.loads(arrays["head"].tobytes())
                if head["format"] != _FORMAT:
                    raise StatisticsError(f"{path}: format {head['format']!r} should be {_FORMAT}: of another version")
                found = cls(
                    rows=[Row(**row) for row in head["rows"]],
                    steps=arrays["steps"],
                    sums={name: arrays[f"sum.{name}"].astype(np.float64) for name in SUMS},
                    row_counts={n.removeprefix("count."): arrays[n] for n in arrays.files if n.startswith("count.")},
                    curvature_steps=arrays["curvature_steps"],
                    curvatures=arrays["curvatures"].astype(np.float64),
                )
        except StatisticsError:
            raise
        except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise StatisticsError(f"{path}: not a file of statistics, or damaged ({type(error).__name__})") from None
        shape = (len(found.steps), len(found.rows))
        if not shape[0] or any(values.shape != shape for values in found.sums.values()):
            raise StatisticsError(f"{path}: damaged: its arrays should all be of shape {shape}")
        return found


FIGURES: dict[str, Callable[[RunStatistics], Array]] = {
    "gradient": RunStatistics.gradient,
    "update_ratio": RunStatistics.update_ratio,
    "signal_to_noise": RunStatistics.signal_to_noise,
    "second_moment": RunStatistics.second_moment,
}
"""Figures of every tensor, by name."""


def _moving_sum(values_TR: Array) -> Array:
    """Sums over the observations around each [T, R], fewer at the ends."""
    half = _WINDOW // 2
    padded = np.concatenate([np.zeros((1, values_TR.shape[1])), np.cumsum(values_TR, 0)])
    at = np.arange(len(values_TR))
    return padded[np.minimum(at + half + 1, len(values_TR))] - padded[np.maximum(at - half, 0)]
