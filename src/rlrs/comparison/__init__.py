"""Comparison of arms on the target: paired seeds, saved steps, decision; and the reader of what a study left."""

from rlrs.comparison.arms import searched_components
from rlrs.comparison.decision import SIMPLEST_FIRST, decide
from rlrs.comparison.measure import measure
from rlrs.comparison.power import POWER, power, seeds_needed, smallest_difference
from rlrs.comparison.reader import read_results
from rlrs.comparison.sequential import ANYTIME, anytime_p_value, boundary, confidence_sequence
from rlrs.comparison.statistics import FIXED, holm, interval, p_value, speed_up, steps_to_reach

__all__ = [
    "ANYTIME",
    "FIXED",
    "POWER",
    "SIMPLEST_FIRST",
    "anytime_p_value",
    "boundary",
    "confidence_sequence",
    "decide",
    "holm",
    "interval",
    "measure",
    "p_value",
    "power",
    "read_results",
    "searched_components",
    "seeds_needed",
    "smallest_difference",
    "speed_up",
    "steps_to_reach",
]
