"""`RelativeLR.step()` against a `LambdaLR` written by hand, and `optimizer.step()` in groups against one group.

    python -m benchmarks.scheduler_step

By hand is one closure per group over the same equation, with `math.cos` in it and nothing of ours: it finds no second
writer, no wrong pace and no changed groups. The optimizers of the first comparison hold one number per group, so that
the schedulers are what is timed; the model of the second has GPT-2 small's shapes, and its AdamW is fused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.optim.lr_scheduler import LambdaLR

import rlrs
from benchmarks.pairs import paired, summary, write

RATIOS = {"embedding": (5.0, 0.666), "attention": (1.0, 0.2), "feed_forward": (1.0, 0.6666), "unembedding": (1, 0.444)}
MOE = {"embedding": (5.0, 0.666), "attention": 1.0, "router": (0.666, 1.0), "experts": (0.3, 1.125), "unembedding": 0.6}
CASES = {
    "7 groups": (RATIOS, ["embedding", "attention", "feed_forward", "norm/no_decay", "unembedding"], 2),
    "12 groups": (MOE, ["embedding", "position", "attention", "router", "experts", "norm/no_decay", "unembedding"], 5),
}
"""Ratios, groups, and how many of the groups have biases, in a group of their own."""
STEPS = 1_000
TOTAL, WARMUP, ALPHA = 10_000_000, 100, 0.1


def groups(case: str, tensor: bool) -> list[dict]:
    _, names, biases = CASES[case]
    plain = [name for name in names if "/" not in name]
    return [
        {
            "name": name,
            "component": name.partition("/")[0],
            "params": [torch.nn.Parameter(torch.ones(1))],
            "lr": torch.tensor(1e-3) if tensor else 1e-3,
        }
        for name in [*names, *(f"{name}/no_decay" for name in plain[-biases:])]
    ]


def by_hand(start: float, end: float) -> Callable[[int], float]:
    def factor(t: int) -> float:
        if t < WARMUP:
            return start * (t + 1) / WARMUP
        if t >= TOTAL:
            return end
        return end + 0.5 * (start - end) * (1 + math.cos(math.pi * (t - WARMUP) / (TOTAL - WARMUP)))

    return factor


def scheduler_ratio(case: str, tensor: bool) -> list[float]:
    relative, plain = torch.optim.SGD(groups(case, tensor)), torch.optim.SGD(groups(case, tensor))
    ratios = rlrs.Ratios(CASES[case][0])
    ours = rlrs.RelativeLR(relative, ratios, total_steps=TOTAL, warmup_steps=WARMUP, final_fraction=ALPHA)
    pairs = [ratios.get(group["component"], rlrs.Ratio.of(1.0)) for group in plain.param_groups]
    theirs = LambdaLR(plain, [by_hand(ratio.start, ALPHA * ratio.end) for ratio in pairs])
    plain.step()
    ticks = ours._pace.ticks[0]

    def relative_steps() -> None:
        for _ in range(STEPS):
            ticks.steps = 1  # what the hook of an optimizer's step does, which is not timed here
            ours.step()

    def plain_steps() -> None:
        for _ in range(STEPS):
            theirs.step()

    timed = paired(relative_steps, plain_steps, rounds=41)
    for mine, other in zip(relative.param_groups, plain.param_groups, strict=True):
        assert math.isclose(mine["lr"], other["lr"], rel_tol=1e-6), (mine, other)
    return timed


def optimizer_ratio() -> list[float]:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.set_num_threads(2)
    models = [GPT2LMHeadModel(GPT2Config()) for _ in range(2)]
    ratios = {name: ratio for name, ratio in RATIOS.items() if name != "unembedding"}  # tied
    for model in models:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
    # Both kinds on both models: where a model happens to lie in memory is worth some per cent.
    kinds = (
        [torch.optim.AdamW(rlrs.param_groups(m, ratios, lr=1e-3, weight_decay=0.1), fused=True) for m in models],
        [torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.1, fused=True) for m in models],
    )

    def steps(optimizers):
        def run() -> None:
            for optimizer in optimizers:
                optimizer.step()

        return run

    return paired(*(steps(optimizers) for optimizers in kinds), rounds=51)


def measured(name: str, measure: Callable[..., list[float]], *arguments: object) -> dict:
    ratios = measure(*arguments)
    row = {"what": name, **summary(ratios), "ratios": ratios}
    print(
        f"{name}: median {row['median']:.3f} ({row['lower_quartile']:.3f} to {row['upper_quartile']:.3f}, "
        f"{len(ratios)} rounds)",
        flush=True,
    )
    return row


def main() -> None:
    rows = [
        measured(
            f"RelativeLR.step / LambdaLR.step by hand, {case}, {kind} rates", scheduler_ratio, case, kind == "tensor"
        )
        for case in CASES
        for kind in ("float", "tensor")
    ]
    print(write("scheduler_step", rows))
    print(write("optimizer_step", [measured("AdamW.step, our groups / one group", optimizer_ratio)]))


if __name__ == "__main__":
    main()
