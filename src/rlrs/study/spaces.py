"""What the search of each arm may change, and whether an arm makes sense for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from torch import nn

from rlrs.comparison import FACTORS, frozen_components, searched_components
from rlrs.components import Partition, PartitionError, divided_component, is_lora_b, partition, refine
from rlrs.messages import shown
from rlrs.ratios import Ratios
from rlrs.records import Recipe
from rlrs.search import SEARCHED, Space, held_constant, read_space, start_point, with_frozen
from rlrs.search.earlier import Known
from rlrs.search.space import knot_progress
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
    defaults = _defaults(study)
    finer = finer_components(settings.space, names)
    start = Ratios({**{key: start[c] for key, c in finer.items() if c in start}, **start}, start.provenance)
    factors = {name: value for name, value in settings.space.items() if factor_of(name) is not None}
    owners = {name: _owners(name, value, study.comparison.arms) for name, value in factors.items()}
    rest = {name: value for name, value in settings.space.items() if name not in factors}
    if settings.method == "learned" and (more := [*finer, *(n for n in factors if "rlrs" in owners[n])]):
        raise ConfigError(f"search.space.{more[0]}: search.method=learned learns ratios of whole components alone")

    def space(moved: list[str], only: list[str] | None, arm: Arm | None = None) -> Space:
        own = {name: _without_arms(value) for name, value in factors.items() if arm in owners[name]}
        first = _first(study, arm, start, moved)
        first |= {name: FACTORS[cast(Arm, factor_of(name))] for name in own}
        if arm in FACTORS and not any(factor_of(name) == arm for name in own):
            first[arm] = FACTORS[arm]
        first |= {"muon_rate": study.training.muon_rate} if arm == "per_optimizer" else {}
        return read_space({**rest, **own}, first, [*names, *finer], defaults, only=only)

    space([name for name in names if name in SEARCHED] + list(finer), None)
    spaces: dict[Arm, Space] = {}
    for arm in study.comparison.arms:
        moved, whole = searched_components(arm, names), arm in _OF_RATIOS
        # What is named beside the components that are searched by themselves is for the arms that search all of them.
        found = space([*moved, *(finer if whole else ())], None if whole else moved, arm)
        spaces[arm] = with_frozen(found, frozen_components(arm, names))
    if "constant" in spaces:
        spaces["constant"] = held_constant(spaces["constant"])
    return spaces


def _defaults(study: StudyConfig) -> dict[str, float]:
    """Where settings start that a search may move beside the paper's."""
    model, training = study.proxy.model, study.training
    return {
        "weight_decay": training.weight_decay,
        "warmup_fraction": training.warmup_fraction,
        "beta1": training.betas[0],
        "beta2": training.betas[1],
        **({"muon_rate": training.muon_rate} if training.optimizer == "muon" else {}),
        **({} if study.trainer is not None else {"batch_size": float(study.proxy.batch_size)}),
        **({"init_scale": model.init_scale} if isinstance(model, ModelConfig) else {}),
    }


_OF_RATIOS: tuple[Arm, ...] = ("constant", "rlrs")
"""Arms that search the ratios of all components, and what `search.space` names beside them."""


def factor_of(name: str) -> str | None:
    """The factor that a parameter is: `layer_decay` or `lora_plus`, of the whole model or of one tower.

    >>> factor_of("layer_decay"), factor_of("vision_tower.layer_decay"), factor_of("embedding.start")
    ('layer_decay', 'layer_decay', None)
    """
    tower, _, factor = name.rpartition(".")
    return factor if factor in FACTORS and (not tower or factor == "layer_decay") else None


def _owners(name: str, value: object, arms: Sequence[Arm]) -> list[Arm]:
    """The arms that search a factor: that of its name, or else those of ratios; or those that the settings name."""
    own = cast(Arm, factor_of(name))
    known: list[Arm] = [arm for arm in arms if arm in (own, *_OF_RATIOS)]
    if not isinstance(value, Mapping) or "arms" not in value:
        return [own] if own in known else known
    wanted = list(value["arms"]) if isinstance(value["arms"], list | tuple) else [value["arms"]]
    if not wanted or not all(arm in known for arm in wanted):
        raise ConfigError(
            f"search.space.{name}: arms should be one or more of {', '.join(known)}, not {shown(value['arms'])}"
        )
    return [arm for arm in known if arm in wanted]


def _without_arms(value: object) -> object:
    if not isinstance(value, Mapping) or "arms" not in value:
        return value
    return {key: part for key, part in value.items() if key != "arms"} or "search"


def finer_components(space: Mapping[str, object], components: Sequence[str]) -> dict[str, str]:
    """Layers, experts and tokens that `search.space` names ratios of, and the component of each.

    >>> finer_components({"embedding/token.32000-": "search", "attention/layer.0.end": 1.0}, ["embedding", "attention"])
    {'embedding/token.32000-': 'embedding', 'attention/layer.0': 'attention'}

    Args:
        space: `search.space` of a study.
        components: of the proxy.

    Raises:
        ConfigError: no range, or one of a component that is not there.
    """
    found: dict[str, str] = {}
    for name in space:
        owner, _, part = name.rpartition(".")
        key = owner if owner and knot_progress(part) is not None else name
        if "/" not in key or "*" in key:
            continue
        try:
            component = divided_component(key)
        except PartitionError as error:
            raise ConfigError(f"search.space.{name}: {error}") from None
        if component is None or component not in components:
            raise ConfigError(f"search.space.{name}: the proxy trains no {shown(component or key)}")
        found[key] = component
    return found


def check_made_out(study: StudyConfig, components: Sequence[str], size: str, model: nn.Module | None) -> None:
    """See that the factors and the finer ratios of every arm are those of a model.

    Args:
        study: settings.
        components: of the proxy.
        size: `proxy`, `target`, or a rung of a ladder.
        model: on any device; None where only components are known.

    Raises:
        ConfigError: a model without such layers, towers, experts or tokens, or a component that is divided in two ways.
    """
    for arm, space in search_spaces(study, components).items():
        recipe = Recipe.from_settings(study.training, study.search.lr).at(space.start())
        if model is None and recipe.factors:
            raise ConfigError(f"search.space.{next(iter(recipe.factors))}: needs the model: name it as trainer.model")
        if model is None:
            continue
        try:
            made = recipe.on(model) if recipe.factors else recipe
            refine(model, partition(model), made.ratios)
        except ValueError as error:
            raise ConfigError(f"search.space: {error} (arm {arm}, {size})") from None


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
        return "needs the model: name a function that makes it as trainer.model"
    if arm == "layer_decay":
        layered = any(depth.layer is not None for depth in partition(cast(nn.Module, model)).depths.values())
        return None if layered else "the model has no layers"
    if arm == "lora_plus":
        adapted = any(is_lora_b(name) for name, _ in cast(nn.Module, model).named_parameters())
        return None if adapted else "the model has no LoRA adapters"
    return None
