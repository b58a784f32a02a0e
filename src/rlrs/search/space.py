"""Points of a search: base rate, final fraction, and a start and an end ratio per component."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rlrs.ratios import Ratios

Point = Mapping[str, float]
"""Parameter name -> value: `lr`, `final_fraction`, `COMPONENT.start`, `COMPONENT.end`."""

SEARCHED = ("embedding", "attention", "feed_forward", "experts", "shared_experts", "router", "unembedding")
"""Components that get ratios of their own in a search; the rest follow the base rate (the paper's choice)."""

# Chosen here, not studied: far outside of anything useful, so that a search is never led by them.
_BOUNDS = {"lr": (1e-7, 10.0), "final_fraction": (1e-5, 1.0)}
_RATIO_BOUNDS = (1e-4, 1e4)


def bounds(name: str) -> tuple[float, float]:
    """Lowest and highest value of a parameter; all are searched on a log scale."""
    return _BOUNDS.get(name, _RATIO_BOUNDS)


def start_point(lr: float, final_fraction: float, ratios: Ratios, components: Iterable[str]) -> dict[str, float]:
    """The point a search starts from, with a start and an end ratio for each of `components`.

    A final fraction of 1, which a constant schedule has, is not searched.
    """
    point = {"lr": lr} if final_fraction == 1 else {"lr": lr, "final_fraction": final_fraction}
    for component in components:
        ratio = ratios.get(component)
        point[f"{component}.start"] = ratio.start if ratio else 1.0
        point[f"{component}.end"] = ratio.end if ratio else 1.0
    return point


def ratios_of(point: Point) -> Ratios:
    """The ratios in a point."""
    components = dict.fromkeys(name.rpartition(".")[0] for name in point if "." in name)
    return Ratios({c: (point[f"{c}.start"], point[f"{c}.end"]) for c in components})
