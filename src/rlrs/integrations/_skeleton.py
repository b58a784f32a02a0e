"""A JAX tree of parameters as a model of torch modules without memory, so that `rlrs.partition` can read it.

Names become those that torch would have: `{"block_0": {"mlp": {"up": {"kernel": ...}}}}` is `block.0.mlp.up.weight`,
and a bare matrix `{"attention": {"wq": ...}}` is `attention.wq.weight`. Matrices are (in, out) in JAX and turned here;
tables of embeddings are not. Trees of Flax, Haiku (`"mlp/~/linear_1"`) and plain nested dicts and lists are read, with
or without boxes around their arrays. Layers that are scanned, all in one array with an axis of layers, are read as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import torch
from torch import nn

from rlrs.components.evidence import names_decay
from rlrs.components.module_tree import StackedLayers

_WEIGHTS = {"kernel": "weight", "w": "weight", "scale": "weight", "b": "bias", "embedding": "weight"}
"""Last names in JAX libraries -> in torch."""
_NUMBERED = re.compile(r"^(.*?[^\d_])_?(\d+)$")
_TABLE = re.compile(r"(?<!un)embed|(?:^|_)w[tp]e(?:_|$)|(?:^|_)pos", re.I)
_NORM = re.compile(r"norm|(?:^|_)ln(?:_|\d|$)|scale|gain", re.I)
_NORM_MODULE = re.compile(r"norm|(?:^|_)ln(?:_|\d|$)", re.I)
_OF_NORM = {"scale", "weight", "bias", "offset", "gamma", "beta", "g", "b"}
_LAYERS = re.compile(r"(?:layers?|blocks?|h|stack|scan\w*|\w+_(?:layers|blocks))")


class _Leaf(NamedTuple):
    place: int  # among the leaves of the tree
    shape: tuple[int, ...]


class Tree(nn.Module):
    """A module of which only the names and shapes are known."""


class NormTree(Tree):
    """One that is called a norm, and holds what a norm has: its class says so, whatever shape its arrays have."""


def skeleton(params: Any) -> tuple[nn.Module, list[str]]:
    """The model, and its parameters' names in the order of the tree's leaves.

    Raises:
        ValueError: two leaves would have one name.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    tree: dict[str, Any] = {}
    for index, (path, array) in enumerate(leaves):
        steps = _steps(path)
        place = tree
        for step in steps[:-1]:
            place = place.setdefault(step, {})
        place[steps[-1]] = _Leaf(index, tuple(array.shape))
    names = [""] * len(leaves)
    model = _module(tree, "", names)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"two leaves of the parameters would both be called {min(twice)}: rename one")
    return model, names


def _steps(path: tuple[Any, ...]) -> list[str]:
    keys = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    if len(keys) > 1 and keys[-1] == "value" and keys[-2] in (*_WEIGHTS, "weight", "bias"):
        keys.pop()  # a box with metadata (Flax's `Partitioned`, `nnx.Param`) around the array
    steps = [step.replace(".", "_") for key in keys for step in key.split("/") if step not in ("", "~")]
    return steps or ["weight"]  # the tree is a single array


def _module(tree: dict[str, Any], prefix: str, names: list[str], name: str = "") -> nn.Module:
    axis = _layer_axis(name, tree)
    if axis is not None:
        tree = _without_axis(tree, axis)
    tree = _nest_numbered(tree)
    module = StackedLayers() if axis is not None else _empty(tree, name)
    for key, value in tree.items():
        if isinstance(value, dict):
            module._modules[key] = _module(value, f"{prefix}{key}.", names, key)
        elif _is_bare(key, value, module):
            inner = "embedding" if _TABLE.search(key) else "scale" if _NORM.search(key) else "kernel"
            kind = {inner: value}
            module._modules[key] = _module(kind, f"{prefix}{key}.", names, key)
        else:
            local = _WEIGHTS.get(key, key)
            names[value.place] = prefix + local
            turned = isinstance(module, nn.Linear) and len(value.shape) == 2
            shape = value.shape[::-1] if turned else value.shape
            module._parameters[local] = nn.Parameter(torch.empty(shape, device="meta"))
    return module


def _layer_axis(name: str, tree: dict[str, Any]) -> int | None:
    """The axis along which all arrays of a subtree have their layers, 0 (Flax, T5X) or 1 (MaxText); None if none.

    Told by its norms, which are vectors in a layer, and matrices here; without norms, by what the subtree is called.
    """
    leaves = list(_leaves(tree))
    norms = [leaf for path, leaf in leaves if any(_NORM_MODULE.search(step) for step in path[-2:])]
    if not any(isinstance(value, dict) for value in tree.values()):
        return None
    if norms:
        scanned = all(len(leaf.shape) == 2 for leaf in norms) and all(len(leaf.shape) > 1 for _, leaf in leaves)
    else:
        kernels = [leaf for path, leaf in leaves if path[-1] in ("kernel", "w", "weight")]
        scanned = bool(_LAYERS.fullmatch(name) and kernels) and all(len(leaf.shape) > 2 for leaf in kernels)
        scanned = scanned and all(len(leaf.shape) > 1 for _, leaf in leaves)
    common = [axis for axis in (0, 1) if scanned and len({leaf.shape[axis] for _, leaf in leaves}) == 1]
    return common[0] if common else None


def _leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], _Leaf]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _without_axis(tree: dict[str, Any], axis: int) -> dict[str, Any]:
    return {
        key: _without_axis(value, axis)
        if isinstance(value, dict)
        else value._replace(shape=value.shape[:axis] + value.shape[axis + 1 :])
        for key, value in tree.items()
    }


def _is_bare(key: str, leaf: _Leaf, module: nn.Module) -> bool:
    """Whether the leaf is what torch has as a module of its own: a matrix or norm without `kernel` or `scale`."""
    if key == "embedding":
        return not isinstance(module, nn.Embedding)
    if names_decay(key):  # a matrix in Mamba, and the mixer's own
        return False
    return key not in (*_WEIGHTS, "weight", "bias") and (len(leaf.shape) == 2 or bool(_NORM.search(key)))


def _empty(tree: dict[str, Any], name: str) -> nn.Module:
    """A module of the kind and size that holds such things, without parameters."""
    shapes = {key: value.shape for key, value in tree.items() if isinstance(value, _Leaf)}
    if tree and len(shapes) < len(tree) and all(key.isdigit() for key in tree):
        return nn.ModuleList()
    module: nn.Module = Tree()
    if len(shapes) == len(tree):
        matrix = next((shapes[key] for key in ("kernel", "w") if len(shapes.get(key, ())) == 2), None)
        if set(shapes) == {"embedding"} and len(shapes["embedding"]) == 2:
            module = nn.Embedding(shapes["embedding"][0], shapes["embedding"][1], device="meta")
        elif matrix is not None:
            module = nn.Linear(matrix[0], matrix[1], device="meta")
        elif set(shapes) <= _OF_NORM and _NORM_MODULE.search(name):
            module = NormTree()
    module._parameters.clear()
    return module


def _nest_numbered(tree: dict[str, Any]) -> dict[str, Any]:
    """`block_0`, `block_1` as the elements 0, 1 of a list `block`, where they are modules that hold modules."""
    nested: dict[str, Any] = {}
    for key, value in tree.items():
        match = _NUMBERED.match(key)
        layers = isinstance(value, dict) and any(isinstance(inner, dict) for inner in value.values())
        if match and layers and match[1] not in tree:
            nested.setdefault(match[1], {})[match[2]] = value
        else:
            nested[key] = value
    return nested
