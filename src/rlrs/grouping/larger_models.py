"""A grouping carried to another size by structure: the same kind of tensor at the same relative depth."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from rlrs.components import Partition, canonical_name, partition
from rlrs.discovery import FOLLOW_BASE
from rlrs.grouping.found_components import FoundComponents, GroupingError, Place, grouped

_NUMBER = re.compile(r"\d+")


def carry_components(
    found: FoundComponents, model: nn.Module, leave: Iterable[str] = tuple(sorted(FOLLOW_BASE))
) -> FoundComponents:
    """The grouping of a model of another size, from that of a smaller one.

    A tensor goes where the tensors of its kind (the same name but for numbers, or else the same component) are that are
    nearest in relative depth; of several as near, where most of them are.

    Args:
        found: of the smaller model.
        model: the larger one, on any device, meta included.
        leave: components that are not grouped.

    Raises:
        GroupingError: a tensor with no like in the smaller model.
    """
    here = _places(partition(model), set(leave))
    labels, kinds = found.labels(), {one.component: one for one in found.components}
    clusters: dict[str, list[str]] = {name: [] for name in kinds}
    for tensor, place in here.items():
        clusters[labels[_like(tensor, place, found, labels)]].append(tensor)
    there = {name: tensors for name, tensors in clusters.items() if tensors}
    return grouped(
        list(there.values()),
        [(name, kinds[name].words) for name in there],
        here,
        [kinds[name].figures for name in there],
        carried_from=len(found.places),
    )


def _places(parts: Partition, leave: set[str]) -> dict[str, Place]:
    found = {}
    for component, names in parts.items():
        for name in names if component not in leave else ():
            depth = parts.depths.get(name)
            layer, layers = (None, 0) if depth is None else (depth.layer, depth.layers)
            found[canonical_name(name)] = Place(
                component=component, layer=-1 if layer is None else layer, layers=layers
            )
    return found


def _like(tensor: str, place: Place, found: FoundComponents, labels: dict[str, str]) -> str:
    """The tensor of the smaller model that this one goes with."""
    known = {name: one for name, one in found.places.items() if name in labels}
    kind = _NUMBER.sub("", tensor)
    alike = [name for name in known if _NUMBER.sub("", name) == kind]
    alike = alike or [name for name, one in known.items() if one.component == place.component]
    if not alike:
        raise GroupingError(
            f"{tensor} ({place.component}) has no like in the model that components were found in; that has "
            f"{', '.join(dict.fromkeys(one.component for one in known.values()))}"
        )
    distance = {name: abs(known[name].depth - place.depth) for name in alike}
    nearest = [name for name in alike if distance[name] <= min(distance.values()) + 1e-9]
    return max(nearest, key=lambda name: sum(labels[other] == labels[name] for other in nearest))
