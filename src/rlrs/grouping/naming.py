"""Names of found components, for rules and for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from rlrs.components import COMPONENTS
from rlrs.grouping.found_components import Place

_TELLS = 1.5
"""A factor from the middle of all tensors that is worth a word. Chosen here."""


def names(
    clusters: Sequence[Sequence[str]], places: Mapping[str, Place], figures: Sequence[Mapping[str, float]]
) -> list[tuple[str, str]]:
    """A short name and words for each cluster.

    Args:
        clusters: their tensors.
        places: of all tensors.
        figures: factors from the middle of all tensors, by figure.
    """
    whole = Counter(place.component for place in places.values())
    found: list[tuple[str, str]] = []
    taken: Counter[str] = Counter()
    for tensors, own in zip(clusters, figures, strict=True):
        where, parts = _where([places[name] for name in tensors]), Counter(places[name].component for name in tensors)
        kinds = [kind for kind, _ in parts.most_common(2)] if len(parts) < 3 else ["mixed"]
        short = "_".join(filter(None, [where, *kinds]))
        if short in COMPONENTS and parts != {short: whole[short]}:
            short += "_part"  # a standard name is the whole component's
        taken[short] += 1
        if taken[short] > 1:
            short += f"_{taken[short]}"
        said = " and ".join(kind.replace("_", "-") for kind in kinds).replace("mixed", "tensors of several kinds")
        found.append((short, f"{where} {said}: {_how(own)}".strip()))
    return found


def _where(places: Sequence[Place]) -> str:
    depths = [place.depth for place in places]
    if min(depths) < 0 or max(place.layers for place in places) < 2:
        return ""
    for word, low, high in (("early", 0.0, 1 / 3), ("middle", 1 / 3, 2 / 3), ("late", 2 / 3, 1.0)):
        if low <= min(depths) and max(depths) <= high:
            return word
    return ""


def _how(figures: Mapping[str, float]) -> str:
    """What is unlike the others, in words.

    >>> _how({"update_ratio": 0.2, "signal_to_noise": 0.5, "gradient": 1.1})
    'small, noisy updates'
    >>> _how({"update_ratio": 1.0, "signal_to_noise": 1.0, "gradient": 8.0, "growth": 0.3})
    'large, fading gradients'
    >>> _how({"update_ratio": 1.0, "signal_to_noise": 1.0, "gradient": 1.0})
    'like most'
    """

    def word(figure: str, low: str, high: str) -> list[str]:
        factor = figures.get(figure, 1.0)
        return [] if abs(math.log(factor)) < math.log(_TELLS) else [high if factor > 1 else low]

    updates = [*word("update_ratio", "small", "large"), *word("signal_to_noise", "noisy", "steady")]
    gradients = [*word("gradient", "small", "large"), *word("growth", "fading", "growing")]
    said = [f"{', '.join(words)} {what}" for words, what in ((updates, "updates"), (gradients, "gradients")) if words]
    return "; ".join(said) or "like most"
