"""Which layer of which stack a parameter is in, by the structure of the model.

A *stack* is a repeated list of layers: a list, dict or sequence whose elements hold attention, feed-forward, recurrent
mixers or experts (convolutions, in a model that has nothing else). Stages of layers, as Swin and ConvNeXt have them,
are one stack whose layers are counted through. A *tower* is what belongs to a stack, with its embeddings, norms and
head: a language model has one, an encoder and decoder two, and a multimodal model one for every encoder.

A parameter is in a layer, below the layers (embeddings, positions, the norms and projections beside them) or above.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from rlrs.components import evidence
from rlrs.components.module_tree import Node, path_steps

_MIXING = frozenset({"attention", "ssm", "feed_forward", "experts", "shared_experts", "router", "moe"})
_PARTS = frozenset({"attention", "ssm", "feed_forward"})
_INPUT = re.compile(r"(?:^|_)(?:in|input|inputs|features?|frontend|front_end)(?:_|$)", re.I)
_OUTPUT = re.compile(r"(?:^|_)(?:top|head|last|final|post|after|out|output)(?:_|\d|$)", re.I)
_LOWEST_NORM = re.compile(
    r"emb|(?:^|_)pre_?(?:ln|norm|layer_?norm|layrnorm)$|(?:ln|norm)_pre$|^(?:in|input)_(?:ln|norm)$"
)
_FIRST_NORM = re.compile(r"^(?:bn|norm|ln)_?[01]$")
_TRAILING = re.compile(r"(\d+)$")


class Depth(NamedTuple):
    """Where a parameter is among the layers of its tower."""

    tower: str
    """Its name, as in `attention/encoder.layer.0`; empty if there is one, `shared` for what is in none of several."""
    layers: int
    """How many layers the tower has; for what is in none of several, how many the deepest has."""
    layer: int | None
    """The layer's number, from 0; None if it is in none."""
    below: bool
    """Whether it is below the first layer."""

    @property
    def height(self) -> int:
        """Distance from the top: 0 above all layers, 1 in the last one, `layers + 1` below the first."""
        return self.layers + 1 if self.below else 0 if self.layer is None else self.layers - self.layer


@dataclass(eq=False)
class _Stack:
    """Layers that follow one another; `numbers` are those of the nodes that make up a layer."""

    parent: Node
    lists: list[Node]
    numbers: dict[int, int] = field(default_factory=dict)
    below: set[int] = field(default_factory=set)
    tower: Node | None = None
    name: str = ""

    @property
    def depth(self) -> int:
        return max(self.numbers.values(), default=-1) + 1


def find_depths(root: Node) -> dict[str, Depth]:
    """Parameter name, aliases of tied weights included -> its place; empty for a model without layers."""
    stacks = _stacks(root)
    if not stacks:
        return {}
    taken = {id(list_) for stack in stacks for list_ in stack.lists}
    for stack in stacks:
        _number(stack, taken)
    _name_towers(root, stacks)
    found: dict[str, Depth] = {}
    deepest = max(stack.depth for stack in stacks)
    only = stacks[0] if len(stacks) == 1 else None
    _outside(root, stacks, only, deepest, found)
    return found


# Stacks.


def _mixes(node: Node) -> bool:
    return node.role in _MIXING or (node.role is None and bool(node.below & _MIXING))


def _convolves(node: Node) -> bool:
    return any(inner.role in ("conv", "conv_block") for inner in node.walk())


def _has_children(node: Node) -> bool:
    return bool(node.children)


def _stacks(root: Node) -> list[_Stack]:
    """Of elements that hold a Transformer's blocks; failing that, convolutions; failing that, anything of modules."""
    for is_layer in (_mixes, _convolves, _has_children):
        if found := list(_find(root, is_layer)):
            return found
    return []


def _find(node: Node, is_layer: Callable[[Node], bool]) -> Iterator[_Stack]:
    if _is_stack(node, is_layer):  # the model itself, or a list of lists
        yield _Stack(node, [node])
        return
    if (node.role is not None and is_layer is not _convolves) or evidence.names_head(node.name, leaf=False):
        return
    numbered = _numbered_attributes(node, is_layer)
    yield from (_Stack(node, [list_]) for list_ in numbered)
    own = {id(child) for list_ in numbered for child in list_.children}
    children = [child for child in node.children if id(child) not in own]
    lists = sorted((child for child in children if _is_stack(child, is_layer)), key=lambda list_: list_.name)
    while lists:
        first, *rest = lists
        # Lists that hold different parts of the same layers, such as `attentions` beside `ffns`, are one stack.
        parts = [c for c in rest if _keys(c) == _keys(first) and not _roles(c) & _roles(first)]
        yield _Stack(node, [first, *parts])
        lists = [c for c in rest if all(c is not part for part in parts)]
    for child in children:
        if not _is_stack(child, is_layer):
            yield from _find(child, is_layer)


def _numbered_attributes(node: Node, is_layer: Callable[[Node], bool]) -> list[Node]:
    """Lists that stand for layers, or stages of layers, which are attributes of one module: `layer1`, `layer2`."""
    found: dict[str, list[Node]] = {}
    for child in () if node.is_container else node.children:
        match = _TRAILING.search(child.name)
        if (
            match
            and child.role is None
            and (_is_stack(child, is_layer) or (is_layer(child) and not child.is_container))
        ):
            found.setdefault(child.name[: match.start()], []).append(child)
    return [
        Node(node.path, stem, nn.ModuleList(), set(), False, children=layers)
        for stem, layers in found.items()
        if len(layers) > 1
    ]


def _is_stack(node: Node, is_layer: Callable[[Node], bool]) -> bool:
    layers = [child for child in node.children if is_layer(child) and child.stacked]
    # A list called `attentions` has a role, and is the attention of all layers nevertheless.
    parts = isinstance(node.module, nn.ModuleList) and all(child.role == node.role for child in node.children)
    if not node.is_container or not layers or not (node.role is None or (parts and node.role in _PARTS)):
        return False
    if isinstance(node.module, nn.ModuleDict):
        return all(_TRAILING.search(layer.name) for layer in layers)  # not the parts of a model, by name
    # An embedding, an encoder and a head in one sequence: the layers are inside the encoder.
    return len(layers) > 1 or len(node.children) == 1 or not any(_find(layers[0], is_layer))


def _keys(node: Node) -> set[str]:
    return {child.name for child in node.children}


def _roles(node: Node) -> set[str]:
    return {role for child in node.children for role in ({child.role} if child.role else child.below)}


def _number(stack: _Stack, taken: set[int]) -> None:
    """Give the stack's elements, and the lists beside it that go with them, their numbers; `taken` are all stacks'."""
    main = stack.lists[0]
    inner = [_stage(element) for element in main.children]
    if all(list_ is not None for list_ in inner):
        _number_stages(stack, main.children, [list_ for list_ in inner if list_ is not None], taken)
        return
    for list_ in stack.lists:
        stack.numbers |= {id(e): n for e, n in _numbered(list_, stack.below)}
    by_key = {e.name: stack.numbers[id(e)] for e in main.children if id(e) in stack.numbers}
    for beside in _beside(stack, taken):
        if not _holds_inputs(beside):
            stack.numbers |= {id(e): by_key[e.name] for e in beside.children if e.name in by_key}


def _beside(stack: _Stack, taken: set[int]) -> list[Node]:
    main = stack.lists[0]
    return [
        child
        for child in stack.parent.children
        if child.is_container and id(child) not in taken and _keys(child) == _keys(main)
    ]


def _numbered(list_: Node, below: set[int]) -> Iterator[tuple[Node, int]]:
    """Elements and their numbers: their keys, for a stage of a pipeline may begin at 4; or counted, where they are not.

    In a sequence that holds more than layers (an embedding, blocks, a head) only layers count.
    """
    held = [_mixes(element) or _convolves(element) for element in list_.children]
    if isinstance(list_.module, nn.Sequential) and any(held) and not all(held):
        first, last = held.index(True), len(held) - 1 - held[::-1].index(True)
        number = -1
        for index, element in enumerate(list_.children):
            if index < first:
                below |= {id(inner) for inner in element.walk()}
            elif index <= last:
                number += held[index]
                yield element, number
        return
    keys = [_TRAILING.search(element.name) for element in list_.children]
    numbers = [int(key[1]) for key in keys if key]
    counted = len(set(numbers)) == len(list_.children)
    # `layer1` is the first layer; in a list, 1 is the second, which may be the first of a stage of a pipeline.
    first = 1 if min(numbers, default=0) == 1 and not list_.children[0].name.isdigit() else 0
    for index, element in enumerate(list_.children):
        yield element, numbers[index] - first if counted else index


def _stage(element: Node) -> Node | None:
    """The one list inside an element that holds all of its blocks, each a whole layer like the others."""
    if element.role is not None:
        return None
    lists = [n for n in _topmost_lists(element) if n.children]
    blocks = [n for n in element.children if n.role is None or n.role in _MIXING]
    if element.is_container and any(
        _mixes(child) or (_convolves(child) and child.stacked) for child in element.children
    ):
        lists = [element]
    mixing = [n for n in lists if any(_mixes(child) for child in n.children)]
    mixing = mixing or [
        n for n in lists if all(_convolves(c) and c.stacked for c in n.children) and not element.below & _MIXING
    ]
    if len(mixing) != 1:
        return None
    (inner,) = mixing
    outside = inner is not element and any(_mixes(child) and not _contains(child, inner) for child in blocks)
    alike = {frozenset({child.role} if child.role else child.below) for child in inner.children}
    whole = all(child.role is None for child in inner.children)
    return inner if not outside and len(alike) == 1 and whole else None


def _topmost_lists(node: Node) -> Iterator[Node]:
    for child in node.children:
        if child.is_container and child.role is None:
            yield child
        elif child.role is None:
            yield from _topmost_lists(child)


def _contains(node: Node, other: Node) -> bool:
    return any(inner is other for inner in node.walk())


def _number_stages(stack: _Stack, stages: list[Node], lists: list[Node], taken: set[int]) -> None:
    """Layers counted through all stages. What stands between stages goes with the layer after or before it."""
    starts: list[int] = []
    count = 0
    for list_ in lists:
        starts.append(count)
        stack.numbers |= {id(layer): count + index for index, layer in enumerate(list_.children)}
        count += len(list_.children)
    ends = [start + len(list_.children) - 1 for start, list_ in zip(starts, lists, strict=True)]
    extra = [_extras(stage, list_) for stage, list_ in zip(stages, lists, strict=True)]
    # Swin's first stage ends in a downsampling and its last has none; in ConvNeXt the first alone does not begin so.
    at_end = bool(extra[0]) and not extra[-1]
    if not at_end:  # what the first stage begins with
        extra[0] = [node for node in extra[0] if not _holds_inputs(node)]
    for index, nodes in enumerate(extra):
        stack.numbers |= dict.fromkeys(map(id, nodes), ends[index] if at_end else starts[index])
    for beside in _beside(stack, taken):  # patch embeddings and norms of Segformer's stages
        inputs = _holds_inputs(beside)
        for index, element in enumerate(sorted(beside.children, key=lambda e: [s.name for s in stages].index(e.name))):
            if not (inputs and index == 0):
                stack.numbers[id(element)] = starts[index] if inputs else ends[index]


def _extras(stage: Node, list_: Node) -> list[Node]:
    return [] if stage is list_ else [c for c in stage.children if not _contains(c, list_)]


# Towers.


def _name_towers(root: Node, stacks: list[_Stack]) -> None:
    """Give every stack its tower, and a name of its own.

    A tower is the largest module that holds no other stack; or the one that holds the list, and other towers inside.
    """
    paths = {id(stack): _path_to(root, stack.parent) for stack in stacks}
    named: list[Node] = []
    for stack in stacks:
        rest = [other for other in stacks if other is not stack]
        others = {id(node) for other in rest for node in paths[id(other)]}
        alone = next((node for node in paths[id(stack)] if id(node) not in others), None)
        list_ = stack.lists[0]
        stack.tower = alone or (list_ if any(other.parent is stack.parent for other in rest) else stack.parent)
        named.append(alone or list_)
    if len(stacks) == 1:
        return
    steps = [path_steps(f"{node.path}.x")[:-1] for node in named]
    shared = 0
    while all(len(own) > shared + 1 for own in steps) and len({own[shared] for own in steps}) == 1:
        shared += 1
    for stack, own in zip(stacks, steps, strict=True):
        others = [other for other in steps if other is not own]
        for length in range(1, len(own) - shared + 1):
            name = own[shared : shared + length]
            if all(other[shared : shared + length] != name for other in others) or length == len(own) - shared:
                stack.name = ".".join(name)
                break


def _path_to(node: Node, wanted: Node) -> list[Node]:
    if node is wanted:
        return [node]
    for child in node.children:
        if path := _path_to(child, wanted):
            return [node, *path]
    return []


# Places.


def _outside(node: Node, stacks: list[_Stack], tower: _Stack | None, deepest: int, found: dict[str, Depth]) -> None:
    """Places of what a node and all below it own, as long as no layer begins."""
    tower = next((stack for stack in stacks if stack.tower is node), tower)
    for stack in stacks:
        if id(node) in stack.numbers:
            _inside(node, stack, stack.numbers[id(node)], found)
            return
    name, layers = (tower.name, tower.depth) if tower is not None else ("shared", deepest)
    holds = [stack for stack in stacks if any(_contains(node, part) for part in (stack.parent, *stack.lists))]
    whole = node.role is not None or not node.below & _MIXING or evidence.names_head(node.name, leaf=False)
    if not holds and whole:
        below = _is_below(node) or any(id(node) in stack.below for stack in stacks)
        if not any(id(inner) in stack.numbers for inner in node.walk() for stack in stacks):
            found |= dict.fromkeys(_names(node), Depth(name, layers, None, below))
            return
    for local, (full, _) in node.params.items():
        below = (evidence.names_embedding(local) or evidence.names_position(local)) and not (
            evidence.names_head_parameter(local)
        )
        found[full] = Depth(name, layers, None, below)
    for full, local in node.followers:
        found[full] = found[node.params[local][0]]
    found |= {full: Depth(name, layers, None, False) for full in node.extras}
    # wav2vec 2.0 normalises the sum of features and positions, but in its variant for stable training.
    summed = any(c.role == "position" and _convolves(c) for c in node.children) and "Stable" not in node.kind
    convolves = any(_is_below(child) and _convolves(child) for child in node.children)
    for child in node.children:
        if child.role == "norm" and (summed or (convolves and _FIRST_NORM.search(child.name))):
            found |= dict.fromkeys(_names(child), Depth(name, layers, None, True))
        else:
            _outside(child, stacks, tower, deepest, found)


def _inside(node: Node, stack: _Stack, number: int, found: dict[str, Depth]) -> None:
    number = stack.numbers.get(id(node), number)
    found |= dict.fromkeys(_own_names(node), Depth(stack.name, stack.depth, number, False))
    for child in node.children:
        _inside(child, stack, number, found)


def _own_names(node: Node) -> list[str]:
    return [*(full for full, _ in node.params.values()), *(full for full, _ in node.followers), *node.extras]


def _names(node: Node) -> list[str]:
    return [name for inner in node.walk() for name in _own_names(inner)]


def _is_below(branch: Node) -> bool:
    """Whether a module beside the layers, which holds none of them, comes before them."""
    if branch.role == "unembedding" or evidence.names_head(branch.name, leaf=False):
        return False
    if branch.role in ("conv", "norm") and _OUTPUT.search(branch.name):
        return False
    if _holds_inputs(branch) or evidence.names_embedding(branch.name):
        return branch.role != "norm" or _is_lowest_norm(branch)
    if branch.role == "norm":
        return _is_lowest_norm(branch)
    return bool(_INPUT.search(branch.name))


def _is_lowest_norm(norm: Node) -> bool:
    # LFM2 calls its final norm `embedding_norm`.
    return bool(_LOWEST_NORM.search(norm.name.lower())) and norm.name != "embedding_norm"


def _holds_inputs(branch: Node) -> bool:
    """Whether there are embeddings, positions or a convolution in a module: what a model begins with."""
    roles = ("embedding", "position", "conv", "conv_block")
    return any(
        node.role in roles or any(evidence.names_embedding(n) or evidence.names_position(n) for n in node.params)
        for node in branch.walk()
    )
