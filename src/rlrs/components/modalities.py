"""Separate towers of multimodal models, and what joins them to the language model."""

from __future__ import annotations

import re
from collections.abc import Callable

from rlrs.components.module_tree import BLOCK_ROLES, Node, Placement, inner

MODALITY = {
    "vision": re.compile(r"(?:^|_)(?:vision|visual|image|img|vit|video)(?:_|$)|Vision|Visual|^ViT|Siglip"),
    "audio": re.compile(r"(?:^|_)(?:audio|speech|acoustic|sound)(?:_|$)|Audio|Speech|^Wav2Vec"),
}
_JOINT = re.compile(
    r"projector|connector|merger|resampler|aligner|multi_?modal|(?:^|_)mm_|qformer|^language_proj"
    r"|^embed_(?:vision|audio)$"
)


def find_modality(node: Node, without: frozenset[str]) -> str | None:
    """The modality that a module's class or name says, but for classes that say one of `without`."""
    for modality, pattern in MODALITY.items():
        of_class = not node.is_container and modality not in without and pattern.search(node.kind)
        if of_class or pattern.search(node.name):
            return modality
    return None


def find_towers(root: Node) -> dict[int, Placement]:
    """Node -> placement for all under it: encoders of another modality than the model's own, and what joins them.

    What joins may be inside an encoder's module, as the merger of Qwen-VL's is.
    """
    # A root of class Qwen2AudioForConditionalGeneration gives its word to all of its parts' classes.
    without = frozenset(m for m, pattern in MODALITY.items() if pattern.search(inner(root).kind))
    found: dict[int, Placement] = {}
    for modality in MODALITY:
        candidates = _topmost(root, lambda n, m=modality: n is not root and find_modality(n, without) == m)
        encoders = [n for n in candidates if n.below]
        if encoders and _blocks_outside(root, {id(n) for n in encoders}):
            for node in encoders:
                found[id(node)] = Placement(modality, f"owner: {modality} tower {node.path}")
                for joint in (n for child in node.children for n in _topmost(child, _is_joint)):
                    found[id(joint)] = Placement("connector", f"owner: {joint.path}, which joins the {modality} tower")
    modalities = {placement.component for placement in found.values()} - {"connector"}
    if not modalities:
        return found
    for node in _topmost(root, lambda n: id(n) in found or _joins(n, found, without)):
        modality = find_modality(node, without) or (min(modalities) if len(modalities) == 1 else None)
        if id(node) not in found and (_is_joint(node) or modality in modalities):
            component = "connector" if _is_joint(node) else modality or ""
            tower = f"the {modality} tower" if modality in modalities else "the towers"
            found[id(node)] = Placement(component, f"owner: {node.path}, which joins {tower}")
    return found


def _joins(node: Node, towers: dict[int, Placement], without: frozenset[str]) -> bool:
    if node.stacked or any(id(n) in towers for n in node.walk()):
        return False
    return _is_joint(node) or bool(find_modality(node, without) and not node.below)


def _is_joint(node: Node) -> bool:
    return not node.stacked and bool(_JOINT.search(node.name))


def _topmost(node: Node, wanted: Callable[[Node], bool]) -> list[Node]:
    return [node] if wanted(node) else [n for child in node.children for n in _topmost(child, wanted)]


def _blocks_outside(node: Node, excluded: set[int]) -> bool:
    if id(node) in excluded:
        return False
    return node.role in BLOCK_ROLES or any(_blocks_outside(child, excluded) for child in node.children)
