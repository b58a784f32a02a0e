"""`RelativeLR.step()` against `LambdaLR.step()` on the same groups, and `optimizer.step()` in groups against one group.

    python -m benchmarks.scheduler_step

The model has GPT-2 small's shapes (transformers, built from its config); AdamW is fused.
"""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import GPT2Config, GPT2LMHeadModel

import rlrs
from benchmarks.pairs import paired, summary, write

RATIOS = {"embedding": (5.0, 0.666), "attention": (1.0, 0.2), "feed_forward": (1.0, 0.6666)}
STEPS = 2_000


def scheduler_ratio() -> list[float]:
    def groups() -> list[dict]:
        names = ["embedding", "attention", "feed_forward", "norm", "position", "attention/no_decay"]
        return [
            {"name": n, "component": n.partition("/")[0], "params": [torch.nn.Parameter(torch.ones(1))], "lr": 1e-3}
            for n in names
        ]

    relative, plain = torch.optim.SGD(groups()), torch.optim.SGD(groups())
    relative.step(), plain.step()
    ours = rlrs.RelativeLR(relative, RATIOS, total_steps=10_000_000, warmup_steps=100)
    factors = [ours._curves[group["component"]] for group in plain.param_groups]
    theirs = LambdaLR(plain, [lambda t, f=factor: f(t) for factor in factors])
    relative.step(), plain.step()

    def steps(scheduler):
        def run() -> None:
            for _ in range(STEPS):
                scheduler.step()

        return run

    return paired(steps(ours), steps(theirs), rounds=31)


def optimizer_ratio() -> list[float]:
    torch.set_num_threads(2)
    models = [GPT2LMHeadModel(GPT2Config()) for _ in range(2)]
    for model in models:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 1e-3)
    # Both kinds on both models: where a model happens to lie in memory is worth some per cent.
    kinds = (
        [torch.optim.AdamW(rlrs.param_groups(m, RATIOS, lr=1e-3, weight_decay=0.1), fused=True) for m in models],
        [torch.optim.AdamW(m.parameters(), lr=1e-3, weight_decay=0.1, fused=True) for m in models],
    )

    def steps(optimizers):
        def run() -> None:
            for optimizer in optimizers:
                optimizer.step()

        return run

    return paired(*(steps(optimizers) for optimizers in kinds), rounds=151)


def main() -> None:
    rows = []
    for name, measure in (
        ("RelativeLR.step / LambdaLR.step", scheduler_ratio),
        ("AdamW.step, our groups / one group", optimizer_ratio),
    ):
        ratios = measure()
        rows.append({"what": name, **summary(ratios), "ratios": ratios})
        print(
            f"{name}: median {rows[-1]['median']:.3f} ({rows[-1]['lower_quartile']:.3f} to "
            f"{rows[-1]['upper_quartile']:.3f}, {len(ratios)} rounds)"
        )
    print(write("scheduler_step", rows))


if __name__ == "__main__":
    main()
