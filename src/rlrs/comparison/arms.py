"""Arms of a comparison: which components have ratios of their own, and where these come from."""

from __future__ import annotations

from collections.abc import Sequence

from rlrs.settings import Arm


def searched_components(arm: Arm, components: Sequence[str]) -> list[str] | None:
    """Components whose ratios the arm's search moves, of those that the model has.

    None for an arm that has no search of its own: `constant` is derived from what `rlrs` found.

    >>> searched_components("embedding_only", ["embedding", "attention", "norm"])
    ['embedding']
    >>> searched_components("uniform", ["embedding", "attention", "norm"])
    []
    """
    from rlrs.search import SEARCHED  # late: reading results needs no search and no trainer

    if arm == "constant":
        return None
    wanted = {"uniform": (), "embedding_only": ("embedding",), "rlrs": SEARCHED}[arm]
    return [component for component in components if component in wanted]
