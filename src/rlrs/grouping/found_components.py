"""What was found, its file, and the rules that say it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from rlrs.files import write_atomic
from rlrs.records import Record, RecordError
from rlrs.records.frozen import first_problem
from rlrs.yaml_files import YAMLError, dump_yaml, load_yaml


class GroupingError(RecordError):
    """Statistics that cannot be grouped, or a components.yaml that cannot be used."""


class Place(Record):
    """Where a tensor is in its model."""

    component: str
    """As `rlrs.partition` names it."""
    layer: int = -1
    """From 0; -1 outside of the layers."""
    layers: int = 0

    @property
    def depth(self) -> float:
        """From 0, the first layer, to 1, the last; 1/2 of the only one; -1 outside of the layers."""
        if self.layer < 0:
            return -1.0
        return self.layer / (self.layers - 1) if self.layers > 1 else 0.5


class FoundComponent(Record):
    """Tensors that learn alike."""

    component: str
    """A name that rules and ratios take."""
    words: str
    """What it is and how it learns, for people."""
    rules: tuple[str, ...]
    """Regular expressions of its tensors' canonical names."""
    tensors: tuple[str, ...]
    figures: dict[str, float] = Field(default_factory=dict)
    """By what factor it is above the middle of all tensors; see `FIGURES_USED`."""


class FoundComponents(Record):
    """A whole grouping."""

    format: Literal[1] = 1
    components: tuple[FoundComponent, ...]
    places: dict[str, Place]
    """Of every tensor."""
    silhouette: float | None = None
    """Of the clusters, -1 to 1; None where nothing was told apart, or for a grouping that was carried."""
    stability: float | None = None
    """Mean adjusted Rand index with groupings of bootstrap samples."""
    seeds: float | None = None
    """The same between the runs that it was found in, each by itself; None of one run."""
    named: float | None = None
    """Adjusted Rand index with the named components."""
    tried: tuple[tuple[int, float, float], ...] = ()
    """Number of clusters, silhouette, stability."""
    carried_from: int | None = None
    """Tensors of the smaller model that it was found in; None where it was found here."""

    def labels(self) -> dict[str, str]:
        """Tensor -> found component."""
        return {tensor: one.component for one in self.components for tensor in one.tensors}


def save_components(found: FoundComponents, path: str | Path) -> None:
    """Write a components.yaml, which `rlrs.load_rules` reads; whole or not at all."""
    write_atomic(path, dump_yaml(found.model_dump(mode="json", exclude_none=True)))


def read_components(path: str | Path) -> FoundComponents:
    """Read a components.yaml with the places of its tensors.

    Raises:
        GroupingError: it cannot be used, or was written by hand and has no places; one line that names the file.
    """
    try:
        plain = load_yaml(path)
    except YAMLError as error:
        raise GroupingError(str(error)) from None
    if not isinstance(plain, dict):
        raise GroupingError(f"{path}: should be a components.yaml, as rlrs discover components writes it")
    try:
        return FoundComponents.model_validate(plain)
    except ValidationError as error:
        raise GroupingError(f"{path}: {first_problem(error)}") from None


def patterns(tensors: Sequence[str], every: Sequence[str]) -> tuple[str, ...]:
    r"""Regular expressions that match these tensors and no other of a model; layers of one kind share one.

    >>> patterns(["h.0.up", "h.1.up", "head"], ["h.0.up", "h.1.up", "h.2.up", "head"])
    ('^h\\.(?:0|1)\\.up$', '^head$')
    >>> patterns(["h.0.up", "h.1.up"], ["h.0.up", "h.1.up"])
    ('^h\\.\\d+\\.up$',)
    """
    own, whole = _by_kind(tensors), _by_kind(every)
    return tuple(_pattern(kind, numbers, set(whole[kind])) for kind, numbers in own.items())


_DIGITS = r"\d+"
_NUMBER = re.compile(_DIGITS)


def _by_kind(names: Sequence[str]) -> dict[str, list[tuple[str, ...]]]:
    """Name with its numbers left out -> the numbers of each that has it."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        found.setdefault(_NUMBER.sub("{}", name), []).append(tuple(_NUMBER.findall(name)))
    return found


def _pattern(kind: str, numbers: list[tuple[str, ...]], every: set[tuple[str, ...]]) -> str:
    fixed = [re.escape(part) for part in kind.split("{}")]

    def joined(parts: Sequence[str]) -> str:
        return "".join(text for pair in itertools.zip_longest(fixed, parts, fillvalue="") for text in pair)

    if not numbers[0]:
        return f"^{fixed[0]}$"
    if set(numbers) == every and len(every) > 1:
        varies = [len(set(column)) > 1 for column in zip(*numbers, strict=True)]
        parts = [_DIGITS if free else number for free, number in zip(varies, numbers[0], strict=True)]
        return f"^{joined(parts)}$"
    columns = [list(dict.fromkeys(column)) for column in zip(*numbers, strict=True)]
    if set(itertools.product(*columns)) & every == set(numbers):
        parts = [column[0] if len(column) == 1 else "(?:" + "|".join(column) + ")" for column in columns]
        return f"^{joined(parts)}$"
    return "^(?:" + "|".join(joined(one) for one in numbers) + ")$"


def grouped(
    clusters: Sequence[Sequence[str]],
    names: Sequence[tuple[str, str]],
    places: Mapping[str, Place],
    figures: Sequence[Mapping[str, float]],
    **measured: object,
) -> FoundComponents:
    """A record of clusters of tensors, with the rules that say them."""
    components = [
        FoundComponent(
            component=name,
            words=words,
            rules=patterns(tensors, list(places)),
            tensors=tuple(tensors),
            figures={key: float(f"{value:.4g}") for key, value in own.items()},
        )
        for tensors, (name, words), own in zip(clusters, names, figures, strict=True)
    ]
    return FoundComponents.model_validate({"components": components, "places": dict(places), **measured})
