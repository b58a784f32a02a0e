"""Which component owns each parameter of a model, and by what evidence.

Two passes over the tree of modules. Upwards, every node gets a role from the strongest evidence there is: what the
module *is and holds* (queries, keys and values; up and down projections; experts with a router beside them; a learned
decay), then the words of its class and attribute, then shapes. A node that holds several roles is a layer or a whole
model and has none itself. Downwards, the outermost role wins for all that it holds, but norms and positions stay so
everywhere, and experts, router and shared experts divide a mixture of experts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import nn

from rlrs.components import evidence
from rlrs.components.experts import judge_experts
from rlrs.components.layers import Depth, find_depths
from rlrs.components.modalities import MODALITY, find_modality, find_towers
from rlrs.components.module_tree import BLOCK_ROLES, Node, Placement, build, inner, is_vector

_MIXERS = {"attention", "ssm", "conv", "conv_block"}
_MAY_HOLD = {
    "attention": {"attention", "conv_block"},
    "ssm": {"ssm", "conv_block"},
    "feed_forward": {"feed_forward", "conv_block"},
    "unembedding": {"feed_forward"},
    "router": {"feed_forward", "router"},
}
"""Block roles that a node of a role may hold without being a layer rather than a component."""
_WHAT = {
    "attention": "attention",
    "feed_forward": "feed-forward",
    "ssm": "recurrent mixer",
    "conv": "convolution",
    "conv_block": "convolution",
    "experts": "MoE experts",
    "router": "MoE router",
    "shared_experts": "MoE shared experts",
    "embedding": "embedding",
    "position": "positions",
    "unembedding": "output head",
    "norm": "norm",
}


def judge(model: nn.Module) -> tuple[dict[str, Placement], dict[str, Depth]]:
    """Parameter name, aliases of tied weights included -> its component and why; and its place among the layers."""
    (root,) = build(model)
    widths = _widths(root)
    for node in root.walk():
        node.widths = widths
    _judge(root)
    _judge_heads(root, model)
    towers = find_towers(root)
    found: dict[str, Placement] = {}
    _assign(root, None, towers, found)
    return found, find_depths(root)


def _widths(root: Node) -> Counter[int]:
    """Widths of the residual stream -> how many norms are that long, and tables that wide."""
    found: Counter[int] = Counter()
    for node in root.walk():
        if isinstance(node.module, nn.Embedding | nn.EmbeddingBag):
            found[node.module.embedding_dim] += 1
        elif evidence.norm_evidence(node) is not None:
            found[max((size for _, p in node.tensors() for size in p.shape), default=1)] += 1
    return found


# Upwards: roles.


def _judge(node: Node) -> None:
    """Give roles to a node and all below it, leaves first."""
    for child in node.children:
        _judge(child)
    node.gather()
    if (not node.children and _judge_leaf(node)) or judge_experts(node):
        return
    if evidence.names_norm(node) and not node.below:
        return  # an adaptive norm: its linears are neither attention nor feed-forward
    decided = None if _is_flat_layer(node) else _by_content(node) or _by_words(node) or _by_shape(node)
    if decided is not None:
        node.decide(*decided)
    else:
        _judge_layer(node)
        node.gather()


def _fits(node: Node, role: str) -> bool:
    return node.below <= _MAY_HOLD.get(role, set())


def _judge_leaf(node: Node) -> bool:
    """Norms, tables and convolutions: what a single layer is by itself."""
    if (norm := evidence.norm_evidence(node)) is not None:
        node.decide("norm", norm)
    elif isinstance(node.module, nn.Embedding | nn.EmbeddingBag):
        position = evidence.names_position(node.name) or "Position" in node.kind
        node.decide("position" if position else "embedding", "owner: table of")
    elif (shape := node.matrix()) is not None and len(shape) > 2 and "Conv" in node.kind:
        patches = not node.stacked and _is_patchify(node.module)
        node.decide("embedding" if patches else "conv", "owner: patches by" if patches else "owner:")
    return node.role is not None


def _is_patchify(module: nn.Module) -> bool:
    """A convolution whose windows do not overlap cuts its input into patches."""
    forward = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return forward and module.kernel_size == module.stride and max(module.kernel_size) > 1


def _is_flat_layer(node: Node) -> bool:
    """Whether queries, keys, values and a feed-forward stand in one module, as a layer written without submodules."""
    shapes = node.matrices()
    decided = {child.name for child in node.children if child.role is not None}
    rest = {n: s for n, s in shapes.items() if n not in decided | evidence.attention_weights(shapes)}
    both = evidence.expanding_pair(rest, node.widths) or evidence.has_up_and_down(list(rest))
    return bool(both) and evidence.has_query_key_value(list(shapes))


def _by_content(node: Node) -> tuple[str, str] | None:
    """What a module holds: certain, whatever it is called."""
    names = list(node.matrices())
    if isinstance(node.module, nn.MultiheadAttention):
        return "attention", "owner:"
    attends = evidence.has_query_key_value(names)
    decays = evidence.has_decay(node) or (attends and any(evidence.has_decay(child) for child in node.children))
    recurs = attends and evidence.word_role(node.kind, is_class=True) == "ssm"
    if (decays or recurs) and _fits(node, "ssm"):
        return "ssm", "structure: learned decay of" if decays else "owner:"
    if attends and _fits(node, "attention"):
        return "attention", "owner:"
    if node.stacked and evidence.has_up_and_down(names) and _fits(node, "feed_forward"):
        return "feed_forward", "owner:"
    return None


def _by_words(node: Node) -> tuple[str, str] | None:
    """What a module's class is called, then what its parent calls it."""
    leaf = not node.children
    texts = [] if node.is_container else [("owner:", node.kind, True)]
    for source, text, is_class in [*texts, ("name:", node.name, False)]:
        role = evidence.word_role(text, is_class=is_class)
        if role == "conv_block" and leaf and len(node.matrix() or ()) == 2:
            continue  # transformers' Conv1D is a transposed Linear
        if role == "position" and node.stacked and isinstance(node.module, nn.Linear):
            continue  # projects positions for its owner
        if role is not None and _fits(node, role):
            return role, source
        if node.stacked or node.below or role is not None:
            continue
        if evidence.names_head(text, leaf=leaf and not is_class):
            return "unembedding", source
        if evidence.names_embedding(text):
            return "embedding", source
    return None


def _by_shape(node: Node) -> tuple[str, str] | None:
    """Shapes alone, in a repeated layer: queries, keys and values fused, or one width to another and back."""
    shapes = node.matrices()
    if not node.stacked or not node.children or node.below or len(shapes) not in (2, 3):
        return None
    sizes = sorted(shapes.values())
    if len(sizes) == 2 and len(sizes[0]) == 2:
        (small, large) = sorted(sizes, key=lambda s: s[0] * s[1])
        if small[0] == small[1] and set(large) == {small[0], 3 * small[0]}:
            return "attention", "structure: three projections in one and their output,"
    if evidence.expanding_pair(shapes, node.widths) == set(shapes):
        return "feed_forward", "structure: one width to a larger one and back,"
    return None


def _judge_layer(node: Node) -> None:
    """The layers that stand open in a Transformer layer, such as `fc1` and `fc2` beside an attention module."""
    flat = evidence.has_query_key_value(list(node.matrices()))
    mixed = flat or any(child.role in _MIXERS for child in node.children)
    if not (mixed or node.stacked):
        return
    open_leaves = [leaf for child in node.children for leaf in _open_leaves(child, node.stacked)]
    shapes = {leaf.path: shape for leaf in open_leaves if (shape := leaf.matrix()) is not None}
    names = evidence.attention_weights(leaf.name for leaf in open_leaves) if flat else set()
    attends = {leaf.path for leaf in open_leaves if leaf.name in names}
    pair = evidence.expanding_pair({p: s for p, s in shapes.items() if p not in attends}, node.widths)
    named = [leaf.name for leaf in open_leaves if leaf.path in shapes and evidence.is_feed_forward_weight(leaf.name)]
    halves = mixed and evidence.has_up_and_down(named)
    for leaf in open_leaves:
        if leaf.path in attends:
            leaf.decide("attention", "structure: beside queries, keys and values,")
        elif leaf.path in pair:
            leaf.decide("feed_forward", "structure: one width to a larger one and back,")
        elif leaf.path in shapes and halves and leaf.name in named:
            leaf.decide("feed_forward", "name: beside a mixer,")
        elif leaf.path in shapes and evidence.has_attention_inputs(leaf.name):
            leaf.decide("attention", "name:")


def _open_leaves(node: Node, stacked: bool) -> Iterable[Node]:
    if node.role is not None or node.stacked != stacked or evidence.names_norm(node):
        return
    if not node.children:
        yield node
    for child in node.children:
        yield from _open_leaves(child, stacked)


# Ends of the model: tables and heads that the model declares, or that shapes tell.


def _judge_heads(root: Node, model: nn.Module) -> None:
    declared = _declared(model)
    tables = [n.matrix() for n in root.walk() if isinstance(n.module, nn.Embedding) and n.role == "embedding"]
    rows = _vocabularies([shape[0] for shape in tables if shape])
    for node in root.walk():
        shape = node.matrix() or (None, None)
        if node.ids & declared["unembedding"] and not node.below and not isinstance(node.module, nn.Embedding):
            node.decide("unembedding", "owner: the model's declared")
        elif node.ids & declared["embedding"] and not node.below:
            node.decide("embedding", "owner: the model's declared")
        elif _reads_out(node, root) and shape[0] in rows:
            node.decide("unembedding", "structure: as many outputs as the embedding has rows,")
    if not any(node.role == "unembedding" for node in root.walk()):
        _judge_only_head(root, rows)


def _reads_out(node: Node, root: Node) -> bool:
    """Whether an open layer beside the blocks reads the model's width, and is called no gate."""
    shape = node.matrix()
    open_end = node.role is None and not node.stacked and not evidence.names_router(node.name)
    return open_end and shape is not None and shape[1] in root.widths


def _vocabularies(rows: list[int]) -> set[int]:
    """Rows of the tables that hold vocabularies: not of those of token types and other small ones beside them."""
    return {count for count in rows if 2 * count >= max(rows)}


def _judge_only_head(root: Node, rows: set[int]) -> None:
    """A head that nothing names: the one linear beside the blocks that reads the model's width.

    Where there is a vocabulary, its outputs should be that many, or padded to a multiple of up to 128: a tied head is
    none of the model's modules, and what stands there may be a halting gate, a modulation, a projection of images.
    """
    top = inner(root).children
    if not any(child.below or child.role in BLOCK_ROLES for child in top):
        return
    open_ends = [
        (child, shape)
        for child in top
        if child.role is None and not child.below and not child.children and (shape := child.matrix()) is not None
    ]
    padded = {-(-count // multiple) * multiple for count in rows for multiple in (1, 2, 4, 8, 16, 32, 64, 128)}
    likely = [
        child
        for child, shape in open_ends
        if _reads_out(child, root)
        and shape[0] != shape[1]
        and find_modality(child, frozenset()) is None
        and (not rows or shape[0] in padded)
    ]
    if len(likely) == 1:
        likely[0].decide("unembedding", "structure: the one linear that reads the model's width,")


def _declared(model: nn.Module) -> dict[str, set[int]]:
    """Identities of the modules that the model itself calls input and output embeddings (transformers' methods)."""
    found: dict[str, set[int]] = {"embedding": set(), "unembedding": set()}
    owner = next((m for m in model.modules() if callable(getattr(m, "get_output_embeddings", None))), None)
    for role, method in (("embedding", "get_input_embeddings"), ("unembedding", "get_output_embeddings")):
        try:
            module = getattr(owner, method)()
        except (AttributeError, NotImplementedError):  # transformers: this architecture has none
            continue
        if isinstance(module, nn.Module):
            found[role].add(id(module))
    return found


# Downwards: placements.


def _assign(node: Node, owner: Placement | None, towers: dict[int, Placement], found: dict[str, Placement]) -> None:
    """Record the placement on each parameter at and below a node; `owner` is what the modules above it decided."""
    if (tower := towers.get(id(node))) is not None:
        _assign_tower(node, tower, towers, found)
        return
    placement = _placement(node, owner)
    for local, (full, parameter) in node.params.items():
        found[full] = _placement_on(node, local, parameter, placement, towers)
    for full, local in node.followers:
        found[full] = found[node.params[local][0]]
    for full in node.extras:
        settled = placement if placement is not None and placement.component != "moe" else None
        found[full] = settled or _unsure(node, "the adapter of an unclear layer")
    for child in node.children:
        _assign(child, placement, towers, found)


def _assign_tower(node: Node, tower: Placement, towers: dict[int, Placement], found: dict[str, Placement]) -> None:
    """Record one placement on all at and below a node, but for what has a placement of its own."""
    tower = towers.get(id(node), tower)
    names = [*(full for full, _ in node.params.values()), *(full for full, _ in node.followers), *node.extras]
    found |= dict.fromkeys(names, tower)
    for child in node.children:
        _assign_tower(child, tower, towers, found)


def _placement(node: Node, owner: Placement | None) -> Placement | None:
    role = node.role
    if role is None:
        return owner
    where = f"{_WHAT.get(role, role)} {node.path or 'model'}"
    own = Placement({"conv_block": "conv"}.get(role, role), f"{node.evidence} {where}")
    if owner is None or role == "norm":
        return own
    if owner.component == "moe":
        return own._replace(component="shared_experts") if role == "feed_forward" else own
    table = role == "position" and not isinstance(node.module, nn.Linear) and not node.children
    return own if table or (role == "position" and owner.component == "embedding") else owner


def _placement_on(
    node: Node, local: str, parameter: nn.Parameter, placement: Placement | None, towers: dict[int, Placement]
) -> Placement:
    """The placement on one parameter that a node itself owns."""
    if local in node.param_roles:
        role, why = node.param_roles[local]
        return Placement(role, f"{why} {_WHAT[role]} {node.path}.{local}")
    component = placement.component if placement is not None else None
    if component in (None, "attention", "embedding") and local != "weight" and evidence.names_position(local):
        return Placement("position", f"name: positions {local}")
    if evidence.names_norm_parameter(local) and is_vector(parameter):
        return Placement("norm", f"name: norm {local}")
    if placement is not None and component != "moe":
        return placement
    if component == "moe" and local.endswith("bias"):
        return Placement("experts", f"owner: bias of {node.path}")
    for modality in {tower.component for tower in towers.values()} - {"connector"}:
        if MODALITY[modality].search(local):
            return Placement("connector", f"name: {local}, which joins the {modality} tower")
    if local == "_flat_param":
        return _unsure(node, "FSDP has flattened it with others (make it with use_orig_params=True)")
    return _by_own_name(node, local, parameter) or _unsure(node, f"{local} of shape {tuple(parameter.shape)}")


def _by_own_name(node: Node, local: str, parameter: nn.Parameter) -> Placement | None:
    """The last resort: what a parameter that a layer or a model owns directly is called."""
    if not node.stacked and evidence.names_head_parameter(local):
        return Placement("unembedding", f"name: output head {local}")
    banks = [name for name, other in node.tensors() if other.ndim >= 3]
    if not node.stacked and banks:
        if parameter.ndim >= 3 and (role := evidence.bank_role(local, beside=banks)) is not None:
            return Placement(role, f"name: {_WHAT[role]} of all layers in {local}")
        if parameter.ndim == 2 and evidence.names_norm_parameter(local):
            return Placement("norm", f"name: norms of all layers in {local}")
    if evidence.names_embedding(local) or local == "cls":
        return Placement("embedding", f"name: learned input {local}")
    if node.stacked and evidence.names_scale(local) and is_vector(parameter) and parameter.ndim > 0:
        return Placement("norm", f"name: scale per channel {local}")
    beside = list(node.matrices())
    if node.stacked and parameter.ndim >= 2 and evidence.has_query_key_value(beside):
        role = evidence.bank_role(local, beside=beside)
        return Placement(role, f"name: {local} beside queries, keys and values") if role else None
    return None


def _unsure(node: Node, what: str) -> Placement:
    where = f"{node.kind} {node.path}" if node.path else f"the model ({node.kind})"
    return Placement(
        "other", f"{what}, owned by {where}: neither its owner, nor what is around it, nor its name decides"
    )
