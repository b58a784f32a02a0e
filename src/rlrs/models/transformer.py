"""Decoder-only Transformer, dense or with a mixture of experts in every block.

Shape suffixes: B sequences, T tokens per sequence, N = B * T, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from rlrs.models.attention import Attention, rotary_table
from rlrs.models.feed_forward import FeedForward
from rlrs.models.language_model import LanguageModel, ModelOutput
from rlrs.models.loss import projected_cross_entropy
from rlrs.models.moe import MoE, Routing
from rlrs.models.norm import RMSNorm
from rlrs.settings import ModelConfig

NORM_EPS = 1e-6
"""Chosen here, not studied."""


class Block(nn.Module):
    """Attention, then feed-forward or experts; each on a normalised copy, added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, NORM_EPS)
        self.attention = Attention(config.d_model, config.n_heads)
        self.feed_forward_norm = RMSNorm(config.d_model, NORM_EPS)
        if config.n_experts:
            self.moe = MoE(
                config.d_model,
                config.hidden // config.granularity,
                config.routed_experts,
                config.capacity_factor,
                top_k=config.active_experts,
                normalise_gates=config.normalise_gates,
                shared_width=config.n_shared_experts * config.hidden,
            )
        else:
            self.feed_forward = FeedForward(config.d_model, config.hidden)
        self.sparse = config.n_experts > 0

    def forward(self, x_BTD: Tensor, table_T1P: Tensor) -> tuple[Tensor, Routing | None]:
        """The residual stream after this block, and what its router did."""
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), table_T1P)
        h_BTD = self.feed_forward_norm(x_BTD)
        if not self.sparse:
            return x_BTD + self.feed_forward(h_BTD), None
        y_BTD, routing = self.moe(h_BTD)
        return x_BTD + y_BTD, routing


class Transformer(LanguageModel):
    """Decoder-only language model: pre-norm RMSNorm, rotary positions, gated SiLU, no biases.

    Weights are drawn from a normal cut at two standard deviations of sqrt(init_scale / fan_in). The embedding's
    fan_in is 1 (a token picks one row), that of a tied table is D, since it is a projection too.

    Args:
        config: shape and initialisation.
        vocab_size: entries V of the vocabulary.
        generator: source of the initial weights; torch's global one if None.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, NORM_EPS)
        self.unembedding = nn.Linear(config.d_model, vocab_size, bias=False)
        if config.tie_embeddings:
            self.unembedding.weight = self.embedding.weight
        # Not a buffer: `.to(bfloat16)` would cut off the imaginary part, and DDP would broadcast it.
        self._table_T1P = rotary_table(0, config.d_model // config.n_heads, config.rope_theta)
        self._initialise(generator)

    @property
    def attention_width(self) -> int:
        """Width of the queries of all heads and layers together."""
        return self.config.n_layers * self.config.d_model

    @property
    def used_experts(self) -> Fraction:
        """Share of a block's routed experts that one token passes; 1 for a dense model."""
        return Fraction(self.config.top_k, self.config.n_experts) if self.config.n_experts else Fraction(1)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator | None) -> None:
        for name, weight in self.named_parameters():
            if weight.ndim == 1:
                continue  # norms start at 1
            if weight is self.embedding.weight:
                fan_in = self.config.d_model if self.config.tie_embeddings else 1
            else:  # nn.Linear is [out, in]; fused experts are [expert, in, out]
                fan_in = weight.shape[1]
            assert fan_in > 0, name
            std = math.sqrt(self.config.init_scale / fan_in)
            nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor | None = None) -> ModelOutput:
        """Predict each next token.

        Args:
            inputs_BT: token numbers, int64.
            targets_BT: the tokens that follow; with them the output has a loss, without them logits.
        """
        x_BTD = self.embedding(inputs_BT)
        table_T1P = self._table(inputs_BT.shape[1], inputs_BT.device)
        routings = []
        for block in self.blocks:
            x_BTD, routing = block(x_BTD, table_T1P)
            if routing is not None:
                routings.append(routing)
        x_BTD = self.norm(x_BTD)
        auxiliary = None
        if routings:
            balance = torch.stack([routing.load_balancing for routing in routings]).sum()
            z_loss = torch.stack([routing.z_loss for routing in routings]).sum()
            auxiliary = self.config.load_balancing * balance + self.config.z_loss * z_loss
        loss = logits_BTV = None
        if targets_BT is None:
            logits_BTV = self.unembedding(x_BTD)
        else:
            loss = projected_cross_entropy(
                x_BTD.flatten(0, 1), self.unembedding.weight, targets_BT.flatten(), masked=self.masked
            )
        return ModelOutput(loss=loss, auxiliary=auxiliary, logits=logits_BTV, routings=tuple(routings))

    def _table(self, length: int, device: torch.device) -> Tensor:
        """Rotary table of a length, kept and grown as longer sequences come."""
        if self._table_T1P.shape[0] < length or self._table_T1P.device != device:
            head_width = self.config.d_model // self.config.n_heads
            self._table_T1P = rotary_table(length, head_width, self.config.rope_theta, device)
        return self._table_T1P[:length]
