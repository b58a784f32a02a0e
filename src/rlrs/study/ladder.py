"""The ladder of a study: its rungs as sizes to train, and what they cost beside one run of the target."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from rlrs.data import vocabulary_size
from rlrs.inspection import meta_model
from rlrs.messages import shown
from rlrs.models import at_width, ladder, size_steps, training_flops
from rlrs.records.frozen import first_problem
from rlrs.settings import ConfigError, HubConfig, ModelConfig, ScaleConfig, StudyConfig
from rlrs.study.trainer_checks import own_size
from rlrs.transfer import Size, fewest_rungs, identified

FEWEST_TRIALS = 8
"""Of an arm on a rung: below that a search has not moved. Chosen here."""


@dataclass(frozen=True)
class PlannedRung:
    """A size at a horizon.

    Args:
        name: WIDTHxDEPTH-STEPS.
        scale: what is trained.
        size: the same as a law takes it.
        cost: of one run, in FLOPs; None where a trainer of the user's own does not say enough.
        is_proxy: whether it is the study's proxy, which is searched anyway.
    """

    name: str
    scale: ScaleConfig
    size: Size
    cost: float | None
    is_proxy: bool


@dataclass(frozen=True)
class LadderPlan:
    """What a ladder trains.

    Args:
        rungs: the proxy among them, smallest first.
        target: the target as a rung, which is not trained.
        trials: runs of each arm on each rung but the proxy.
        share: its whole cost over one run of the target's, both in FLOPs; None where that is not known.
    """

    rungs: tuple[PlannedRung, ...]
    target: PlannedRung
    trials: int
    share: float | None


def plan_ladder(study: StudyConfig) -> LadderPlan:
    """The rungs of a resolved study that has a ladder, and how many trials its share pays for.

    Raises:
        ConfigError: a size that cannot be made or is no smaller than the target, too few sizes to tell anything, a cost
            above the share.
    """
    settings = study.ladder
    assert settings is not None
    proxy, target = (_rung(study, scale, name) for name, scale in (("proxy", study.proxy), ("target", study.target)))
    rungs = {_key(proxy.scale): _named(proxy, is_proxy=True)}
    for number, size in enumerate(settings.sizes):
        where = f"ladder.sizes.{number}"
        scale = _scaled(study, size, where)
        for steps in settings.horizons:
            rung = _rung(study, scale.model_copy(update={"steps": steps}), where)
            _check_below(rung, target, where)
            rungs.setdefault(_key(rung.scale), rung)
    found = tuple(sorted(rungs.values(), key=lambda rung: (rung.cost or 0.0, rung.name)))
    axes = identified([rung.size for rung in found])
    if "width" not in axes.names or "tokens" not in axes.names or len(found) < fewest_rungs(axes):
        raise ConfigError(
            "ladder: should have three widths or more, each at two horizons or more, for a law to be told"
        )
    trials, share = _affordable(study, found, target)
    return LadderPlan(found, target, trials, share)


def width_growth(study: StudyConfig) -> float:
    """The target's width over the proxy's, for `transfer.mode`."""
    proxy, target = (_shape(study, scale)[0] for scale in (study.proxy, study.target))
    return target / proxy


def _affordable(study: StudyConfig, rungs: tuple[PlannedRung, ...], target: PlannedRung) -> tuple[int, float | None]:
    settings, arms = study.ladder, len(study.comparison.arms)
    assert settings is not None
    wanted = settings.trials or study.search.trials
    costs = [rung.cost for rung in rungs]
    if target.cost is None or None in costs:
        if settings.trials is None:
            raise ConfigError(
                "ladder.trials is missing: what a run of your trainer costs is not known (trainer.model and the tokens "
                "of a step would say), so no share can be kept"
            )
        return wanted, None
    searched = sum(rung.cost or 0.0 for rung in rungs if not rung.is_proxy)
    measured = settings.seeds * sum(cost or 0.0 for cost in costs)

    def share(trials: int) -> float:
        return arms * (trials * searched + measured) / (target.cost or math.inf)

    if settings.trials is None:
        paid = math.floor((settings.share * target.cost / arms - measured) / searched)
        wanted = min(wanted, paid)
    if share(max(wanted, FEWEST_TRIALS)) > settings.share * (1 + 1e-9):
        least = share(settings.trials or FEWEST_TRIALS)
        raise ConfigError(
            f"ladder: costs {least:.3g} runs of the target with {settings.trials or FEWEST_TRIALS} trials for each of "
            f"{arms} arms on {len(rungs)} rungs, more than ladder.share={settings.share:g}: fewer or smaller sizes, "
            "shorter horizons, fewer arms, or a larger share"
        )
    if wanted < FEWEST_TRIALS:
        raise ConfigError(f"search.trials: {wanted} should be {FEWEST_TRIALS} or more for a ladder")
    return wanted, share(wanted)


def _check_below(rung: PlannedRung, target: PlannedRung, where: str) -> None:
    for axis in ("width", "depth", "tokens"):
        here, there = getattr(rung.size, axis), getattr(target.size, axis)
        if here > there:
            words = f"ladder.horizons: {rung.scale.steps} steps are" if axis == "tokens" else f"{where}: is"
            raise ConfigError(f"{words} above the target's {axis}: {here:,.10g}, should be at most {there:,.10g}")
    if rung.size == target.size:
        raise ConfigError(f"{where}: is the target itself, at {rung.scale.steps} steps: a ladder is below it")


def _scaled(study: StudyConfig, size: Any, where: str) -> ScaleConfig:
    """The proxy at another size."""
    proxy = study.proxy
    if study.trainer is not None:
        if unknown := set(size) - set(proxy.set or {}):
            raise ConfigError(f"{where}: {shown(min(unknown))} is not in proxy.set")
        return proxy.model_copy(update={"set": {**(proxy.set or {}), **size}})
    try:
        if not isinstance(size, dict):
            return proxy.model_copy(update={"model": ladder(proxy.model, size).config})
        return proxy.model_copy(update={"model": _with(proxy.model, size)})
    except ValidationError as error:
        raise ConfigError(f"{where}: {first_problem(error)}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (RuntimeError, OverflowError) as error:  # sizes whose product no tensor can have
        raise ConfigError(f"{where}: cannot be built: {shown(str(error), 200)}") from None


def _with(model: ModelConfig | HubConfig, changes: Mapping[str, Any]) -> ModelConfig | HubConfig:
    """The proxy's model with what a size names in its place; heads follow a width that comes without them."""
    if isinstance(model, HubConfig):
        return HubConfig.model_validate({**model.model_dump(), "overrides": {**model.overrides, **changes}})
    if "d_model" in changes and "n_heads" not in changes:
        width = at_width(model, changes["d_model"])
        assert isinstance(width, ModelConfig)
        model = width
    return ModelConfig.model_validate({**model.model_dump(), **changes})


def _rung(study: StudyConfig, scale: ScaleConfig, where: str) -> PlannedRung:
    width, depth = _shape(study, scale)
    name = f"{width:.10g}x{depth:.10g}-{scale.steps}"
    try:
        cost, tokens = _costs(study)(scale)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (RuntimeError, OverflowError) as error:
        raise ConfigError(f"{where}: cannot be built: {shown(str(error), 200)}") from None
    return PlannedRung(name, scale, Size(width, depth, tokens), cost, False)


def _named(rung: PlannedRung, *, is_proxy: bool) -> PlannedRung:
    return PlannedRung(rung.name, rung.scale, rung.size, rung.cost, is_proxy)


def _shape(study: StudyConfig, scale: ScaleConfig) -> tuple[float, float]:
    """Width and depth."""
    if study.trainer is None:
        units, unit, layers = size_steps(scale.model)
        return units * unit, layers
    values, trainer = scale.set or {}, study.trainer
    found = [values.get(name) if name else None for name in (trainer.width, trainer.depth)]
    width, depth = (
        float(v) if isinstance(v, int | float) and not isinstance(v, bool) and v > 0 else 1.0 for v in found
    )
    return width, depth


def _costs(study: StudyConfig) -> Callable[[ScaleConfig], tuple[float | None, float]]:
    """FLOPs and tokens of one run of a size; tokens that a trainer of the user's own does not say are its steps."""

    def reference(scale: ScaleConfig) -> tuple[float | None, float]:
        model = meta_model(scale.model, vocabulary_size(study.data))
        tokens = scale.steps * scale.batch_size * study.data.sequence_length
        return float(training_flops(model, study.data.sequence_length)) * tokens, float(tokens)

    def own(scale: ScaleConfig) -> tuple[float | None, float]:
        assert study.trainer is not None
        tokens = float(scale.steps * (scale.tokens or 1))
        parameters = own_size(study.trainer, scale, "set")["parameters"]
        # Six FLOPs for each parameter and token: forward, and twice that backward (Kaplan et al., 2020).
        return (6.0 * parameters["non_embedding"] * tokens if parameters and scale.tokens else None), tokens

    return own if study.trainer is not None else reference


def _key(scale: ScaleConfig) -> str:
    return scale.model_dump_json()


def ladder_lines(study: StudyConfig) -> Iterator[str]:
    """What a study's ladder is and costs, in words."""
    found = plan_ladder(study)
    names = ", ".join(rung.name + (" (the proxy)" if rung.is_proxy else "") for rung in found.rungs)
    yield f"Ladder: {names}; {found.trials} trials an arm on each."
    if found.share is None:
        yield "What the ladder costs beside a run of the target is not known for this trainer."
    else:
        assert study.ladder is not None
        yield f"The ladder costs {found.share:.2g} runs of the target, of at most {study.ladder.share:g}."
