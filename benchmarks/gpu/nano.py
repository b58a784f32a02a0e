"""The dense model in the least code, as nanoGPT has it: torch's own modules, whole logits, no metrics.

Shape suffixes: B sequences, T tokens per sequence, D model width, H heads, K width of a head, F hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

from benchmarks.speed.shapes import Shape
from rlrs.settings import ModelConfig


def _norm(x: Tensor, weight_D: Tensor) -> Tensor:
    # Written out: `torch.func.vmap` knows every operation of it.
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight_D


class _Layer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, F = config.d_model, config.hidden
        self.heads = config.n_heads
        self.norm_1, self.norm_2 = nn.Parameter(torch.ones(D)), nn.Parameter(torch.ones(D))
        self.query_key_value, self.output = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.gate_up, self.down = nn.Linear(D, 2 * F, bias=False), nn.Linear(F, D, bias=False)

    def forward(self, x_BTD: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
        B, T, D = x_BTD.shape

        def heads(part_BTD: Tensor) -> Tensor:
            return part_BTD.view(B, T, self.heads, D // self.heads).transpose(1, 2)

        def turned(x_BHTK: Tensor) -> Tensor:
            first, second = x_BHTK.chunk(2, dim=-1)
            return x_BHTK * cos_TK.type_as(x_BHTK) + torch.cat((-second, first), -1) * sin_TK.type_as(x_BHTK)

        q, k, v = map(heads, self.query_key_value(_norm(x_BTD, self.norm_1)).split(D, dim=-1))
        mixed_BHTK = scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
        x_BTD = x_BTD + self.output(mixed_BHTK.transpose(1, 2).reshape(B, T, D))
        gate, up = self.gate_up(_norm(x_BTD, self.norm_2)).chunk(2, dim=-1)
        return x_BTD + self.down(silu(gate) * up)


class NanoModel(nn.Module):
    """Shapes of `rlrs.models.Transformer` without experts: pre-norm, rotary positions, gated SiLU, no biases."""

    cos_TK: Tensor  # noqa: N815
    sin_TK: Tensor  # noqa: N815

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        config = shape.model
        self.embedding = nn.Embedding(shape.vocabulary, config.d_model)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.n_layers))
        self.norm = nn.Parameter(torch.ones(config.d_model))
        self.unembedding = nn.Linear(config.d_model, shape.vocabulary, bias=False)
        width = config.d_model // config.n_heads
        pairs = config.rope_theta ** (-torch.arange(0, width, 2) / width)
        angles_TK = torch.outer(torch.arange(shape.length), pairs).repeat(1, 2)
        self.register_buffer("cos_TK", angles_TK.cos())
        self.register_buffer("sin_TK", angles_TK.sin())
        for weight in self.parameters():
            if weight.ndim > 1:
                nn.init.normal_(weight, std=0.02)

    def forward(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Mean cross-entropy of the next tokens, nats."""
        x_BTD = self.embedding(inputs_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, self.cos_TK, self.sin_TK)
        logits_BTV = self.unembedding(_norm(x_BTD, self.norm))
        return cross_entropy(logits_BTV.float().flatten(0, 1), targets_BT.flatten())
