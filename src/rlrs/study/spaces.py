"""What the search of each arm may change, and whether an arm makes sense for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import nn

from rlrs.comparison import FACTORS, frozen_components, searched_components
from rlrs.components import Partition, is_lora_b, partition
from rlrs.ratios import Ratios
from rlrs.search import SEARCHED, Space, held_constant, read_space, start_point, with_frozen
from rlrs.search.earlier import Known
from rlrs.settings import Arm, ConfigError, ModelConfig, PriorConfig, StudyConfig


def search_spaces(study: StudyConfig, components: Iterable[str]) -> dict[Arm, Space]:
    """What every arm's search on the proxy may change: of `search.space`, what is about the components that it moves.

    Args:
        study: settings.
        components: of the proxy, those that are trained.

    Raises:
        ConfigError: a space that cannot be searched. Every arm is checked on the whole of it: a mistake is an error,
            whichever arm comes first.
    """
    settings, start, names = study.search, start_ratios(study), list(components)
    model = study.proxy.model
    defaults = {
        "weight_decay": study.training.weight_decay,
        "warmup_fraction": study.training.warmup_fraction,
        "beta1": study.training.betas[0],
        "beta2": study.training.betas[1],
        **({} if study.trainer is not None else {"batch_size": float(study.proxy.batch_size)}),
        **({"init_scale": model.init_scale} if isinstance(model, ModelConfig) else {}),
    }
    factors = {name: settings.space[name] for name in settings.space if name in FACTORS}
    if absent := [name for name in factors if name not in study.comparison.arms]:
        raise ConfigError(f"search.space.{absent[0]}: is searched by the arm {absent[0]}; name it in comparison.arms")
    rest = {name: value for name, value in settings.space.items() if name not in factors}

    def space(moved: list[str], only: list[str] | None, arm: Arm | None = None) -> Space:
        first = _first(study, arm, start, moved)
        first |= {name: value for name, value in FACTORS.items() if name == arm}
        own = {name: value for name, value in factors.items() if name == arm}
        return read_space({**rest, **own}, first, names, defaults, only=only)

    space([name for name in names if name in SEARCHED], None)
    spaces: dict[Arm, Space] = {}
    for arm in study.comparison.arms:
        moved = searched_components(arm, names)
        spaces[arm] = with_frozen(space(moved, moved, arm), frozen_components(arm, names))
    if "constant" in spaces:
        spaces["constant"] = held_constant(spaces["constant"])
    return spaces


def _first(study: StudyConfig, arm: Arm | None, start: Ratios, moved: Sequence[str]) -> dict[str, float]:
    """Where an arm's search begins: of a prior, ratios with the base that they go with, or its best earlier trial.

    An arm without those ratios begins at the study's own base: the prior's is not the best one without its ratios.
    """
    settings, prior = study.search, study.search.prior
    lr, final_fraction = settings.lr, study.training.final_fraction
    if isinstance(prior, PriorConfig) and arm in (None, "rlrs", "constant"):
        lr = prior.lr or lr
        if study.training.schedule != "constant":
            final_fraction = prior.final_fraction or final_fraction
    first = start_point(lr, final_fraction, start, moved)
    known = known_trials(study, arm)
    return {name: known[0][0].get(name, value) for name, value in first.items()} if known else first


def known_trials(study: StudyConfig, arm: Arm | None) -> Known:
    """Trials of an arm's search in the earlier study that `search.prior` names; none where there is none."""
    prior = study.search.prior
    if not isinstance(prior, PriorConfig) or arm is None or arm not in prior.trials:
        return []
    trials = prior.trials[arm]
    return [(dict(zip(trials.names, row[1:], strict=True)), row[0]) for row in trials.rows]


def start_ratios(study: StudyConfig) -> Ratios:
    """The ratios that the search of `rlrs` starts from."""
    start = study.search.start
    if isinstance(start, Mapping):
        return Ratios(start)
    return Ratios.named(start)


def trained_components(model: nn.Module, parts: Partition | None = None) -> list[str]:
    """Components of which at least one parameter is trained.

    Args:
        model: any.
        parts: its partition, if it is there already.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = partition(model) if parts is None else parts
    return [component for component, names in parts.items() if not trained.isdisjoint(names)]


def check_arms(arms: Sequence[Arm], size: str, model: nn.Module | None, components: Sequence[str]) -> None:
    """See that every arm is another thing than those beside it, on a model.

    Args:
        arms: of the study.
        size: `proxy` or `target`.
        model: on any device; None where only components are known.
        components: of the model, those that are trained.

    Raises:
        ConfigError: an arm that would do nothing, or that cannot be made; one line.
    """
    for arm in arms:
        if why := _why_not(arm, model, components):
            raise ConfigError(f"comparison.arms: {arm}: {why} ({size}); leave this arm out")


def _why_not(arm: Arm, model: nn.Module | None, components: Sequence[str]) -> str | None:
    """Why an arm makes no sense for a model; None if it does."""
    if arm in ("embedding_only", "frozen_embedding"):
        return None if "embedding" in components else "the embedding is not trained"
    if arm == "head_only":
        if "unembedding" in components:
            return None if len(components) > 1 else "nothing but the head is trained"
        return "the head is not trained, or is one with the embedding (tied)"
    if arm in FACTORS and model is None:
        return "needs the model: name a factory as trainer.model"
    if arm == "layer_decay":
        layered = any(depth.layer is not None for depth in partition(cast(nn.Module, model)).depths.values())
        return None if layered else "the model has no layers"
    if arm == "lora_plus":
        adapted = any(is_lora_b(name) for name, _ in cast(nn.Module, model).named_parameters())
        return None if adapted else "the model has no LoRA adapters"
    return None
