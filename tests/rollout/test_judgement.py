"""Pass, fail or more data: what results say by what was declared."""

import math
import random

import pytest
from rollouts import NOISE, stage

from rlrs.comparison import confidence_sequence, p_value
from rlrs.rollout import Outcome, StageConfig, judge
from rlrs.rollout.judgement import make_pairs

ARMS = ("old", "new")


def outcomes(old, new, metric="valid_loss"):
    """Pairs in their order, both runs of one day together."""
    found = []
    for day, (a, b) in enumerate(zip(old, new, strict=True)):
        found += [Outcome("old", str(day), {metric: a}), Outcome("new", str(day), {metric: b})]
    return found


def config(**changes):
    return StageConfig.model_validate(stage(**changes))


def test_the_gain_is_the_confidence_sequence_of_the_pairs():
    losses = [3.2, 3.3, 3.25, 3.22]
    new = [loss - 0.05 + noise for loss, noise in zip(losses, NOISE, strict=False)]
    found = judge(config(), ARMS, outcomes(losses, new))
    expected = confidence_sequence([a - b for a, b in zip(losses, new, strict=True)])
    assert found.gain == pytest.approx((expected.mean, expected.low, expected.high))
    assert found.verdict == "pass"


def test_no_gain_is_more_data_and_at_max_pairs_a_failure():
    losses = [3.2] * 8
    new = [loss + noise for loss, noise in zip(losses, NOISE, strict=True)]
    assert judge(config(), ARMS, outcomes(losses[:7], new[:7])).verdict == "more_data"
    last = judge(config(), ARMS, outcomes(losses, new))
    assert last.verdict == "fail"
    assert last.reason.startswith("not shown within max_pairs, 8: valid_loss: gain")


def test_a_gain_that_is_measurably_too_small_fails_early():
    losses = [3.2] * 6
    new = [loss - 0.01 + noise / 10 for loss, noise in zip(losses, NOISE, strict=False)]
    assert judge(config(), ARMS, outcomes(losses, new)).verdict == "pass"
    found = judge(config(min_gain=0.05), ARMS, outcomes(losses, new))
    assert found.verdict == "fail"
    assert found.reason.endswith("not above 0.05")


def test_a_higher_metric_may_be_the_better_one():
    new = [0.5 + 0.05 + noise for noise in NOISE[:5]]
    found = outcomes([0.5] * 5, new, "accuracy")
    assert judge(config(metric="accuracy", better="higher"), ARMS, found).verdict == "pass"
    assert judge(config(metric="accuracy"), ARMS, found).verdict == "fail"


def test_differences_without_spread_show_no_gain():
    found = judge(config(), ARMS, outcomes([3.0] * 5, [2.5] * 5))
    assert found.verdict == "more_data"
    assert "rounded or copied" in found.reason


def test_fewer_than_min_pairs_show_nothing():
    new = [3.0 + noise for noise in NOISE[:4]]
    assert judge(config(min_pairs=5), ARMS, outcomes([3.2] * 4, new)).verdict == "more_data"


def test_one_diverged_run_of_the_candidate_fails_the_stage_unless_a_share_is_declared():
    lost = [*outcomes([3.2] * 5, [3.1 + n for n in NOISE[:5]]), Outcome("new", "9", {}, True)]
    found = judge(config(), ARMS, lost)
    assert found.verdict == "fail"
    assert found.reason == "diverged: 1 of 6 runs of the candidate (9), a share of 0 is allowed"
    allowed = judge(config(guardrails={"diverged": {"at_most": 0.2}}), ARMS, [*lost, Outcome("old", "9", {}, True)])
    assert allowed.verdict == "pass"
    assert allowed.reason.endswith("(1 of 6 pairs have a run that diverged and are left out of the means)")


@pytest.mark.parametrize(
    ("guardrail", "shift", "verdict"),
    [
        ({"at_most": 0.02, "of": "difference"}, 0.0, "pass"),
        ({"at_most": 0.02, "of": "difference"}, 0.02, "more_data"),
        ({"at_most": 0.02, "of": "difference"}, 0.05, "fail"),
        ({"at_least": 0.95, "of": "ratio"}, 0.0, "pass"),
        ({"at_least": 0.95, "of": "ratio"}, -0.2, "fail"),
        ({"at_most": 2.01}, 0.0, "pass"),
        ({"at_most": 2.0}, 0.0, "fail"),
        ({"at_least": 2.1}, 0.0, "fail"),
    ],
)
def test_a_guardrail_holds_is_open_or_fails(guardrail, shift, verdict):
    found = [
        Outcome(o.arm, o.run, {**o.values, "general": 2.0 + (NOISE[-1 - int(o.run)] + shift) * (o.arm == "new")})
        for o in outcomes([3.2] * 6, [3.1 + n for n in NOISE[:6]])
    ]
    judged = judge(config(guardrails={"general": guardrail}), ARMS, found)
    assert judged.verdict == verdict
    assert judged.findings[0].verdict == "pass"


def test_a_pair_keeps_its_place_when_an_older_run_gets_its_partner_late():
    late = [Outcome("new", "0", {}), Outcome("new", "1", {}), Outcome("old", "1", {}), Outcome("old", "0", {})]
    assert [pair.baseline.run for pair in make_pairs(config(), ARMS, late)] == ["1", "0"]
    assert [pair.baseline.arm for pair in make_pairs(config(), ARMS, late)] == ["old", "old"]


def test_unpaired_results_are_compared_in_the_order_in_which_they_came():
    found = [Outcome("old", "x", {}), Outcome("old", "y", {}), Outcome("new", "z", {})]
    assert [(p.baseline.run, p.candidate.run) for p in make_pairs(config(paired=False), ARMS, found)] == [("x", "z")]


def test_what_was_shown_stays_shown_but_a_guardrail_may_still_fail():
    open_ = outcomes([3.2] * 5, [3.2 + n for n in NOISE[:5]])
    assert judge(config(), ARMS, open_).verdict == "more_data"
    assert judge(config(), ARMS, open_, passed=True).verdict == "pass"
    assert judge(config(), ARMS, [*open_, Outcome("new", "9", {}, True)], passed=True).verdict == "fail"


def test_daily_looks_pass_equal_arms_seldom_where_a_t_test_passes_them_often():
    draw, days, replays = random.Random(5), 12, 150
    passed = peeked = 0
    for _ in range(replays):
        new = [draw.gauss(0, 0.02) for _ in range(days)]
        looks = [outcomes([0.0] * n, new[:n]) for n in range(4, days + 1)]
        passed += any(judge(config(max_pairs=days + 1), ARMS, look).verdict == "pass" for look in looks)
        peeked += any(p_value(new[:n]) < 0.05 and math.fsum(new[:n]) < 0 for n in range(4, days + 1))
    assert passed <= 0.05 * replays
    assert peeked > 0.05 * replays
