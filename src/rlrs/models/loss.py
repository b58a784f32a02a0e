"""Cross-entropy of a linear projection to the vocabulary, without ever holding all logits.

Shape suffixes: N tokens, C tokens of one chunk, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100
"""A target that is not learnt: the loss is over the others. Torch's own number for it."""
CHUNK = 256
"""Tokens per chunk: one megabyte of logits at a vocabulary of 1,024, which stays in the cache. Chosen here by timing
128 to 2,048 on one core: 256 was fastest or within noise, and 1.4 to 1.7 times faster than logits in memory."""
GPU_LOGITS = 2**28
"""Logits of a chunk on a GPU, one gigabyte: few and large products, and the weight's gradient is read and written as
often as there are chunks. Chosen here, not timed yet."""


def projected_cross_entropy(x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, *, masked: bool = False) -> Tensor:
    """Mean of `-log softmax(x W^T)[target]` over tokens, in nats; a scalar.

    With `masked`, targets may be `IGNORED`: the mean is over the others, and 0 where there are none.

    The gradient is computed chunk by chunk on the way forward, so logits live in the cache and are computed once.
    Under autocast products are of its dtype, and softmax and sums of fp32.
    """
    device = x_ND.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight_VD.dtype
    x_ND = x_ND.to(product)
    if torch.is_grad_enabled():
        loss = _ProjectedCrossEntropy.apply(x_ND, weight_VD, target_N, masked)
        assert isinstance(loss, Tensor)
        return loss
    C = _chunk(weight_VD)
    losses = [
        nn.functional.cross_entropy(
            nn.functional.linear(x_CD, weight_VD).to(weight_VD.dtype), target_C, reduction="sum"
        )
        for x_CD, target_C in zip(x_ND.split(C), target_N.split(C), strict=True)
    ]
    return torch.stack(losses).sum() / (_learnt(target_N) if masked else x_ND.shape[0])


def cross_entropy(logits_NV: Tensor, target_N: Tensor, *, masked: bool = False) -> Tensor:
    """The same from logits that are there."""
    if not masked:
        return nn.functional.cross_entropy(logits_NV, target_N)
    return nn.functional.cross_entropy(logits_NV, target_N, reduction="sum") / _learnt(target_N)


def _chunk(weight_VD: Tensor) -> int:
    """Tokens of a chunk."""
    return CHUNK if weight_VD.device.type == "cpu" else max(CHUNK, GPU_LOGITS // weight_VD.shape[0])


def _learnt(target_N: Tensor) -> Tensor:
    """How many targets are learnt; 1 where none is, so that their mean is 0."""
    return (target_N != IGNORED).sum().clamp(min=1)


class _ProjectedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_VD: Tensor, target_N: Tensor, masked: bool) -> Tensor:
        mixed = x_ND.dtype != weight_VD.dtype
        product_VD = weight_VD.to(x_ND.dtype)
        dx_ND, dweight_VD = torch.empty_like(x_ND), torch.zeros_like(weight_VD)
        total = weight_VD.new_zeros(())
        minus_one = weight_VD.new_full((1, 1), -1.0)
        with torch.autocast(x_ND.device.type, enabled=False):
            C = _chunk(weight_VD)
            for x_CD, target_C, dx_CD in zip(x_ND.split(C), target_N.split(C), dx_ND.split(C), strict=True):
                target_C1 = target_C[:, None]
                kept_C1 = (target_C1 != IGNORED).to(weight_VD.dtype) if masked else None
                target_C1 = target_C1.clamp(min=0) if masked else target_C1
                log_CV = torch.log_softmax((x_CD @ product_VD.T).to(weight_VD.dtype), dim=-1)
                own_C1 = log_CV.gather(1, target_C1)
                total -= (own_C1 if kept_C1 is None else own_C1 * kept_C1).sum()
                # The gradient of a token's loss with respect to its logits: softmax less one at the target.
                dlogits_CV = log_CV.exp_().scatter_add_(1, target_C1, minus_one.expand_as(target_C1))
                dlogits_CV = (dlogits_CV if kept_C1 is None else dlogits_CV.mul_(kept_C1)).to(x_ND.dtype)
                torch.mm(dlogits_CV, product_VD, out=dx_CD)
                if mixed:
                    dweight_VD += dlogits_CV.T @ x_CD
                else:
                    dweight_VD.addmm_(dlogits_CV.T, x_CD)
        ctx.save_for_backward(dx_ND, dweight_VD)
        ctx.tokens = _learnt(target_N) if masked else x_ND.shape[0]
        return total / ctx.tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dx_ND, dweight_VD = ctx.saved_tensors
        scale = gradients[0] / ctx.tokens
        return dx_ND * scale, dweight_VD * scale, None, None
