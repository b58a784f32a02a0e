"""Arms of a comparison: which components have ratios of their own, and where these come from."""

from __future__ import annotations

from collections.abc import Sequence

from rlrs.settings import Arm

DESCRIPTIONS: dict[Arm, str] = {
    "uniform": "one rate for all components; its base rate and final fraction are tuned",
    "embedding_only": "the embedding alone has a start and an end ratio, both tuned: the well-known multiplier",
    "constant": "every component has one ratio, searched as such: the difference to rlrs is what change is worth",
    "rlrs": "every component has a start and an end ratio",
}


def searched_components(arm: Arm, components: Sequence[str]) -> list[str]:
    """Components whose ratios the arm's search moves, of those that the model has."""
    from rlrs.search import SEARCHED  # late: reading results needs no search and no trainer

    wanted = {"uniform": (), "embedding_only": ("embedding",), "constant": SEARCHED, "rlrs": SEARCHED}[arm]
    return [component for component in components if component in wanted]
