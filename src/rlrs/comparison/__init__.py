"""Comparison of arms on the target: paired seeds, saved steps, decision; and the reader of what a study left."""

from rlrs.comparison.arms import searched_components
from rlrs.comparison.decision import SIMPLEST_FIRST, decide
from rlrs.comparison.measure import measure
from rlrs.comparison.reader import read_results
from rlrs.comparison.statistics import interval, speed_up, steps_to_reach

__all__ = [
    "SIMPLEST_FIRST",
    "decide",
    "interval",
    "measure",
    "read_results",
    "searched_components",
    "speed_up",
    "steps_to_reach",
]
