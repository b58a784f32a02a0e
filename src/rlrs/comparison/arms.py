"""Arms of a comparison: what the search of each moves, and what it holds at zero."""

from __future__ import annotations

from collections.abc import Sequence

from rlrs.settings import Arm

FACTORS: dict[Arm, float] = {"layer_decay": 0.8, "lora_plus": 4.0}
"""Arms whose search moves one factor of that name in the place of ratios, and where it starts. Chosen here: within the
usual 0.65 to 0.95 of layer-wise decay, and a fourth of the 16 that LoRA+ is proposed with."""


def searched_components(arm: Arm, components: Sequence[str]) -> list[str]:
    """Components whose ratios the arm's search moves, of those that the model trains.

    >>> searched_components("embedding_only", ["embedding", "attention", "norm"])
    ['embedding']
    >>> searched_components("constant", ["embedding", "attention", "norm"])
    ['embedding', 'attention']
    """
    from rlrs.search import SEARCHED  # late: reading results needs no search and no trainer

    wanted = {"embedding_only": ("embedding",), "constant": SEARCHED, "rlrs": SEARCHED}.get(arm, ())
    return [component for component in components if component in wanted]


def frozen_components(arm: Arm, components: Sequence[str]) -> list[str]:
    """Components that the arm's runs do not train, of those that the others do: their ratio is 0 from start to end.

    >>> frozen_components("head_only", ["embedding", "norm", "unembedding"])
    ['embedding', 'norm']
    >>> frozen_components("frozen_embedding", ["embedding", "norm", "unembedding"])
    ['embedding']
    """
    if arm == "frozen_embedding":
        return [component for component in components if component == "embedding"]
    return [component for component in components if component != "unembedding"] if arm == "head_only" else []
