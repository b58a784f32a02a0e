"""Comparison of arms on the target: paired seeds, saved steps, decision; and the reader of what a study left."""

from rlrs.comparison.arms import FACTORS, frozen_components, searched_components
from rlrs.comparison.decision import decide
from rlrs.comparison.judging import SIMPLEST_FIRST, Judged, judge, judged_again
from rlrs.comparison.measure import measure
from rlrs.comparison.power import POWER, power, seeds_needed, smallest_difference
from rlrs.comparison.reader import read_results
from rlrs.comparison.savings import Account, PaysOff, Quantity, account
from rlrs.comparison.sentences import Verdict, saving_shown
from rlrs.comparison.sequential import ANYTIME, anytime_p_value, boundary, confidence_sequence
from rlrs.comparison.statistics import FIXED, bootstrap, holm, interval, p_value, speed_up, steps_to_reach

__all__ = [
    "ANYTIME",
    "FACTORS",
    "FIXED",
    "POWER",
    "SIMPLEST_FIRST",
    "Account",
    "Judged",
    "PaysOff",
    "Quantity",
    "Verdict",
    "account",
    "anytime_p_value",
    "bootstrap",
    "boundary",
    "confidence_sequence",
    "decide",
    "frozen_components",
    "holm",
    "interval",
    "judge",
    "judged_again",
    "measure",
    "p_value",
    "power",
    "read_results",
    "saving_shown",
    "searched_components",
    "seeds_needed",
    "smallest_difference",
    "speed_up",
    "steps_to_reach",
]
