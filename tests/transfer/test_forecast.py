import numpy as np
import pytest

from rlrs.records import Estimate, Recipe, RunResult, Trial
from rlrs.search import Space
from rlrs.transfer import (
    Climbed,
    Ladder,
    Optima,
    RungTrials,
    Size,
    carried,
    fit_law,
    forecast,
    identified,
    judge,
    refutations,
    sentence,
)

SIZES = [Size(width, 2, tokens) for width in (16, 32, 64) for tokens in (1e5, 2e5)]
ORDER = ("uniform", "embedding_only", "constant")


def between(low, high):
    return Estimate(value=(low + high) / 2, low=low, high=high)


@pytest.mark.parametrize(
    ("uniform", "embedding", "begins"),
    [
        ((0.1, 0.2), (0.02, 0.04), "Yes: relative schedules are expected to gain +0.020 to +0.040 nats on a tuned emb"),
        ((0.1, 0.2), (-0.02, 0.04), "Not shown: the gain of relative schedules on a tuned embedding multiplier"),
        ((-0.1, 0.2), (0.01, 0.04), "Not shown: the gain of relative schedules on one rate for all"),
        ((-0.3, -0.2), (0.01, 0.04), "No: relative schedules are expected to lose to one rate for all at the target"),
    ],
)
def test_the_sentence_is_about_the_simplest_control_that_is_not_beaten(uniform, embedding, begins):
    assert sentence({"uniform": between(*uniform), "embedding_only": between(*embedding)}, {}, ORDER).startswith(begins)


def test_without_gains_nothing_is_known():
    assert sentence({}, {}, ORDER).startswith("Not known")


def test_mup_divides_matrices_whether_they_were_searched_or_not_and_leaves_one_rate_alone():
    recipe = Recipe(
        lr=0.01, ratios={"embedding": ((0.0, 4.0), (1.0, 1.0)), "attention/layer.0": ((0.0, 2.0), (1.0, 1.0))}
    )
    found = carried(recipe, "mup", 2.0, ["embedding", "attention", "feed_forward", "norm"]).ratios
    assert found["embedding"] == ((0.0, 4.0), (1.0, 1.0))
    assert found["attention/layer.0"] == ((0.0, 1.0), (1.0, 0.5))
    assert found["attention"] == found["feed_forward"] == ((0.0, 0.5), (1.0, 0.5))
    assert "norm" not in found
    uniform = Recipe(lr=0.01)
    assert carried(uniform, "mup", 2.0, ["attention"]) == uniform
    by_width = carried(uniform, "mup", 2.0, ["embedding", "attention", "norm"], one_rate=True)
    assert by_width.ratios == {"attention": ((0.0, 0.5), (1.0, 0.5))}
    with pytest.raises(ValueError, match="mode should be unchanged, sqrt-width or mup, not 'law'"):
        carried(recipe, "law", 2.0, [])


def trials(points, scores):
    return [
        Trial(
            params=point,
            move="planted",
            number=number,
            batch=0,
            run="run",
            result=RunResult(status="finished", steps=1, score=score, valid_loss=None, tokens=1, seconds=0),
        )
        for number, (point, score) in enumerate(zip(points, scores, strict=True))
    ]


def planted(gain):
    """A ladder whose embedding wants 4 at width 32 and more with the root of the width, and gains so much by that."""
    spaces = {"uniform": Space.around({"lr": 0.01}), "rlrs": Space.around({"lr": 0.01, "embedding.start": 4.0})}
    climbed = []
    for size in SIZES:
        best = np.log([0.01, 0.04 * (size.width / 32) ** 0.5])
        points = [{"lr": lr, "embedding.start": r} for lr in (5e-3, 1e-2, 2e-2) for r in (2.0, 4.0, 8.0)]
        offsets = [np.log([p["lr"], p["lr"] * p["embedding.start"]]) - best for p in points]
        own = trials(points, [3.0 + 0.1 * float(x @ x) for x in offsets])
        plain = trials(
            [{"lr": p["lr"]} for p in points[::3]], [3.1 + 0.1 * np.log(p["lr"] / 0.01) ** 2 for p in points[::3]]
        )
        level = 5.0 * size.width**-0.1 * (size.tokens / 1e5) ** -0.1
        gained = gain(size)
        climbed.append(
            {
                "uniform": Climbed(plain, plain[1].params, (level, level + 0.01)),
                "rlrs": Climbed(own, own[4].params, (level - gained, level - gained + 0.012)),
            }
        )
    found = {arm: climbed[-1][arm].best for arm in spaces}
    return Ladder(SIZES, climbed, Size(256, 2, 4e5), SIZES[-1], spaces, found, ["embedding", "attention"], 0.1)


def test_a_planted_root_of_the_width_is_rescaled_by_law_and_costs_nothing_there():
    ahead = forecast(planted(lambda size: 0.1), "law")
    verdict = ahead.arms["rlrs"].verdicts[0]
    assert (verdict.component, verdict.fate) == ("embedding", "rescale")
    assert verdict.used["embedding.start"] == pytest.approx(4 * (256 / 32) ** 0.5, rel=0.1)
    penalties = ahead.arms["rlrs"].penalties
    assert penalties["law"].high < 0.02 < penalties["unchanged"].low
    assert penalties["sqrt-width"].value < penalties["unchanged"].value
    power = next(term for term in ahead.arms["rlrs"].law if term.name == "embedding.start").slopes["width"]
    assert power.low < 0.5 < power.high
    assert ahead.gains["uniform"].value == pytest.approx(0.1, abs=0.02)
    assert 0 < ahead.saved["uniform"].low < ahead.saved["uniform"].high < 1


def test_a_gain_that_is_gone_at_the_target_drops_all_components_with_that_reason():
    ahead = forecast(planted(lambda size: 0.12 - 0.05 * np.log2(size.width / 16)), "law")
    verdict = ahead.arms["rlrs"].verdicts[0]
    assert verdict.fate == "drop"
    assert verdict.reason.startswith("the gain over one rate for all is put at -0.")
    assert ahead.transferred["rlrs"].point["embedding.start"] == 1.0
    assert ahead.gains["uniform"].high < 0


def verdict_on_a_ratio(best, noise, **options):
    """Of a ratio that was found as 2, whose best is this at every size, from trials with noise."""
    rng, space = np.random.default_rng(0), Space.around({"lr": 0.01, "embedding.start": 2.0})
    rungs = []
    for size in SIZES:
        points = [{"lr": lr, "embedding.start": r} for lr in (5e-3, 1e-2, 2e-2) for r in (0.5, 1.0, 2.0, 4.0)]
        offsets = [np.log([p["lr"] / 0.01, p["lr"] * p["embedding.start"] / (0.01 * best)]) for p in points]
        scores = [3.0 + 0.1 * float(x @ x) + noise * rng.standard_normal() for x in offsets]
        rungs.append(RungTrials.from_points(size, space, points, scores))
    law = fit_law(rungs, space.names, 0.1, identified(SIZES))
    return judge(law, space, {"lr": 0.01, "embedding.start": 2.0}, Size(256, 2, 4e5), **options).verdicts[0]


def test_a_component_is_dropped_where_its_gain_is_shown_to_be_below_the_margin():
    verdict = verdict_on_a_ratio(best=1.0, noise=0.001)
    assert (verdict.fate, verdict.shown) == ("drop", True)
    assert verdict.gain[2] < 0.02
    assert verdict.reason.startswith("no gain above 0.02 nats survives: ratios of its own are worth")
    assert verdict_on_a_ratio(best=2.0, noise=0.001, margin=1.0).fate == "drop"


def test_a_component_whose_gain_is_neither_shown_nor_excluded_stays_and_the_reason_says_so():
    verdict = verdict_on_a_ratio(best=1.5, noise=0.2)
    assert verdict.fate == "carry"
    assert dict(verdict.used) == {"embedding.start": 2.0}
    assert not verdict.shown
    assert verdict.gain[1] <= 0
    assert verdict.gain[2] >= 0.02
    assert verdict.reason.endswith("which shows neither a gain nor its absence")


def test_the_final_fraction_is_moved_by_the_law_only_where_that_is_sure_to_gain():
    space = Space.around({"lr": 0.01, "final_fraction": 0.1})
    points = [{"lr": lr, "final_fraction": f} for lr in (5e-3, 1e-2, 2e-2) for f in (0.03, 0.1, 0.3, 0.9)]
    found = {"lr": 0.01, "final_fraction": 0.1}

    def carried_to(best, noise):
        rng, rungs = np.random.default_rng(0), []
        for size in SIZES:
            ends = [np.log([p["lr"] / 0.01, p["lr"] * p["final_fraction"] / (0.01 * best)]) for p in points]
            scores = [3.0 + 0.1 * float(x @ x) + noise * rng.standard_normal() for x in ends]
            rungs.append(RungTrials.from_points(size, space, points, scores))
        law = fit_law(rungs, space.names, 0.1, identified(SIZES))
        return judge(law, space, found, Size(256, 2, 4e5)).point["final_fraction"]

    assert 0.2 < carried_to(best=0.3, noise=0.001) < 0.5  # the surface of an end is not just that of its rate
    assert carried_to(best=0.12, noise=0.2) == pytest.approx(0.1)


def test_a_component_whose_gain_is_shown_says_no_more():
    verdict = verdict_on_a_ratio(best=4.0, noise=0.001)
    assert (verdict.fate, verdict.shown) == ("rescale", True)
    assert verdict.gain[0] > 0.02
    assert "neither" not in verdict.reason


def test_a_gain_over_one_rate_that_is_not_shown_drops_nothing():
    rng = np.random.default_rng(1)
    ahead = forecast(planted(lambda size: 0.02 + 0.05 * float(rng.standard_normal())), "law")
    assert ahead.gains["uniform"].low < 0 < 0.02 < ahead.gains["uniform"].high
    assert ahead.arms["rlrs"].verdicts[0].fate == "rescale"


def test_a_tuned_rate_is_the_point_of_the_grid_that_is_nearest_to_the_best():
    # Curvature 1 along the base rate; the best is 0.4, 0.9 and 20 steps of the grid away, which goes 4 steps far.
    step = np.log(2.0)
    one = Optima(step * np.array([[0.4], [0.9], [20.0]]), np.ones((3, 1, 1)), np.ones(1))
    assert one.tuned(np.zeros(1), 2.0, 0.0) == pytest.approx(step * np.array([0.0, 1.0, 4.0]))


def test_noise_of_the_scores_moves_a_tuned_rate():
    one = Optima(np.zeros((500, 1)), np.full((500, 1, 1), 0.01), np.ones(1))
    steps = one.tuned(np.zeros(1), 2.0, 0.01) / np.log(2.0)
    assert set(np.round(steps)) > {-1.0, 0.0, 1.0}


def test_an_arm_that_diverged_on_a_rung_is_left_out_there_and_said():
    ladder = planted(lambda size: 0.1)
    broken = dict(ladder.climbed[0])
    broken["rlrs"] = Climbed(broken["rlrs"].trials, broken["rlrs"].best, (float("inf"), 3.0))
    ladder = Ladder(**{**vars(ladder), "climbed": [broken, *ladder.climbed[1:]]})
    ahead = forecast(ladder, "unchanged")
    assert ahead.arms["rlrs"].loss is not None
    assert "rlrs diverged on a fresh seed of 1 of 6 rungs: left out there." in ahead.notes


def test_what_would_refute_it_has_the_numbers_of_the_forecast():
    ahead = forecast(planted(lambda size: 0.1), "law")
    lines = refutations(ahead.arms, ahead.gains, 0.9)
    loss = ahead.arms["rlrs"].loss
    assert f"outside {loss.low:.3f} to {loss.high:.3f} nats" in lines[0]
    assert any("A search at the target that finds embedding.start outside" in line for line in lines)
    assert "10% of cases" in lines[-1]
