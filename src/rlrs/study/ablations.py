"""Ten ablations, each a short function from a finished study to what is run: variants of its runs, paired.

| kind | what is changed | against |
| --- | --- | --- |
| `u-plot` | one ratio of the arm, times each factor (the paper: 1/8 to 8) | the arm |
| `contribution` | uniform, with one component at the rates that the arm gives it | uniform |
| `removal` | the arm, with one component back at the rates that uniform gives it | the arm |
| `base-rate` | base rates on one grid for all arms | the strongest control at the same rate |
| `seeds` | nothing, on many seeds | the strongest control |
| `schedule` | the shape of the base schedule | the strongest control with the same shape |
| `horizon` | steps, each length with its own full schedule | the strongest control of the same length |
| `batch` | sequences a step, on the same tokens | the strongest control with the same batch |
| `weight-decay` | every arm's weight decay, times each factor | the strongest control with the same factor |
| `optimizer` | AdamW, or Muon for the matrices of hidden layers | the strongest control with the same optimizer |

A component's rates are its ratio times the base rate, and arms have base rates of their own. So `contribution` and
`removal` carry over *rates*: where two arms have one base schedule, that is the ratio itself, as in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlrs.comparison import judged_again
from rlrs.ratios import BASE
from rlrs.records import AblationKind, Recipe
from rlrs.schedules import relative_factor
from rlrs.search.space import AnySpec
from rlrs.settings import Arm, ConfigError, ScaleConfig
from rlrs.study.directory import StudyError
from rlrs.study.reopened import FinishedStudy

MULTIPLES = {"proxy": (1 / 8, 1 / 6, 1 / 4, 1 / 2, 2.0, 4.0, 6.0, 8.0), "target": (1 / 4, 1 / 2, 2.0, 4.0)}
"""Of a ratio, in a U-plot (the paper's)."""
FACTORS: dict[AblationKind, tuple[float, ...]] = {
    "base-rate": (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0),
    "horizon": (0.5, 1.0, 2.0),
    "batch": (0.5, 1.0, 2.0),
    "weight-decay": (1 / 4, 1 / 2, 1.0, 2.0, 4.0),
}
"""Where no others are given. Chosen here."""
SEEDS: dict[AblationKind, int] = {"u-plot": 2, "base-rate": 2, "seeds": 7}
"""Paired seeds where no number is given, 3 for the other kinds; 7 are the paper's."""
SHAPES = ("cosine", "linear", "wsd", "constant")
OPTIMIZERS = ("adamw", "muon")
"""Whose steps are of one size at one rate; rates of SGD are numbers of another size, and are left out."""


@dataclass(frozen=True)
class Variant:
    """One thing that is run on every seed.

    Args:
        series: what it belongs to: an arm, or a searched parameter.
        at: where in it, as it is written.
        x: the same as a number; None for what is none.
        scale: that it is trained at.
        spec: seed -> run.
        against: series and place of the variant that it is paired with.
    """

    series: str
    at: str
    x: float | None
    scale: ScaleConfig
    spec: Callable[[int], AnySpec]
    against: tuple[str, str] | None = None


class Bench:
    """A finished study as an ablation sees it.

    Args:
        opened: the study.
        model: that is trained.
        arm: whose ratios are looked at; the one that was decided for if None, `rlrs` where that has no ratios.
        factors: in the place of an ablation's own.

    Raises:
        StudyError: an arm that the study does not have.
    """

    def __init__(
        self,
        opened: FinishedStudy,
        model: Literal["proxy", "target"],
        arm: Arm | None = None,
        factors: Sequence[float] = (),
    ) -> None:
        assert opened.results.comparison is not None
        self.opened, self.model, self.factors = opened, model, tuple(factors)
        self.scale = opened.study.proxy if model == "proxy" else opened.study.target
        judged = judged_again(opened.results.comparison)
        self.arm: Arm = arm or ("rlrs" if judged.winner == "uniform" else judged.winner)
        if self.arm not in opened.results.arms:
            raise StudyError(f"no arm {self.arm!r} in this study; it has {', '.join(opened.results.arms)}")
        self.control: Arm = judged.strongest_below(self.arm) or "uniform"

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Uniform, the strongest control, and the arm that is looked at."""
        return tuple(dict.fromkeys(("uniform", self.control, self.arm)))

    def recipe(self, arm: Arm) -> Recipe:
        """What an arm has on the model that is trained, its base rate there as `lr`."""
        found, study = self.opened.results.arms[arm], self.opened.study
        if self.model == "target":
            assert found.recipe.target_lr is not None, "it was compared"
            return found.recipe.model_copy(update={"lr": found.recipe.target_lr})
        if found.search is None:  # the arm `constant` of older studies
            return found.recipe
        return Recipe.from_settings(study.training, study.search.lr).at(found.search.best)

    def variant(
        self,
        series: str,
        at: str,
        recipe: Recipe,
        *,
        x: float | None = None,
        against: tuple[str, str] | None = None,
        scale: ScaleConfig | None = None,
        training: Mapping[str, str] | None = None,
    ) -> Variant:
        """What a recipe is at a size, the model's own if None, with other settings of the training, if given."""
        size = scale or self.scale

        def spec(seed: int) -> AnySpec:
            run = self.opened.kind.spec(size, recipe, seed, lr=recipe.lr)
            window = max(1, round(run.training.score_steps * size.steps / self.scale.steps))
            return replace(run, training=run.training.model_copy(update={"score_steps": window, **(training or {})}))

        return Variant(series, at, x, size, spec, against)

    def over_arms(
        self,
        at: str,
        x: float | None,
        change: Callable[[Recipe], Recipe],
        scale: ScaleConfig | None = None,
        training: Mapping[str, str] | None = None,
    ) -> Iterator[Variant]:
        """Every arm with the same change, paired with the strongest control; that one with uniform."""
        for arm in self.arms:
            other: Arm = "uniform" if arm == self.control else self.control
            against = None if arm == "uniform" else (other, at)
            yield self.variant(
                *(arm, at, change(self.recipe(arm))), x=x, against=against, scale=scale, training=training
            )


def u_plot(bench: Bench) -> Iterator[Variant]:
    """One ratio at a time, the others as they are."""
    recipe, arm = bench.recipe(bench.arm), bench.arm
    _check_ratios(bench, recipe)
    yield bench.variant(arm, _times(1.0), recipe, x=1.0)
    for component, knots in recipe.ratios.items():
        for number, (progress, ratio) in enumerate(knots):
            for factor in bench.factors or MULTIPLES[bench.model]:
                moved = tuple((p, ratio * factor if n == number else r) for n, (p, r) in enumerate(knots))
                changed = recipe.model_copy(update={"ratios": {**recipe.ratios, component: moved}})
                name = f"{component}.{_part(progress)}"
                yield bench.variant(name, _times(factor), changed, x=factor, against=(arm, _times(1.0)))


def contribution(bench: Bench) -> Iterator[Variant]:
    """Uniform, and what one component's rates of the arm add to it."""
    yield from _exchanged(bench, bench.recipe("uniform"), bench.recipe(bench.arm), "uniform", "with")


def removal(bench: Bench) -> Iterator[Variant]:
    """The arm, and what it loses with one component back at the rates of uniform."""
    yield from _exchanged(bench, bench.recipe(bench.arm), bench.recipe("uniform"), bench.arm, "without")


def base_rate(bench: Bench) -> Iterator[Variant]:
    """All arms on one grid of base rates, around the middle of their own."""
    own = [bench.recipe(arm).lr for arm in bench.arms]
    middle = math.exp(math.fsum(map(math.log, own)) / len(own))
    for factor in bench.factors or FACTORS["base-rate"]:
        rate = float(f"{middle * factor:.3g}")
        yield from bench.over_arms(f"{rate:g}", rate, lambda recipe, lr=rate: recipe.model_copy(update={"lr": lr}))


def seeds(bench: Bench) -> Iterator[Variant]:
    """The comparison, on many seeds."""
    yield from bench.over_arms("as compared", None, lambda recipe: recipe)


def schedule(bench: Bench) -> Iterator[Variant]:
    """All arms under other shapes of the base schedule; final fraction and ratios as they were found."""
    for shape in SHAPES:
        changes = {"schedule": shape} | ({"final_fraction": 1.0} if shape == "constant" else {})
        yield from bench.over_arms(shape, None, lambda recipe, c=changes: recipe.model_copy(update=c))


def horizon(bench: Bench) -> Iterator[Variant]:
    """All arms for more steps and fewer."""
    for factor in bench.factors or FACTORS["horizon"]:
        steps = max(1, round(factor * bench.scale.steps))
        scale = bench.scale.model_copy(update={"steps": steps})
        yield from bench.over_arms(f"{steps}", float(steps), lambda recipe: recipe, scale)


def batch(bench: Bench) -> Iterator[Variant]:
    """All arms with larger batches and smaller ones, on the same tokens."""
    if bench.opened.study.trainer is not None:
        raise ConfigError("batch: the batch of a trainer of your own is not the study's to change")
    for factor in bench.factors or FACTORS["batch"]:
        size = max(1, round(factor * bench.scale.batch_size))
        steps = max(1, round(bench.scale.steps * bench.scale.batch_size / size))
        scale = bench.scale.model_copy(update={"batch_size": size, "steps": steps})
        yield from bench.over_arms(f"{size}", float(size), lambda recipe: recipe, scale)


def weight_decay(bench: Bench) -> Iterator[Variant]:
    """All arms with more weight decay and with less, of components that have their own too."""
    if not any(_decays(bench.recipe(arm)) for arm in bench.arms):
        raise ConfigError("weight-decay: the weight decay of this study is 0, and 0 times a factor is 0")
    for factor in bench.factors or FACTORS["weight-decay"]:
        yield from bench.over_arms(_times(factor), factor, lambda recipe, f=factor: _decayed(recipe, f))


def optimizer(bench: Bench) -> Iterator[Variant]:
    """All arms under AdamW, and with Muon for the matrices of hidden layers, at the same rates."""
    study = bench.opened.study
    if study.trainer is not None:
        raise ConfigError("optimizer: the optimizer of a trainer of your own is not the study's to change")
    if (own := study.training.optimizer) not in OPTIMIZERS:
        raise ConfigError(f"optimizer: rates that were tuned for {own} are of no use to {' or '.join(OPTIMIZERS)}")
    for name in OPTIMIZERS:
        yield from bench.over_arms(name, None, lambda recipe: recipe, training={"optimizer": name})


ABLATIONS: dict[AblationKind, Callable[[Bench], Iterator[Variant]]] = {
    "u-plot": u_plot,
    "contribution": contribution,
    "removal": removal,
    "base-rate": base_rate,
    "seeds": seeds,
    "schedule": schedule,
    "horizon": horizon,
    "batch": batch,
    "weight-decay": weight_decay,
    "optimizer": optimizer,
}


def _decays(recipe: Recipe) -> bool:
    return any((recipe.weight_decay, *recipe.component_weight_decay.values()))


def _decayed(recipe: Recipe, factor: float) -> Recipe:
    own = {component: float(f"{decay * factor:.6g}") for component, decay in recipe.component_weight_decay.items()}
    changes = {"weight_decay": float(f"{recipe.weight_decay * factor:.6g}"), "component_weight_decay": own}
    return recipe.model_copy(update=changes)


def _exchanged(bench: Bench, base: Recipe, donor: Recipe, name: Arm, word: str) -> Iterator[Variant]:
    """A recipe as it is, and with one component after another at the rates of another recipe."""
    _check_ratios(bench, bench.recipe(bench.arm))
    yield bench.variant(name, "whole", base)
    for component in bench.recipe(bench.arm).ratios:
        knots = _carried(component, donor, base, bench.scale.steps)
        changed = base.model_copy(update={"ratios": {**base.ratios, component: knots}})
        yield bench.variant(component, word, changed, against=(name, "whole"))


def _carried(component: str, donor: Recipe, base: Recipe, steps: int) -> tuple[tuple[float, float], ...]:
    """Ratios that give a component the donor's rates under another base schedule, at the donor's knots."""
    found = []
    for progress, ratio in donor.ratios.get(component, BASE.knots):
        theirs, mine = (_base(recipe, progress, steps) for recipe in (donor, base))
        found.append((progress, float(f"{ratio * theirs / mine:.6g}") if theirs and mine else ratio))
    return tuple(found)


def _base(recipe: Recipe, progress: float, steps: int) -> float:
    """The base rate at a knot; at the first one its peak, which is at the end of the warm-up."""
    plan = recipe.base_schedule(steps)
    step = round(plan.warmup_steps + progress * plan.decay_steps)
    return recipe.lr * relative_factor(plan, BASE.knots, step)


def _check_ratios(bench: Bench, recipe: Recipe) -> None:
    if not recipe.ratios:
        raise StudyError(f"the arm {bench.arm} has no ratios of components to look at; name another with --arm")


def _part(progress: float) -> str:
    return {0.0: "start", 1.0: "end"}.get(progress, f"{100 * progress:g}%")


def _times(factor: float) -> str:
    return f"x {factor:.3g}" if factor >= 1 else f"x 1/{1 / factor:.3g}"
