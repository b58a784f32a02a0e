"""A model as a tree of nodes, one per module, with wrappers looked through."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_ORIGINAL = re.compile(r"original\d*")
_OLD_STYLE = re.compile(r"(.+)_(?:g|v|orig)")
"""`torch.nn.utils.weight_norm`, `spectral_norm` and `prune`, which keep the tensor itself as a plain attribute."""
BLOCK_ROLES = frozenset(
    {"attention", "feed_forward", "ssm", "experts", "router", "shared_experts", "moe", "conv_block"}
)
"""Roles that make up a layer of a Transformer; a module that holds several of them is a layer, not a component."""


class Placement(NamedTuple):
    """Where a parameter belongs, and the evidence."""

    component: str
    reason: str


class StackedLayers(nn.Module):
    """A module that stands for all layers of a stack, where their weights are in one array with an axis of layers."""


@dataclass(eq=False, slots=True)
class Node:
    """One place of a module in the model. A module shared by two places is two nodes."""

    path: str
    """As in `named_modules()`, wrappers included; empty for the root."""
    name: str
    """Attribute that holds it in its parent, wrappers looked through."""
    module: nn.Module
    ids: set[int]
    """Identities of the module and of its wrappers."""
    stacked: bool
    """Inside a repeated layer: an element of a list, dict or sequence of modules that hold more than one matrix."""
    params: dict[str, tuple[str, nn.Parameter]] = field(default_factory=dict)
    """Local name -> (full name, parameter), for the parameters that the module itself owns; of a parametrized tensor,
    the largest of those that it is computed from."""
    followers: list[tuple[str, str]] = field(default_factory=list)
    """(full name, local name) of the other parameters from which a parametrized tensor is computed."""
    extras: list[str] = field(default_factory=list)
    """Full names of adapter parameters that a PEFT layer adds to this module."""
    children: list[Node] = field(default_factory=list)
    role: str | None = None
    evidence: str = ""
    below: set[str] = field(default_factory=set)
    """Block roles of the nearest nodes under this one that have such a role."""
    param_roles: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Local name -> (role, evidence), where it differs from the node's."""

    widths: Mapping[int, int] = field(default_factory=dict)
    """Widths of the model's residual stream -> how many norms are that long, and tables that wide."""
    kind: str = field(init=False)
    """Name of the class, without the prefix that FSDP2 and parametrizations give a class they derive."""

    def __post_init__(self) -> None:
        self.kind = re.sub(r"^(?:FSDP|Parametrized)+(?=[A-Z])", "", type(self.module).__name__)

    @property
    def is_container(self) -> bool:
        """A plain list, dict or sequence: its class says nothing."""
        return isinstance(self.module, _CONTAINERS)

    def decide(self, role: str, evidence: str) -> None:
        """Give the node its role."""
        self.role, self.evidence = role, evidence

    def tensors(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Local name and parameter of what the module itself owns."""
        return ((local, parameter) for local, (_, parameter) in self.params.items())

    def matrix(self) -> tuple[int, ...] | None:
        """Shape of the weight of a layer such as a Linear; None for anything else."""
        # Told by the layer where it can: a sharded or quantised weight has another shape.
        if isinstance(self.module, nn.Linear):
            return self.module.out_features, self.module.in_features
        if isinstance(self.module, nn.Embedding | nn.EmbeddingBag):
            return self.module.num_embeddings, self.module.embedding_dim
        if "weight" not in self.params:
            return None
        shape = self.params["weight"][1].shape
        return tuple(shape) if len(shape) >= 2 else None

    def matrices(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the weights of two and more dimensions, its own and its children's."""
        found = {n: tuple(p.shape) for n, p in self.tensors() if p.ndim >= 2 and not n.endswith("bias")}
        own = self.matrix()
        if own is not None:
            found["weight"] = own
        for child in self.children:
            shape = child.matrix()
            if shape is not None and child.role != "norm":
                found[child.name] = shape
        return found

    def gather(self) -> None:
        """Find the block roles of the nearest nodes below."""
        self.below = set()
        for child in self.children:
            self.below |= {child.role} if child.role in BLOCK_ROLES else child.below

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def path_steps(name: str) -> list[str]:
    """The steps of a dotted name that are the model's own, without those that wrappers put in.

    The last step, the parameter's, always stays. A tensor that `torch.nn.utils.parametrize` computes from others keeps
    its own name: `q.parametrizations.weight.original0` is `q.weight`.
    """
    *steps, last = name.split(".")
    kept: list[str] = []
    skip = False
    for step, following in zip(steps, [*steps, last][1:], strict=True):
        if skip:
            skip = False
        elif step == "modules_to_save" or (step == "base_model" and following == "model"):
            skip = True
        elif step not in _WRAPPERS and step not in ("base_layer", "original_module"):
            kept.append(step)
    if len(kept) >= 2 and kept[-2] == "parametrizations" and _ORIGINAL.fullmatch(last):
        return [*kept[:-2], kept[-1]]
    return [*kept, last]


def build(module: nn.Module, path: str = "", name: str = "", stacked: bool = False) -> list[Node]:
    """The node of a module, or several where PEFT keeps copies of it (`modules_to_save`).

    What holds no parameter is left out below it.
    """
    ids = {id(module)}
    while (wrapped := _look_through(module)) is not None:
        step, module = wrapped
        path = _join(path, step)
        ids.add(id(module))
    held = module._modules
    if "original_module" in held and "modules_to_save" in held:
        copies = [("original_module", held["original_module"])]
        copies += [(f"modules_to_save.{n}", m) for n, m in (held["modules_to_save"] or nn.Module())._modules.items()]
        nodes = [n for step, m in copies if m is not None for n in build(m, _join(path, step), name, stacked)]
        for node in nodes:
            node.ids |= ids
        return nodes
    base = held.get("base_layer")
    if base is not None:
        (node,) = build(base, _join(path, "base_layer"), name, stacked)
        node.ids |= ids
        inner = _join(path, "base_layer.")
        node.extras += [
            full
            for local, _ in module.named_parameters(remove_duplicate=False)
            if not (full := _join(path, local)).startswith(inner)
        ]
        return [node]
    node = Node(path, name, module, ids, stacked)
    _take_parameters(node)
    is_list = isinstance(module, _CONTAINERS)
    for step, child in held.items():
        if child is not None and not (step == "parametrizations" and is_parametrized(module)):
            layer = is_list and (any(m is not None for m in child._modules.values()) or _owns_matrices(child))
            layer = layer or isinstance(child, StackedLayers)
            nodes = build(child, _join(path, step), step, stacked or layer)
            node.children += [n for n in nodes if n.params or n.extras or n.children]
    return [node]


def _take_parameters(node: Node) -> None:
    """Record what the module itself owns: a parametrized tensor once, under its own name."""
    sources: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in node.module._parameters.items():
        if parameter is not None:
            match = _OLD_STYLE.fullmatch(name)
            local = match[1] if match and match[1] in vars(node.module) else name
            sources.setdefault(local, []).append((_join(node.path, name), parameter))
    parametrized = node.module._modules.get("parametrizations")
    if parametrized is not None and is_parametrized(node.module):
        for local, steps in parametrized.named_children():
            inside = [(_join(node.path, f"parametrizations.{local}.{n}"), p) for n, p in steps.named_parameters()]
            sources[local] = [*sources.get(local, []), *inside]
    for local, tensors in sources.items():
        if tensors:
            originals = [t for t in tensors if _ORIGINAL.fullmatch(t[0].rpartition(".")[2])] or tensors
            largest = max(originals, key=lambda tensor: tensor[1].numel())
            node.params[local] = largest
            node.followers += [(full, local) for full, _ in tensors if full != largest[0]]


def inner(root: Node) -> Node:
    """The model itself, inside PEFT's two shells and others that hold one module only."""
    while len(root.children) == 1 and not root.children[0].is_container and not root.params:
        (root,) = root.children
    return root


def _look_through(module: nn.Module) -> tuple[str, nn.Module] | None:
    held = {n: m for n, m in module._modules.items() if m is not None}
    if len(held) != 1 or isinstance(module, _CONTAINERS):
        return None
    ((step, inner),) = held.items()
    # Fully sharded parameters of FSDP1 hang on the wrapper itself: it is then a node of its own.
    own = any(p is not None for p in module._parameters.values())
    return (step, inner) if step in _WRAPPERS and not own else None


def _owns_matrices(module: nn.Module) -> bool:
    """Whether a module is a layer written without submodules: its own parameters are several matrices."""
    return sum(p is not None and p.ndim >= 2 for p in module._parameters.values()) > 2


def _join(path: str, step: str) -> str:
    return f"{path}.{step}" if path else step


def is_vector(parameter: nn.Parameter) -> bool:
    """Whether it is no matrix: fewer than two dimensions, or a vector with broadcast ones, such as (1, 1, width)."""
    return parameter.ndim < 2 or (parameter.ndim > 2 and sum(size > 1 for size in parameter.shape) < 2)
