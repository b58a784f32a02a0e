"""Mixtures of experts: which of a node's children and parameters are experts, router and shared experts."""

from __future__ import annotations

from torch import nn

from rlrs.components import evidence
from rlrs.components.module_tree import Node

_WITHIN = {"experts", "router", "shared_experts", "feed_forward", "moe"}


def judge_experts(node: Node) -> bool:
    """Experts among a node's children or own parameters, and what stands beside them; True for a whole MoE module."""
    if not node.children and all(parameter.ndim < 3 for _, parameter in node.tensors()):
        return False
    for child in node.children:
        if child.role not in ("moe", "norm", "experts") and _experts_by_name(child):
            child.decide("experts", "owner:")
        elif child.role in (None, "feed_forward") and (count := _repeated(child)) and _scored(node, count, child):
            child.decide("experts", f"structure: {count} alike beside a router,")
    if not evidence.names_experts(node) and not evidence.has_query_key_value(list(node.matrices())):
        for local, parameter in node.tensors():
            if parameter.ndim == 3 and _scored(node, count := parameter.shape[0], node):
                node.param_roles[local] = ("experts", f"structure: {count} stacked beside a router,")
    held = [child for child in node.children if child.role in ("experts", "moe")]
    if not held and not node.param_roles:
        return False
    _judge_beside_experts(node, held)
    node.gather()
    if node.below <= _WITHIN and (node.param_roles or "experts" in node.below):
        node.decide("moe", "owner:")
        return True
    return False


def _experts_by_name(node: Node) -> bool:
    return evidence.names_experts(node) and any(p.ndim >= 2 for n in node.walk() for _, p in n.tensors())


def _repeated(node: Node) -> int:
    """How many equal feed-forward blocks a list holds, or how many a 3-D parameter stacks; 0 if neither."""
    if node.is_container and len(node.children) > 1:
        signatures = {tuple(sorted(c.matrices().values())) for c in node.children}
        alike = all(c.role == "feed_forward" for c in node.children) and len(signatures) == 1
        return len(node.children) if alike else 0
    stacks = {p.shape[0] for _, p in node.tensors() if p.ndim == 3}
    return stacks.pop() if len(stacks) == 1 and not node.children else 0


def _routes(node: Node, count: int) -> bool:
    """Whether a node scores `count` experts: one matrix, one of whose sides is that long."""
    if node.role not in (None, "router") or node.below or count < 2 or evidence.names_norm(node):
        return False
    shapes = [s for n in node.walk() for s in n.matrices().values()]
    return any(len(s) == 2 and s[0] != s[1] and count in s for s in shapes)


def _scored(node: Node, count: int, experts: Node) -> bool:
    """Whether something beside the experts scores `count` of them: a child, or a parameter that is called a gate."""
    by_child = any(_routes(child, count) for child in node.children if child is not experts)
    by_own = any(_is_own_router(n, p) and count in p.shape for n, p in node.tensors() if p.ndim == 2)
    return count > 1 and (by_child or by_own)


def _is_own_router(local: str, parameter: nn.Parameter) -> bool:
    # Two-dimensional biases are those of fused experts, (experts, width).
    return evidence.names_router(local) and (parameter.ndim < 2 or (parameter.ndim == 2 and not local.endswith("bias")))


def _judge_beside_experts(node: Node, held: list[Node]) -> None:
    """Router, shared experts and own parameters of the module that holds the experts."""
    routed = any("router" in child.below or child.role == "router" for child in node.children)
    counts = {_repeated(child) for child in held} | {node.params[n][1].shape[0] for n in node.param_roles}
    open_children = [c for c in node.children if c.role not in ("experts", "moe", "norm", "attention", "ssm")]
    for child in open_children:
        named = evidence.names_router(child.name) or evidence.names_router(child.kind)
        if evidence.names_shared(child):
            child.decide("shared_experts", "owner:")
        elif named and not routed and not evidence.has_up_and_down(list(child.matrices())):
            child.decide("router", "owner:")
    if not routed and all(child.role != "router" for child in open_children):
        for child in open_children:
            if child.role is None and any(_routes(child, count) for count in counts if count):
                child.decide("router", "structure: scores the experts beside it,")
    for local, parameter in node.tensors():
        if local in node.param_roles:
            continue
        if _is_own_router(local, parameter):
            node.param_roles[local] = ("router", "name:")
        elif parameter.ndim == 1 and parameter.shape[0] in counts:
            node.param_roles[local] = ("router", "structure: one number per expert,")
