"""Ratios of a proxy at a wider model, by rules that need no ladder."""

from __future__ import annotations

import math
from collections.abc import Collection

from rlrs.records import Recipe

MATRICES = ("attention", "feed_forward", "experts", "shared_experts", "router", "unembedding")
"""Components whose tensors are matrices with the width as fan-in, or as fan-in and fan-out."""


def carried(recipe: Recipe, mode: str, width: float, components: Collection[str], *, one_rate: bool = False) -> Recipe:
    """What an arm found on the proxy, with its ratios as a mode carries them; the base rate is tuned again afterwards.

    - `unchanged`: those of the proxy (arXiv:2507.03526).
    - `sqrt-width`: the embedding's times the square root of the growth in width (arXiv:2506.15025).
    - `mup`: those of matrices that the width feeds, divided by the growth in width, as under Adam in muP (Yang et al.,
      2022, arXiv:2203.03466, table 3). Rates alone: initialisation and multipliers stay.

    An arm without ratios stays without: it is the control that the others are compared with. But for the arm
    `mup_width`, which is one rate on the proxy, and that rate as muP carries it on the target.

    >>> recipe = Recipe(lr=0.01, ratios={"embedding": ((0.0, 5.0), (1.0, 0.5))})
    >>> carried(recipe, "sqrt-width", 4.0, ["embedding", "attention"]).ratios
    {'embedding': ((0.0, 10.0), (1.0, 1.0))}
    >>> carried(recipe, "mup", 4.0, ["embedding", "attention"]).ratios["attention"]
    ((0.0, 0.25), (1.0, 0.25))

    Args:
        recipe: of the proxy.
        mode: one of the above.
        width: the target's over the proxy's.
        components: of the target.
        one_rate: whether a recipe without ratios is carried by the mode, too.

    Raises:
        ValueError: another mode.
    """
    if mode == "unchanged" or not (recipe.ratios or one_rate):
        return recipe
    if mode == "sqrt-width":
        factors = {"embedding": math.sqrt(width)}
    elif mode == "mup":
        factors = dict.fromkeys([name for name in components if name in MATRICES], 1 / width)
    else:
        raise ValueError(f"mode should be unchanged, sqrt-width or mup, not {mode!r}")
    ratios = dict(recipe.ratios)
    for component, factor in factors.items():
        parts = [name for name in ratios if name.partition("/")[0] == component]
        if component not in parts and mode == "mup":
            parts.append(component)
        for name in parts:
            knots = ratios.get(name, ((0.0, 1.0), (1.0, 1.0)))
            ratios[name] = tuple((progress, float(f"{ratio * factor:.6g}")) for progress, ratio in knots)
    return recipe.model_copy(update={"ratios": ratios})
