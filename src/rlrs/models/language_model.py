"""The contract between a language model and a trainer.

Shape suffixes: B sequences, T tokens per sequence, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from torch import Tensor, nn

from rlrs.models.moe import Routing


@dataclass(frozen=True, kw_only=True)
class ModelOutput:
    """What a forward pass gives.

    Args:
        loss: cross-entropy in nats per token; None without targets.
        auxiliary: the routers' losses times their weights, summed over blocks; None for a dense model.
        logits: scores of the next token, [B, T, V]; None with targets, since they are then never held at once.
        routings: one per block of a mixture of experts; see `rlrs.models.router_statistics`.
    """

    loss: Tensor | None
    auxiliary: Tensor | None
    logits: Tensor | None
    routings: tuple[Routing, ...]

    @property
    def objective(self) -> Tensor:
        """What training minimises: the loss and the routers' losses together."""
        assert self.loss is not None, "a forward pass without targets has no loss"
        return self.loss if self.auxiliary is None else self.loss + self.auxiliary


class LanguageModel(nn.Module):
    """A model that a trainer trains and that can be counted; `build_model` makes one from settings."""

    vocab_size: int
    masked: bool = False
    """Whether targets may be -100, which are not learnt; a trainer says it of its data."""

    @property
    def attention_width(self) -> int:
        """Width of the queries of all heads and layers together."""
        raise NotImplementedError

    @property
    def used_experts(self) -> Fraction:
        """Share of a block's routed experts that one token passes; 1 for a dense model."""
        raise NotImplementedError

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor | None = None) -> ModelOutput:
        """Predict each next token.

        Args:
            inputs_BT: token numbers, int64.
            targets_BT: the tokens that follow; with them the output has a loss, without them logits.
        """
        raise NotImplementedError
