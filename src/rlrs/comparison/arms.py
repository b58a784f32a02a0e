"""Arms of a comparison: which components have ratios of their own."""

from __future__ import annotations

from collections.abc import Sequence

from rlrs.settings import Arm


def searched_components(arm: Arm, components: Sequence[str]) -> list[str]:
    """Components whose ratios the arm's search moves, of those that the model has.

    >>> searched_components("embedding_only", ["embedding", "attention", "norm"])
    ['embedding']
    >>> searched_components("constant", ["embedding", "attention", "norm"])
    ['embedding', 'attention']
    """
    from rlrs.search import SEARCHED  # late: reading results needs no search and no trainer

    wanted = {"uniform": (), "embedding_only": ("embedding",), "constant": SEARCHED, "rlrs": SEARCHED}[arm]
    return [component for component in components if component in wanted]
