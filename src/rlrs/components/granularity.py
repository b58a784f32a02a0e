"""Finer ratios than a component's: by layer (`attention/layer.0-3`), expert (`experts/expert.2`), token, LoRA's B.

A key COMPONENT/layer.RANGE, COMPONENT/expert.RANGE or COMPONENT/token.RANGE refines its component: RANGE is one number
(`5`), both ends inclusive (`0-3`), or open (`4-`), counted from 0. COMPONENT/below is what the component has below the
first layer, such as the norm of the embeddings. What no key of a component takes keeps the component's own ratio.

- Layers are those of `Partition.depths`, found by structure: stages of layers are counted through, and in an encoder
  and decoder layers are counted in each. COMPONENT/TOWER.layer.RANGE means those of one tower alone:
  `attention/encoder.layer.0`, `norm/decoder.below`.
- COMPONENT/lora_B is the second matrix of the component's LoRA adapters, as LoRA+ has it.
- Experts that are modules of their own become components of their own. Of experts that are fused into one tensor,
  (experts, ...), a range is a slice of it: the parameter stays whole, and `RelativeLR` scales the slices' updates.
- Tokens are rows of the vocabulary's tables and heads, and slices of them in the same way: `embedding/token.32000-`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

from torch import nn

from rlrs.components.adapters import is_lora_b
from rlrs.components.layers import Depth
from rlrs.components.module_tree import path_steps
from rlrs.components.parts import Partition, PartitionError
from rlrs.components.synonyms import suggest_component

_KEY = re.compile(
    r"^(?P<component>.+)/(?:(?P<tower>[\w.-]+)\.)?"
    r"(?:(?P<below>below|lora_B)|(?P<axis>layer|expert|token)\.(?P<first>\d+)(?P<to>-(?P<last>\d+)?)?)$"
)
_NEAR = re.compile(r"/(?:.*\.)?\s*(?:(?:layer|expert|token|block|below)s?|lora_[ab])\b", re.IGNORECASE)
_EXPERTS = re.compile(r"experts?$", re.IGNORECASE)
_NUMBERED_EXPERT = re.compile(r"^experts?_?(\d+)$", re.IGNORECASE)


_WAYS = {"layer": "layer", "below": "layer", "expert": "expert", "token": "token", "lora_B": "LoRA's B"}
"""Axis of a key -> by what it divides a component; one component is divided in one way."""


class Slice(NamedTuple):
    """Rows `first` to `stop` - 1 of a tensor's first dimension, which is `rows` long, and the name of their ratio."""

    component: str
    first: int
    stop: int
    rows: int


@dataclass(frozen=True)
class _Span:
    """A key of ratios that refines a component; `last` is inclusive, None if open."""

    key: str
    component: str
    axis: Literal["layer", "expert", "token", "below", "lora_B"]
    tower: str
    """Empty for all towers."""
    first: int
    last: int | None

    @classmethod
    def parse(cls, key: str) -> _Span | None:
        """The span that a key says; None for a component's own name.

        Raises:
            PartitionError: a key that wants to be a span and is none, or a range that ends before it begins.
        """
        match = _KEY.match(key)
        towerless = match is not None and (match["axis"] in ("expert", "token") or match["below"] == "lora_B")
        if match is None or (match["tower"] and towerless):
            if _NEAR.search(key):
                raise PartitionError(
                    f"{key!r} should look like attention/layer.0-3, attention/layer.4-, attention/encoder.layer.0, "
                    "norm/below, attention/lora_B, experts/expert.2 or embedding/token.32000-"
                )
            return None
        tower = match["tower"] or ""
        if match["below"]:
            return cls(key, match["component"], "below" if match["below"] == "below" else "lora_B", tower, 0, None)
        first = int(match["first"])
        last = first if match["to"] is None else int(match["last"]) if match["last"] else None
        if last is not None and last < first:
            raise PartitionError(f"{key!r} ends before it begins")
        return cls(key, match["component"], cast(Any, match["axis"]), tower, first, last)

    def holds(self, number: int) -> bool:
        """Whether a layer, expert or token of this number is in the range."""
        return self.first <= number and (self.last is None or number <= self.last)

    def takes(self, name: str, depth: Depth | None) -> bool:
        """Whether a parameter at this place belongs to the span, for one that is not sliced."""
        if self.axis == "lora_B":
            return is_lora_b(name)
        if depth is None or self.axis in ("expert", "token") or self.tower not in ("", depth.tower):
            return False
        if self.axis == "below":
            return depth.below
        return depth.layer is not None and self.holds(depth.layer)


def divided_component(key: str) -> str | None:
    """The component that a finer key divides; None for a component's own name.

    >>> divided_component("embedding/token.32000-"), divided_component("embedding")
    ('embedding', None)

    Raises:
        PartitionError: a key that wants to be finer and is no range.
    """
    span = _Span.parse(key)
    return None if span is None else span.component


@dataclass(frozen=True)
class Refined:
    """A partition whose components are as fine as the ratios' keys.

    Args:
        parts: the finer partition; its names are keys of the ratios where one refines.
        slices: parameter of fused experts, or of a vocabulary -> the slices of it that have ratios of their own.
    """

    parts: Partition
    slices: Mapping[str, tuple[Slice, ...]]

    @property
    def names(self) -> set[str]:
        """All names a ratio may have here: of components, and of slices."""
        return {*self.parts, *self.parts.tied_components, *(s.component for own in self.slices.values() for s in own)}


def refine(model: nn.Module, parts: Partition, keys: Iterable[str], *, partial: bool = False) -> Refined:
    """Divide the components of a partition as the keys of ratios ask.

    >>> from rlrs import partition
    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)
    >>> finer = refine(model, partition(model), ["feed_forward/layer.0-1"])
    >>> {component: len(names) for component, names in finer.parts.items()}
    {'attention': 12, 'feed_forward': 4, 'feed_forward/layer.0-1': 8, 'norm': 12}

    Args:
        model: the partitioned model, for the shapes of what is sliced.
        parts: its partition; components without a refining key stay as they are.
        keys: names of ratios; those that refine nothing are passed over.
        partial: the model is one stage of a pipeline: a range that holds nothing is no error.

    Raises:
        PartitionError: a key that is no range, two ranges of one component that overlap, a range that holds no
            parameter, or experts or tokens that cannot be told apart.
    """
    spans: dict[str, list[_Span]] = {}
    for key in keys:
        if key not in parts and (span := _Span.parse(key)) is not None:
            spans.setdefault(span.component, []).append(span)
    if not spans:
        return Refined(parts, {})
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    components: dict[str, list[str]] = {}
    slices: dict[str, tuple[Slice, ...]] = {}
    for component, names in parts.items():
        own = spans.pop(component, [])
        _check_overlap(own)
        tokens = any(span.axis == "token" for span in own)
        rows = token_rows(parts, shapes, component) if tokens else 0
        numbers = set(range(rows))  # of tokens, or of the experts that are met
        rest = components.setdefault(component, [])
        finer: dict[str, list[str]] = {span.key: [] for span in own}
        for name in names:
            if any(span.axis == "expert" for span in own):
                place = _place(name, own, shapes[name], numbers)
            elif tokens:
                place = _slices(own, rows) if shapes[name][:1] == (rows,) else ()
            else:
                place = next((span for span in own if span.takes(name, parts.depths.get(name))), ())
            if isinstance(place, _Span):
                finer[place.key].append(name)
            else:
                rest.append(name)
                if place:
                    slices[name] = place
        sliced = {s.component for name in rest for s in slices.get(name, ())}
        for span in own:
            if not partial and not finer[span.key] and span.key not in sliced:
                depths = [parts.depths[name] for name in names if name in parts.depths]
                raise PartitionError(_holds_nothing(span, depths, numbers, {d.tower for d in parts.depths.values()}))
        components |= {key: members for key, members in finer.items() if members}
    if spans and not partial:
        component, (span, *_) = next(iter(spans.items()))
        if component in parts.tied_components:
            raise PartitionError(f"{span.key!r}: {component} is tied to another component: write the ratio for that")
        raise PartitionError(
            f"{span.key!r}: the model has no component {component!r}{suggest_component(component, parts)}"
        )
    return Refined(replace(parts, components={c: names for c, names in components.items() if names}), slices)


def _expert_number(name: str) -> int | None:
    """The number of the expert that a parameter belongs to, where experts are modules of their own."""
    steps = path_steps(name)
    for before, step in zip(["", *steps], steps, strict=False):
        if match := _NUMBERED_EXPERT.match(step):
            return int(match[1])
        if step.isdigit() and _EXPERTS.search(before):
            return int(step)
    return None


def _place(name: str, spans: list[_Span], shape: tuple[int, ...], experts: set[int]) -> _Span | tuple[Slice, ...]:
    """The span that takes a whole parameter, or the slices of a fused one; no slice if nothing refines it."""
    if (expert := _expert_number(name)) is not None:
        experts.add(expert)
        return next((span for span in spans if span.holds(expert)), ())
    if len(shape) != 3 and not (len(shape) == 2 and path_steps(name)[-1].endswith("bias")):
        raise PartitionError(
            f"{spans[0].key!r}: the experts in {name} of shape {shape} cannot be told apart; a fused tensor should "
            "be (experts, ...), and a list of experts should have their numbers in its names"
        )
    experts |= set(range(shape[0]))
    return _slices(spans, shape[0])


def _slices(spans: list[_Span], rows: int) -> tuple[Slice, ...]:
    ends = [(s, rows if s.last is None else s.last + 1) for s in spans]
    return tuple(Slice(s.key, s.first, min(end, rows), rows) for s, end in ends if s.first < rows)


def token_rows(parts: Partition, shapes: Mapping[str, tuple[int, ...]], component: str) -> int:
    """How many rows, one for each token, the tensors of a component have that have such rows; 0 if none does.

    They are as many as the vocabulary's table has; or, in a head that is not tied to it and was padded, as many as its
    own longest matrix.

    Args:
        parts: of the model.
        shapes: of its parameters, by name.
        component: `embedding` or `unembedding`.
    """
    tables = parts.get("embedding", [])
    rows = vocabulary_rows(shapes[name] for name in tables)
    own = [shapes[name] for name in parts[component]]
    if any(shape[:1] == (rows,) for shape in own):
        return rows
    return 0 if any(name in parts.tied for name in tables) else vocabulary_rows(own)


def vocabulary_rows(shapes: Iterable[tuple[int, ...]]) -> int:
    """Rows of the vocabulary's table among a component's tensors: of the longest matrix; 0 if there is none.

    >>> vocabulary_rows([(2, 8), (100, 8), (100,)])  # token types beside it, and the bias of a head
    100
    """
    return max((shape[0] for shape in shapes if len(shape) == 2), default=0)


def _check_overlap(spans: list[_Span]) -> None:
    ways = [way for way in dict.fromkeys(_WAYS.values()) if any(_WAYS[span.axis] == way for span in spans)]
    if len(ways) > 1:
        raise PartitionError(f"ratios divide {spans[0].component!r} both by {ways[0]} and by {ways[1]}; choose one")
    for one, other in itertools.combinations(sorted(spans, key=lambda span: span.first), 2):
        towers = not one.tower or not other.tower or one.tower == other.tower
        if one.axis == other.axis and towers and one.holds(other.first):
            raise PartitionError(f"ratios {one.key!r} and {other.key!r} overlap")


def _holds_nothing(span: _Span, depths: list[Depth], sliced: set[int], towers: set[str]) -> str:
    start = f"{span.key!r} holds no parameter: "
    if span.tower and span.tower not in towers:
        named = ", ".join(sorted(towers - {""}))
        return start + (f"the model's towers are {named}" if named else "the model has one tower: leave its name out")
    if span.axis == "below":
        return f"{start}{span.component} has nothing below the layers"
    if span.axis == "lora_B":
        return f"{start}{span.component} has no LoRA adapters"
    here = [depth for depth in depths if span.tower in ("", depth.tower) and depth.layer is not None]
    numbers = sliced if span.axis in ("expert", "token") else {depth.layer for depth in here if depth.layer is not None}
    there = f"{span.axis}s {min(numbers)} to {max(numbers)}" if numbers else f"no numbered {span.axis}s"
    return f"{start}{span.component} has {there}"
