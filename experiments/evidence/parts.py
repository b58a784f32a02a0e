"""The parts of the evidence: which runs answer which question, on small models of two cores.

A grid is a list of runs whose settings are known beforehand; a study is a search, a transfer and a comparison, run by
`rlrs run`. Grids have the proxy of `configs/demo.yaml`, and its arms as the committed study found them on it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from rlrs.data import TokenData
from rlrs.inspection import meta_model
from rlrs.models import count_parameters
from rlrs.ratios import Ratios
from rlrs.settings import DataConfig, ModelConfig, StudyConfig, load_study
from rlrs.training import RunSpec

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "experiments" / "demo" / "demo.json"
SEEDS = (1001, 1002, 1003)
"""Of weights and data order, which no search has seen."""
RATES = tuple(round(2e-3 * 2 ** (k / 2), 7) for k in range(14))
"""From 2e-3 to 0.18, in steps of the root of two."""
MULTIPLES = (1 / 8, 1 / 4, 1 / 2, 2.0, 4.0, 8.0)
"""Of one ratio, the others as they were found (the paper has 1/8, 1/6, 1/4, 1/2, 2, 4, 6, 8)."""
TOKENS_PER_ACTIVE = (1, 4, 20)
AROUND = (0.5, 1.0, 2.0)
"""Of an arm's base rate, where a horizon or a batch is another one."""


@dataclass(frozen=True)
class GridRun:
    """A run of a grid.

    Args:
        arm: whose it is.
        what: was changed, in words; "" for the arm as it was found.
        spec: the run.
    """

    arm: str
    what: str
    spec: RunSpec


@dataclass(frozen=True)
class Part:
    """A part of the evidence.

    Args:
        name: on the command line.
        question: that it answers.
        paper: what the paper reports of it.
        grid: its runs, from the tokens of `demo`; None of a study.
        study: its settings; None of a grid.
    """

    name: str
    question: str
    paper: str
    grid: Callable[[TokenData], Iterator[GridRun]] | None = None
    study: Callable[[], StudyConfig] | None = None


@cache
def demo() -> StudyConfig:
    """The study whose proxy the grids have."""
    return load_study(ROOT / "configs" / "demo.yaml")


def data_config() -> DataConfig:
    """The text of the grids."""
    return demo().data


@cache
def recipes() -> dict[str, dict[str, Any]]:
    """Arm -> base rate, final fraction and ratios on the proxy: as found there, and the paper's preset."""
    found = {arm: entry["recipe"] for arm, entry in json.loads(DEMO.read_text())["arms"].items()}
    paper = Ratios.preset("paper-moe")
    knots = {name: list(map(list, ratio.knots)) for name, ratio in paper.items()}
    return {
        "uniform": found["uniform"],
        "embedding only": found["embedding_only"],
        "relative": found["rlrs"],
        "paper's ratios": {"lr": 8e-3, "final_fraction": 0.044444, "ratios": knots},
    }


def proxy_run(arm: str, data: TokenData, seed: int, **changes: Any) -> RunSpec:
    """A run of an arm on the proxy as it was found, with fields of `RunSpec` to change."""
    study, recipe = demo(), recipes()[arm]
    ratios = {name: [(at, ratio) for at, ratio in knots] for name, knots in recipe["ratios"].items()}
    assert isinstance(study.proxy.model, ModelConfig)
    run = RunSpec(
        model=study.proxy.model,
        training=study.training.model_copy(update={"dtype": "float32"}),
        steps=study.proxy.steps,
        batch_size=study.proxy.batch_size,
        seed=seed,
        lr=recipe["lr"],
        final_fraction=recipe["final_fraction"],
        ratios=ratios,
        data_hash=data.hash,
    )
    return replace(run, **changes)


def rates(data: TokenData) -> Iterator[GridRun]:
    """Every arm at every base rate; seed by seed, so that a part of them is a whole curve."""
    for seed in SEEDS:
        for lr in RATES:
            for arm in recipes():
                yield GridRun(arm, f"base rate {lr:g}", proxy_run(arm, data, seed, lr=lr))


def _moved(run: RunSpec, component: str, start: float, end: float) -> RunSpec:
    """A run with both ends of one component's ratio multiplied."""
    knots = run.ratios[component]
    first, *between, last = knots
    moved = [(first[0], first[1] * start), *between, (last[0], last[1] * end)]
    return replace(run, ratios={**run.ratios, component: moved})


def u_plots(data: TokenData) -> Iterator[GridRun]:
    """One end of one ratio at a time, the others as they were found."""
    for seed in SEEDS:
        base = proxy_run("relative", data, seed)
        yield GridRun("relative", "", base)
        for component in base.ratios:
            for times in MULTIPLES:
                yield GridRun("relative", f"{component}.start x {times:g}", _moved(base, component, times, 1))
                yield GridRun("relative", f"{component}.end x {times:g}", _moved(base, component, 1, times))


def contribution(data: TokenData) -> Iterator[GridRun]:
    """Uniform with one component's pair, and relative with one component put back to 1."""
    for seed in SEEDS:
        relative, uniform = proxy_run("relative", data, seed), proxy_run("uniform", data, seed)
        yield GridRun("relative", "", relative)
        yield GridRun("uniform", "", uniform)
        for component, knots in relative.ratios.items():
            rest = {name: other for name, other in relative.ratios.items() if name != component}
            yield GridRun("uniform", f"with {component}", replace(uniform, ratios={component: knots}))
            yield GridRun("relative", f"without {component}", replace(relative, ratios=rest))


def _around(data: TokenData, what: str, **changes: Any) -> Iterator[GridRun]:
    for arm in ("uniform", "embedding only", "relative"):
        for times in AROUND:
            for seed in SEEDS:
                run = proxy_run(arm, data, seed, lr=recipes()[arm]["lr"] * times, **changes)
                yield GridRun(arm, f"{what}, base rate x {times:g}", run)


def horizons(data: TokenData) -> Iterator[GridRun]:
    """The arms at 1, 4 and 20 tokens per active parameter, base rates around the one that was found."""
    active = count_parameters(meta_model(demo().proxy.model, data.vocab_size)).active
    tokens_per_step = demo().proxy.batch_size * data.sequence_length
    for ratio in TOKENS_PER_ACTIVE:
        steps = round(ratio * active / tokens_per_step)
        yield from _around(data, f"{ratio} tokens per active parameter", steps=steps)


def batch(data: TokenData) -> Iterator[GridRun]:
    """The arms with four times the batch, as many steps."""
    yield from _around(data, "4 times the batch", batch_size=4 * demo().proxy.batch_size)


def saved(kind: str, optimizer: str, scale: float | None = None, seeds: int = 8) -> StudyConfig:
    """A study with paired seeds: `kind` moe or dense, AdamW or Muon; the target so many times the proxy."""
    plain = demo().model_dump(mode="json", exclude_unset=True)
    plain["name"] = f"saved-{kind}-{optimizer}" if scale is None else f"transfer-{scale:g}x"
    plain["training"]["optimizer"] = optimizer
    more = ["per_optimizer"] if optimizer == "muon" else []
    plain["comparison"] = {"arms": ["uniform", *more, "embedding_only", "constant", "rlrs"], "seeds": seeds}
    if kind == "dense":
        plain["search"]["start"] = "paper-dense"
        for size in ("proxy", "target"):
            plain[size]["model"].pop("n_experts")
    if scale is not None:
        plain["target"] = {"scale": scale, "steps": plain["target"]["steps"], "batch_size": 8}
    return StudyConfig(**plain)


PARTS = (
    Part(
        "rates",
        "How does the loss of each arm on the proxy depend on its base rate, and how often does a run diverge?",
        "base-rate grids of both, at three sizes",
        grid=rates,
    ),
    *(
        Part(
            f"saved-{kind}-{optimizer}",
            f"Steps saved at equal loss, {kind}, {optimizer}: 8 paired seeds against every simpler arm",
            "up to 23 % (mixture of experts, AdamW); smaller for dense" if optimizer == "adamw" else "-",
            study=partial(saved, kind, optimizer),
        )
        for kind in ("moe", "dense")
        for optimizer in ("adamw", "muon")
    ),
    *(
        Part(
            f"transfer-{scale}x",
            f"Steps saved at {scale} times the parameters, ratios unchanged, base rates tuned equally: {seeds} seeds",
            "23 % at 27x, ratios unchanged" if scale == 27 else "-",
            study=partial(saved, "moe", "adamw", scale, seeds),
        )
        for scale, seeds in ((3, 4), (9, 4), (27, 3))
    ),
    Part(
        "u-plots",
        "How does the loss depend on each single ratio, the others as they were found?",
        "one plot per ratio, at two sizes",
        grid=u_plots,
    ),
    Part(
        "contribution",
        "What does one component's pair give alone, and what is lost without it?",
        "both, at the proxy",
        grid=contribution,
    ),
    Part(
        "horizons",
        "Is the gain there at 1, 4 and 20 tokens per active parameter?",
        "10,240 to 50,000 steps",
        grid=horizons,
    ),
    Part("batch", "Is the gain there at four times the batch?", "-", grid=batch),
)
