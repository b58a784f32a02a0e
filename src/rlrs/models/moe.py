"""Mixture of experts: each token goes to one expert (Switch: Fedus et al., 2021, arXiv:2101.03961) or to several.

Shape suffixes: B sequences, T tokens per sequence, N = B * T tokens, K experts that a token chooses, M = N * K choices
(token by token), D model width, F hidden width of an expert, E experts, C capacity of an expert in choices, S = E * C
slots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlrs.models.feed_forward import FeedForward, gated_silu


@dataclass(frozen=True, kw_only=True)
class Routing:
    """What one block's router did with a batch.

    Args:
        probabilities: of every token over the experts, [N, E], without gradient.
        tokens: how many chose each expert, [E], those beyond its capacity included; of all ranks together.
        capacity: tokens that an expert takes, of all ranks together; without a limit, all there are.
        load_balancing: `E * sum_e(share of tokens of e * mean probability of e)`, 1 when even (Fedus et al., eq. 4).
        z_loss: mean square of the router's log-sum-exp (Zoph et al., 2022, arXiv:2202.08906, eq. 5).
    """

    probabilities: Tensor
    tokens: Tensor
    capacity: int
    load_balancing: Tensor
    z_loss: Tensor


@dataclass(frozen=True, kw_only=True)
class RouterStatistics:
    """Means over a model's blocks, for logs.

    Args:
        load: share of the tokens' choices that an expert got, from a block's busiest expert to its idlest: the experts'
            own order means nothing across blocks. Sums to 1.
        dropped: share of the choices that were beyond an expert's capacity and had no effect.
        entropy: of the router's probabilities, in nats per token; ln(E) when it does not distinguish.
    """

    load: list[float]
    dropped: float
    entropy: float


def router_statistics(routings: Sequence[Routing]) -> RouterStatistics | None:
    """Average over blocks what their routers did; None for a model without routers."""
    if not routings:
        return None
    loads, dropped, entropies = [], [], []
    for routing in routings:
        choices = routing.tokens.sum()
        loads.append((routing.tokens / choices).sort(descending=True).values)
        dropped.append((routing.tokens - routing.capacity).clamp(min=0).sum() / choices)
        entropies.append(torch.special.entr(routing.probabilities).sum(-1).mean())
    return RouterStatistics(
        load=torch.stack(loads).mean(0).tolist(),
        dropped=torch.stack(dropped).mean().item(),
        entropy=torch.stack(entropies).mean().item(),
    )


def load_balancing(tokens_E: Tensor, probabilities_NE: Tensor, top_k: int = 1) -> Tensor:
    """`E * sum_e(share of choices of e * mean probability of e)`, a scalar: 1 when even (Fedus et al., eq. 4)."""
    N, E = probabilities_NE.shape
    return E / (N * top_k) * (tokens_E * probabilities_NE.mean(0)).sum()


class Experts(nn.Module):
    """All experts of a block as fused tensors, so that one batched product serves them all."""

    def __init__(self, n_experts: int, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(n_experts, d_model, 2 * d_ff))
        self.down = nn.Parameter(torch.empty(n_experts, d_ff, d_model))

    def forward(self, x_ECD: Tensor) -> Tensor:
        """Transform each expert's own tokens; same shape as x."""
        return torch.bmm(gated_silu(torch.bmm(x_ECD, self.gate_up)), self.down)

    def unequal(self, x_MD: Tensor, counts_E: Tensor) -> Tensor:
        """The same for tokens sorted by expert, of which each has its own number; same shape as x.

        The work is that of the tokens there are: one batched product would have to be padded to the busiest expert.
        Rows after the last expert's may have any values. On a GPU in bfloat16 the counts stay on the GPU. Elsewhere
        they are read, once, for one product per expert.
        """
        device = x_MD.device.type
        product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_MD.dtype
        if self._has_grouped_products(device, product):
            x_MD, gate_up, down = x_MD.to(product), self.gate_up.to(product), self.down.to(product)
            ends_E = counts_E.cumsum(0, dtype=torch.int32)
            h_MF = gated_silu(nn.functional.grouped_mm(x_MD, gate_up, offs=ends_E))
            return nn.functional.grouped_mm(h_MF, down, offs=ends_E)
        counts = counts_E.tolist()
        parts = zip(x_MD[: sum(counts)].split(counts), self.gate_up.unbind(), self.down.unbind(), strict=True)
        y_MD = torch.cat([gated_silu(x_CD @ gate_up) @ down for x_CD, gate_up, down in parts])
        return nn.functional.pad(y_MD, (0, 0, 0, len(x_MD) - len(y_MD))) if len(y_MD) < len(x_MD) else y_MD

    def _has_grouped_products(self, device: str, product: torch.dtype) -> bool:
        """Whether there is a kernel for products of unequal sizes; its rows are whole numbers of 16 bytes."""
        there = device == "cuda" and product == torch.bfloat16 and hasattr(nn.functional, "grouped_mm")
        return there and self.gate_up.shape[1] % 8 == 0 and self.down.shape[1] % 8 == 0


class _Rearrange(torch.autograd.Function):
    """Rows by index, where the index `rows` of x stands for a row of zeros.

    `index` and `inverse` undo each other on the rows that both keep. So the gradient is a gather as well, which is
    faster than the scatter-add of `index_select` and adds in no order that could vary.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return nn.functional.pad(x, (0, 0, 0, 1)).index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return nn.functional.pad(gradients[0], (0, 0, 0, 1)).index_select(0, inverse), None, None


class MoE(nn.Module):
    """Mixture of gated feed-forward experts.

    A token's output is the sum of its experts' outputs, each times its gate, and of the shared experts' outputs. Gates
    are the router's probabilities, or these divided by their sum. Choices beyond an expert's capacity, in the order of
    the batch, get zeros: they pass by the residual. First tokens go first, whichever of their choices it is: no token
    loses its place to a later one, as it would if all first choices went before all second ones (GShard: Lepikhin et
    al., 2020, arXiv:2006.16668).

    Args:
        d_model: width D.
        d_ff: hidden width F of one expert.
        n_experts: experts E.
        capacity_factor: capacity C as a multiple of the even share N * K / E, rounded up; None for no limit.
        top_k: experts K that a token chooses.
        normalise_gates: the gates of a token sum to 1.
        shared_width: hidden width of all shared experts together, which are computed as one.

    Where several ranks train one model, `group` is set, and the batch is that of all ranks, in their order: capacity
    and load-balancing loss are what one process would have (Qiu et al., 2025, arXiv:2501.11873, on balance over the
    global batch). Each rank still computes its own tokens with all experts.
    """

    group: dist.ProcessGroup | None = None

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        n_experts: int,
        capacity_factor: float | None,
        *,
        top_k: int = 1,
        normalise_gates: bool = False,
        shared_width: int = 0,
    ) -> None:
        super().__init__()
        self.n_experts = n_experts
        self.capacity_factor = capacity_factor
        self.top_k = top_k
        self.normalise_gates = normalise_gates
        self.router = nn.Linear(d_model, n_experts, bias=False)
        self.experts = Experts(n_experts, d_model, d_ff)
        self.shared_experts = FeedForward(d_model, shared_width) if shared_width else None

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Routing]:
        """Send each token through its experts; the output has the shape of x."""
        x_ND = x_BTD.flatten(0, 1)
        N, K = x_ND.shape[0], self.top_k
        probabilities_NE, log_sum_N = self._route(x_ND)
        gate_M, expert_M = self._choose(probabilities_NE)
        x_MD = x_ND if K == 1 else x_ND[:, None].expand(N, K, -1).flatten(0, 1)
        take = self._without_limit if self.capacity_factor is None else self._within_capacity
        y_MD, tokens_E, capacity = take(x_MD, expert_M)
        y_MD = y_MD * gate_M[:, None].type_as(y_MD)
        y_ND = y_MD if K == 1 else y_MD.view(N, K, -1).sum(1)
        if self.shared_experts is not None:
            y_ND = y_ND + self.shared_experts(x_ND)
        share_E = tokens_E if self.group is None else tokens_E / self.group.size()  # of a rank, all have as many tokens
        routing = Routing(
            probabilities=probabilities_NE.detach(),
            tokens=tokens_E,
            capacity=capacity,
            load_balancing=load_balancing(share_E, probabilities_NE, K),
            z_loss=log_sum_N.square().mean(),
        )
        return y_ND.view_as(x_BTD), routing

    def _choose(self, probabilities_NE: Tensor) -> tuple[Tensor, Tensor]:
        """Gate and expert of every choice, [M] both."""
        if self.top_k == 1:
            return probabilities_NE.max(-1)
        gate_NK, expert_NK = probabilities_NE.topk(self.top_k, dim=-1)
        if self.normalise_gates:
            gate_NK = gate_NK / gate_NK.sum(-1, keepdim=True)
        return gate_NK.flatten(), expert_NK.flatten()

    def _within_capacity(self, x_MD: Tensor, expert_M: Tensor) -> tuple[Tensor, Tensor, int]:
        """Outputs of the choices that have a place, zeros of the others; choices of each expert; its capacity."""
        M, E = x_MD.shape[0], self.n_experts
        assert self.capacity_factor is not None
        if self.group is not None:
            return self._within_capacity_of_ranks(x_MD, expert_M, self.group)
        C = min(math.ceil(self.capacity_factor * M / E), M // self.top_k)  # a token chooses it once
        slot_of_choice_M, choice_of_slot_S, tokens_E = assign(expert_M, E, C)
        x_SD = _Rearrange.apply(x_MD, choice_of_slot_S, slot_of_choice_M)
        y_SD = self.experts(x_SD.view(E, C, -1)).flatten(0, 1)
        return _Rearrange.apply(y_SD, slot_of_choice_M, choice_of_slot_S), tokens_E, C

    def _within_capacity_of_ranks(
        self, x_MD: Tensor, expert_M: Tensor, group: dist.ProcessGroup
    ) -> tuple[Tensor, Tensor, int]:
        """The same where the capacity is that of all ranks: how many of an expert's places are here, no shape says."""
        M, E = x_MD.shape[0], self.n_experts
        assert self.capacity_factor is not None
        all_M = M * group.size()
        capacity = min(math.ceil(self.capacity_factor * all_M / E), all_M // self.top_k)
        rank_M, mine_E = places(expert_M, E)
        before_E, tokens_E = counts_of_ranks(mine_E, group)
        kept_E = torch.minimum(mine_E, (capacity - before_E).clamp(min=0))
        # Those beyond capacity are sorted behind all experts, as the tokens of one more.
        owner_M = torch.where(rank_M <= kept_E[expert_M], expert_M, E)
        return self._sorted(x_MD, owner_M, kept_E), tokens_E, capacity

    def _without_limit(self, x_MD: Tensor, expert_M: Tensor) -> tuple[Tensor, Tensor, int]:
        """Outputs of all choices; choices of each expert; the number of choices there are."""
        mine_E = places(expert_M, self.n_experts)[1]
        tokens_E = mine_E if self.group is None else counts_of_ranks(mine_E, self.group)[1]
        ranks = 1 if self.group is None else self.group.size()
        return self._sorted(x_MD, expert_M, mine_E), tokens_E, len(expert_M) * ranks

    def _sorted(self, x_MD: Tensor, owner_M: Tensor, counts_E: Tensor) -> Tensor:
        """Outputs of the choices by their experts, of which each has its own number; zeros for owner E."""
        M = x_MD.shape[0]
        place_M = torch.arange(M, device=x_MD.device)
        order_M = owner_M.argsort(stable=True)
        slot_of_choice_M = torch.empty_like(order_M).index_copy_(0, order_M, place_M)
        kept_M = place_M < counts_E.sum()
        choice_of_slot_M = torch.where(kept_M, order_M, M)  # M is a row of zeros
        slot_of_choice_M = torch.where(owner_M < self.n_experts, slot_of_choice_M, M)
        y_MD = self.experts.unequal(_Rearrange.apply(x_MD, choice_of_slot_M, slot_of_choice_M), counts_E)
        return _Rearrange.apply(y_MD, slot_of_choice_M, choice_of_slot_M)

    def _route(self, x_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities [N, E] and log-sum-exp [N] of the router, always in fp32 (Fedus et al., section 2.4)."""
        with torch.autocast(x_ND.device.type, enabled=False):
            logits_NE = nn.functional.linear(x_ND.float(), self.router.weight.float())
        log_sum_N = logits_NE.logsumexp(-1)
        return (logits_NE - log_sum_N[:, None]).exp(), log_sum_N


def counts_of_ranks(mine_E: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """From this rank's counts, those of the ranks before it and of all ranks, both summed."""
    all_RE = [torch.empty_like(mine_E) for _ in range(group.size())]
    dist.all_gather(all_RE, mine_E, group=group)
    counts_RE = torch.stack(all_RE)
    return counts_RE[: group.rank()].sum(0), counts_RE.sum(0)


def places(expert_N: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """Which of its expert's tokens each token is, [N] from 1; how many each expert has, [E]."""
    # Not `bincount`: its size depends on values, which a GPU would have to be waited for.
    chosen_EN = expert_N == torch.arange(n_experts, device=expert_N.device)[:, None]
    rank_EN = chosen_EN.cumsum(1, dtype=torch.int32)
    return rank_EN.gather(0, expert_N[None])[0], rank_EN[:, -1]


def assign(expert_N: Tensor, n_experts: int, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give each token a slot of its expert, first come first served.

    Args:
        expert_N: chosen expert of each token.
        n_experts: experts E.
        capacity: slots C of an expert.

    Returns:
        slot of each token [N], S for a token beyond capacity; token of each slot [S], N for an empty slot; and how
        many tokens chose each expert [E].
    """
    N, S = expert_N.shape[0], n_experts * capacity
    device = expert_N.device
    rank_N, tokens_E = places(expert_N, n_experts)
    slot_of_token_N = torch.where(rank_N <= capacity, expert_N * capacity + rank_N - 1, S)
    # One slot more, where all tokens beyond capacity land and which is then cut off.
    token_of_slot = torch.full((S + 1,), N, device=device)
    token_of_slot.index_copy_(0, slot_of_token_N, torch.arange(N, device=device))
    return slot_of_token_N, token_of_slot[:S], tokens_E
