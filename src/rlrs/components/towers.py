"""Rules that make whole parts of a model components: a language model, a UNet, a critic."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from torch import nn

from rlrs.components.module_tree import path_steps
from rlrs.components.parts import Partition, PartitionError, Rule, canonical_name, partition

_MODALITIES = ("vision", "audio")


def tower_rules(model: nn.Module, *paths: str) -> list[Rule]:
    """Rules by which every tower of a model is one component, in the place of attention, feed-forward and so on.

    Of a multimodal model these are `vision`, `audio` and `connector`, as they are without rules, and `language_model`,
    all the rest. Of any other, the modules that hold a tower each, by their names: `encoder` and `decoder`,
    `text_encoder` and `unet`. What is in none of them (a table that they share) stays as it is. Layers of a tower may
    have ratios of their own nevertheless: `vision/layer.0-3`.

    >>> actor_critic = nn.ModuleDict({"actor": nn.Linear(4, 2), "critic": nn.Linear(4, 1)})
    >>> rules = tower_rules(actor_critic, "actor", "critic")
    >>> dict(partition(actor_critic, rules))
    {'actor': ['actor.weight', 'actor.bias'], 'critic': ['critic.weight', 'critic.bias']}

    Args:
        model: any, wrapped or not, on any device. Models that are trained together go into one `nn.ModuleDict`.
        paths: of the parts that should be components, where they are to be told: `policy.value_net` is `value_net`.

    Raises:
        PartitionError: a path that holds no parameter, or a model of one tower without paths.
    """
    parts = partition(model)
    names = {name: canonical_name(name) for own in parts.values() for name in own}
    if paths:
        return [_rule(path.rpartition(".")[2], [path], names.values()) for path in paths]
    if any(modality in parts for modality in _MODALITIES):
        others = {name for c in (*_MODALITIES, "connector") for name in parts.get(c, ())}
        return [_rule("language_model", _paths({names[n] for n in names if n not in others}, names.values()), ())]
    if len({depth.tower for depth in parts.depths.values() if depth.layer is not None}) < 2:
        raise PartitionError(
            f"{type(model).__name__} has one tower: name the parts that should be components, "
            'as tower_rules(model, "actor", "critic")'
        )
    return [_rule(top.rpartition(".")[2], [top], ()) for top in _tops(parts)]


def _rule(component: str, paths: Sequence[str], names: Collection[str]) -> Rule:
    pattern = rf"^(?:{'|'.join(map(re.escape, paths))})(?:\.|$)"
    if names and not any(re.search(pattern, name) for name in names):
        raise PartitionError(f"no parameter of the model is in {paths[0]!r}")
    return Rule(component, pattern)


def _tops(parts: Partition) -> list[str]:
    """The outermost modules that hold layers, apart from each other."""
    inside = [path_steps(name)[:-1] for name, depth in parts.depths.items() if depth.layer is not None]
    shared = 0
    while inside and len({steps[shared] for steps in inside}) == 1 and all(len(s) > shared + 1 for s in inside):
        shared += 1
    return list(dict.fromkeys(".".join(steps[: shared + 1]) for steps in inside))


def _paths(wanted: Collection[str], names: Collection[str], inside: str = "") -> list[str]:
    """The fewest paths that hold all of the names that are wanted, and no other."""
    here = {name: name[len(inside) :].partition(".")[0] for name in names if name.startswith(inside)}
    found: list[str] = []
    for step in dict.fromkeys(here.values()):
        held = [name for name, own in here.items() if own == step]
        if all(name in wanted for name in held):
            found.append(inside + step)
        elif any(name in wanted for name in held):
            found += _paths(wanted, names, f"{inside}{step}.")
    return found
