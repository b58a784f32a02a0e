"""The machine that a study's plan and page reckon time and money for."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rlrs.messages import shown
from rlrs.settings.base import NonNegative, Positive, Settings


class TokensPerSecond(Settings):
    """Tokens that a machine trains on in a second, for each size of model."""

    proxy: Positive
    target: Positive


def _short(currency: str) -> str:
    if not re.fullmatch(r"\S{1,8}", currency):
        raise ValueError(f"should be one to eight characters without spaces, not {shown(currency)}")
    return currency


class MachineConfig(Settings):
    """A machine that runs of the target's kind are meant for, or rented for. Changes no result.

    Without it, no money is named anywhere.
    """

    name: Annotated[str, Field(min_length=1, max_length=80)] = "the described machine"
    price_per_hour: NonNegative
    """Of the whole machine; 0 for one that is paid for already."""
    currency: Annotated[str, AfterValidator(_short)] = "USD"
    """As it is to be written: USD, EUR, JPY."""
    flops_per_second: Positive | None = None
    """That it reaches in training, not its peak: 40 % of the peak is good for a large model."""
    tokens_per_second: TokensPerSecond | None = None
    """In place of `flops_per_second`, where the pace was measured: `{proxy: 2e6, target: 9e4}`."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.flops_per_second is None) == (self.tokens_per_second is None):
            raise ValueError("should have flops_per_second or tokens_per_second, one of the two")
        return self

    def hours(self, size: Literal["proxy", "target"] | str, tokens: float | None, flops: float | None) -> float | None:
        """Hours of so much training; None where what it is measured by is not known.

        Args:
            size: `proxy` or `target`.
            tokens: to train on.
            flops: that they take.

        Examples:
            >>> MachineConfig(price_per_hour=3, flops_per_second=4e14).hours("target", None, 7.2e17)
            0.5
        """
        if self.flops_per_second is not None:
            return None if flops is None else flops / self.flops_per_second / 3600
        assert self.tokens_per_second is not None
        return None if tokens is None else tokens / getattr(self.tokens_per_second, size) / 3600
