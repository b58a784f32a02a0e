"""A check that trainers whose schedules end at 0 by default have in common."""

from __future__ import annotations

from rlrs.ratios import Ratios, RatiosError


def check_ends(ratios: Ratios, cause: str, remedy: str) -> None:
    """Raise a RatiosError that names ratios whose end has no effect where the base rate ends at 0: the rate is 0 there.

    Args:
        ratios: relative rates per component.
        cause: the trainer's setting that says 0.
        remedy: what to write instead.
    """
    lost = [name for name, ratio in ratios.items() if ratio.end != ratio.knots[-2][1]]
    if lost:
        raise RatiosError(f"{cause} ends at 0, where the end ratio of {', '.join(lost)} has no effect; give {remedy}")
