"""Comparison of arms on the target: paired seeds, saved steps, decision; and the reader of what a study left."""

from rlrs.comparison.ablating import ablation_sentence, judged_rows
from rlrs.comparison.arms import FACTORS, frozen_components, searched_components
from rlrs.comparison.decision import decide
from rlrs.comparison.judging import SIMPLEST_FIRST, Judged, far, judge, judged_again, unstable
from rlrs.comparison.measure import measure
from rlrs.comparison.power import POWER, power, seeds_needed, smallest_difference
from rlrs.comparison.reader import read_results
from rlrs.comparison.refuting import (
    chance_of_seeing,
    claim_sentence,
    claims,
    fresh_seeds_for,
    fresh_test,
    further_seeds,
    named_claim,
    refutation_sentence,
    upheld,
)
from rlrs.comparison.savings import Account, PaysOff, Quantity, account
from rlrs.comparison.sentences import Verdict, saving_shown
from rlrs.comparison.sequential import ANYTIME, anytime_p_value, boundary, confidence_sequence
from rlrs.comparison.statistics import FIXED, bootstrap, holm, interval, p_smaller, p_value, speed_up, steps_to_reach

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
    "ablation_sentence",
    "account",
    "anytime_p_value",
    "bootstrap",
    "boundary",
    "chance_of_seeing",
    "claim_sentence",
    "claims",
    "confidence_sequence",
    "decide",
    "far",
    "fresh_seeds_for",
    "fresh_test",
    "frozen_components",
    "further_seeds",
    "holm",
    "interval",
    "judge",
    "judged_again",
    "judged_rows",
    "measure",
    "named_claim",
    "p_smaller",
    "p_value",
    "power",
    "read_results",
    "refutation_sentence",
    "saving_shown",
    "searched_components",
    "seeds_needed",
    "smallest_difference",
    "speed_up",
    "steps_to_reach",
    "unstable",
    "upheld",
]
