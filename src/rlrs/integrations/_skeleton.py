"""A JAX tree of parameters as a model of torch modules without memory, so that `rlrs.partition` can read it.

Names become those that torch would have: `{"block_0": {"mlp": {"up": {"kernel": ...}}}}` is `block.0.mlp.up.weight`,
and a bare matrix `{"attention": {"wq": ...}}` is `attention.wq.weight`. Matrices are (in, out) in JAX and turned here;
tables of embeddings are not. Trees of Flax, Haiku (`"mlp/~/linear_1"`) and plain nested dicts and lists are read.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import jax
import torch
from torch import nn

_WEIGHTS = {"kernel": "weight", "w": "weight", "scale": "weight", "b": "bias", "embedding": "weight"}
"""Last names in JAX libraries -> in torch."""
_NUMBERED = re.compile(r"^(.*?[^\d_])_?(\d+)$")
_TABLE = re.compile(r"(?<!un)embed|(?:^|_)w[tp]e(?:_|$)|(?:^|_)pos", re.I)
_NORM = re.compile(r"norm|(?:^|_)ln(?:_|\d|$)|scale|gain", re.I)


class _Leaf(NamedTuple):
    place: int  # among the leaves of the tree
    shape: tuple[int, ...]


class Tree(nn.Module):
    """A module of which only the names and shapes are known."""


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
    steps = [step.replace(".", "_") for key in keys for step in key.split("/") if step not in ("", "~")]
    return steps or ["weight"]  # the tree is a single array


def _module(tree: dict[str, Any], prefix: str, names: list[str]) -> nn.Module:
    tree = _nest_numbered(tree)
    module = _empty(tree)
    for key, value in tree.items():
        if isinstance(value, dict):
            module._modules[key] = _module(value, f"{prefix}{key}.", names)
        elif _is_bare(key, value, module):
            kind = {"embedding": value} if _TABLE.search(key) else {"kernel": value}
            module._modules[key] = _module(kind, f"{prefix}{key}.", names)
        else:
            name = _WEIGHTS.get(key, key)
            names[value.place] = prefix + name
            turned = isinstance(module, nn.Linear) and len(value.shape) == 2
            shape = value.shape[::-1] if turned else value.shape
            module._parameters[name] = nn.Parameter(torch.empty(shape, device="meta"))
    return module


def _is_bare(key: str, leaf: _Leaf, module: nn.Module) -> bool:
    """Whether the leaf is what torch has as a module of its own: a matrix or norm without `kernel` or `scale`."""
    if key == "embedding":
        return not isinstance(module, nn.Embedding)
    return key not in (*_WEIGHTS, "weight", "bias") and (len(leaf.shape) == 2 or bool(_NORM.search(key)))


def _empty(tree: dict[str, Any]) -> nn.Module:
    """A module of the kind that holds such things, without parameters."""
    shapes = {key: value.shape for key, value in tree.items() if isinstance(value, _Leaf)}
    if tree and len(shapes) < len(tree) and all(key.isdigit() for key in tree):
        return nn.ModuleList()
    module: nn.Module = Tree()
    if len(shapes) == len(tree):
        if set(shapes) == {"embedding"}:
            module = nn.Embedding(1, 1, device="meta")
        elif any(len(shapes.get(key, ())) == 2 for key in ("kernel", "w")):
            module = nn.Linear(1, 1, device="meta")
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
