"""When a comparison that runs seed by seed stops, and what it says then."""

import math

from rlrs.comparison import ANYTIME, decide
from rlrs.comparison.seed_stopping import stopping

SEEDS = [3.60, 3.62, 3.58, 3.61, 3.59, 3.63]
JITTER = [0.004, -0.002, 0.001, -0.003, 0.002, -0.001]


def stopped(seeds=6, margin=0.02, max_seeds=12, **below):
    losses = {"uniform": SEEDS[:seeds]}
    for place, (arm, gap) in enumerate(below.items()):
        jitter = JITTER[place:] + JITTER[:place]
        losses[arm] = [base - gap + noise for base, noise in zip(SEEDS, jitter, strict=True)][:seeds]
    decision = decide(losses, range(seeds), rule=ANYTIME)
    return decision, stopping(losses, decision, margin, max_seeds)


def test_it_stops_when_every_simpler_arm_is_passed_over():
    decision, got = stopped(embedding_only=0.1, constant=0.2, rlrs=0.3)
    assert (decision.winner, got.reason) == ("rlrs", "gain")
    assert got.sentence == "Stopped after 6 paired seeds: every simpler arm is passed over."


def test_it_stops_when_no_arm_beyond_the_winner_can_gain_more_than_the_margin():
    decision, got = stopped(embedding_only=0.1, rlrs=0.101)
    assert (decision.winner, got.reason) == ("embedding_only", "no_gain")
    assert "no arm beyond a tuned embedding multiplier gains more than 0.0" in got.sentence
    assert "within the margin of 0.02" in got.sentence


def test_it_goes_on_while_a_gain_beyond_the_margin_is_possible():
    decision, got = stopped(seeds=3, margin=0.001, embedding_only=0.1, rlrs=0.101)
    assert (decision.winner, got.reason) == ("uniform", None)
    decision, got = stopped(margin=0.001, embedding_only=0.1, rlrs=0.101)
    assert (decision.winner, got.reason) == ("embedding_only", None)


def test_it_stops_undecided_at_the_most_seeds():
    _, got = stopped(margin=0.001, max_seeds=6, embedding_only=0.1, rlrs=0.101)
    assert got.reason == "max_seeds"
    assert got.sentence.startswith(
        "Stopped after 6 paired seeds, the most allowed, undecided: a gain of more than 0.001"
    )
    assert "relative schedules -0.0" in got.sentence


def test_arms_that_diverged_are_not_waited_for():
    losses = {"uniform": SEEDS[:4], "rlrs": [3.5, math.inf, 3.5, 3.5]}
    got = stopping(losses, decide(losses, range(4), rule=ANYTIME), 0.02, 12)
    assert got.reason == "no_gain"
    assert "no other arm is left" in got.sentence
    losses = {arm: [math.inf] * 4 for arm in losses}
    assert stopping(losses, decide(losses, range(4), rule=ANYTIME), 0.02, 12).reason == "no_gain"
