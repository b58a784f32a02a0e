"""Gated feed-forward block (SwiGLU: Shazeer, 2020, arXiv:2002.05202).

Shape suffixes: D model width, F hidden width; other dimensions lead.
"""

from __future__ import annotations

from torch import Tensor, nn


def gated_silu(gate_up_2F: Tensor) -> Tensor:
    """`silu(gate) * up` of a tensor whose last dimension holds gate, then up; half as wide."""
    gate_F, up_F = gate_up_2F.chunk(2, dim=-1)
    return nn.functional.silu(gate_F) * up_F


class FeedForward(nn.Module):
    """`down(silu(gate(x)) * up(x))` for each token; gate and up in one projection, no biases.

    Args:
        d_model: width D.
        d_ff: hidden width F.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token; same shape as x."""
        return self.down(gated_silu(self.gate_up(x)))
