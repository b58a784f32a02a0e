"""Comparison of arms on the target: paired seeds, saved steps, verdict."""

from rlrs.comparison.arms import DESCRIPTIONS, held_at_start, searched_components
from rlrs.comparison.measure import measure
from rlrs.comparison.statistics import Interval, SpeedUp, Verdict, interval, speed_up, steps_to_reach, verdict

__all__ = [
    "DESCRIPTIONS",
    "Interval",
    "SpeedUp",
    "Verdict",
    "held_at_start",
    "interval",
    "measure",
    "searched_components",
    "speed_up",
    "steps_to_reach",
    "verdict",
]
