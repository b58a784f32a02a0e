"""When training cannot go on."""

from __future__ import annotations

import math
from collections.abc import Sequence

LOSS_LIMIT = 1.5
"""A loss above this multiple of ln(vocabulary), which a uniform guess has, is divergence; of the first step's loss
where that is more: loaded weights may be sure of what is wrong for a new text. Chosen here, not studied."""


class DivergedError(Exception):
    """Training cannot go on; the step (from 1) at which, why, and the loss or norm that is the reason."""

    def __init__(self, step: int, reason: str, value: float) -> None:
        super().__init__(reason)
        self.step, self.reason, self.value = step, reason, value


class LossLimit:
    """What a training loss may be at most.

    Args:
        asked: `training.loss_limit`; None for `LOSS_LIMIT`.
        vocab_size: entries of the vocabulary.
        loads: whether the run begins with loaded weights.
    """

    def __init__(self, asked: float | None, vocab_size: int, *, loads: bool) -> None:
        self._asked, self._uniform, self._loads = asked, math.log(vocab_size), loads

    def check(self, step: int, loss: float, losses: Sequence[float]) -> None:
        """See that a loss is within bounds.

        Args:
            step: from 1.
            loss: of the step, nats per token.
            losses: of the steps before.

        Raises:
            DivergedError: it is not.
        """
        first = losses[0] if losses else loss
        most = LOSS_LIMIT * (max(self._uniform, first) if self._loads and math.isfinite(first) else self._uniform)
        most = most if self._asked is None else self._asked
        if not loss <= most:  # written so that NaN does not pass
            limit = f"above the limit of {most:.4g}" if math.isfinite(loss) else "not a finite number"
            raise DivergedError(step, f"training loss {loss:.4g} nats per token is {limit}", loss)


def check_finite(step: int, what: str, value: float) -> None:
    """See that a loss or a norm is a number.

    Raises:
        DivergedError: it is not.
    """
    if not math.isfinite(value):
        raise DivergedError(step, f"{what} {value:.4g} is not a finite number", value)
