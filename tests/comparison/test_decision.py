"""Which arm is handed out, and in which words."""

import math

import pytest

from rlrs.comparison import decide, measure, p_value, speed_up
from rlrs.records import RunResult

SEEDS = (1, 2, 3, 4)
NOISE = (0.002, 0.004, -0.004, -0.002)
UNIFORM = [3.60, 3.62, 3.58, 3.61]
SAVED = speed_up([3.0, 3.0, 3.0, 3.0], [{50: 3.1, 75: 3.0, 100: 2.9}] * 4, 100)


def losses(**below):
    """Arms so many nats below the uniform rate, with a noise of 0.004 nats between them."""
    arms = {"uniform": UNIFORM}
    for place, (arm, gap) in enumerate(below.items(), start=1):
        noise = NOISE[place:] + NOISE[:place]
        arms[arm] = [base - gap + jitter for base, jitter in zip(UNIFORM, noise, strict=True)]
    return arms


@pytest.mark.parametrize(
    ("below", "winner", "standing"),
    [
        ({"embedding_only": 0.10, "rlrs": 0.20}, "rlrs", "better"),
        ({"embedding_only": 0.10, "rlrs": 0.101}, "embedding_only", "not_different"),
        ({"embedding_only": 0.10, "rlrs": 0.05}, "embedding_only", "worse"),
        ({"embedding_only": 0.10, "rlrs": -0.05}, "embedding_only", "worse"),
        ({"embedding_only": -0.05, "rlrs": -0.10}, "uniform", "worse"),
        ({"embedding_only": 0.001, "rlrs": -0.10}, "uniform", "worse"),
        ({"embedding_only": 0.0, "rlrs": 0.001}, "uniform", "not_different"),
        ({"embedding_only": 0.10, "constant": 0.20, "rlrs": 0.201}, "constant", "better"),
        ({"embedding_only": 0.10, "constant": 0.15, "rlrs": 0.20}, "rlrs", "better"),
        ({"embedding_only": 0.10, "constant": 0.05, "rlrs": 0.101}, "embedding_only", "not_different"),
        ({"rlrs": 0.20}, "rlrs", None),
    ],
)
def test_the_simplest_arm_wins_that_no_other_is_measurably_better_than(below, winner, standing):
    got = decide(losses(**below), SEEDS, {"uniform": SAVED})
    assert got.winner == winner
    assert got.standings.get("embedding_only") == standing
    assert got.notes == ()


def test_three_wordings_of_a_comparison_with_a_control():
    worded = {"not_different": "not measurably different from", "worse": "measurably worse than"}
    for gap, standing in ((0.20, "better"), (0.101, "not_different"), (0.05, "worse")):
        got = decide(losses(embedding_only=0.10, rlrs=gap), SEEDS, {"uniform": SAVED})
        assert got.standings["embedding_only"] == standing
        if standing != "better":
            assert f"relative schedules are {worded[standing]} a tuned embedding multiplier (" in got.sentence


def test_worse_than_one_rate_is_said_as_worse_not_as_no_difference():
    got = decide(losses(embedding_only=-0.05, rlrs=-0.10), SEEDS)
    assert got.sentence.startswith("No transferable gain: ")
    assert "measurably worse than one tuned learning rate (+0.100 nats; 95% interval +0.0" in got.sentence
    got = decide(losses(rlrs=0.001), SEEDS)
    assert "not measurably different from one tuned learning rate" in got.sentence


def test_a_gain_is_first_said_against_the_strongest_control_then_against_one_rate():
    less = speed_up([3.0] * 4, [{50: 3.2, 90: 3.0, 100: 2.9}] * 4, 100)
    got = decide(losses(embedding_only=0.10, rlrs=0.20), SEEDS, {"uniform": SAVED, "embedding_only": less})
    assert got.sentence == (
        "Relative schedules reach the final loss of a tuned embedding multiplier, the strongest simpler way, with 10% "
        "fewer steps (95% interval 10% to 10%), on 4 paired seeds; that of one tuned learning rate with 25% fewer "
        "steps (95% interval 25% to 25%)."
    )
    three = decide(losses(embedding_only=0.10, constant=0.15, rlrs=0.20), SEEDS, {"uniform": SAVED})
    assert three.sentence.startswith("Relative schedules end 0.050 nats (95% interval ")
    assert "below constant ratios, the strongest simpler way, on 4 paired seeds; that of one" in three.sentence
    alone = decide(losses(rlrs=0.2), SEEDS, {"uniform": SAVED}).sentence
    assert alone.startswith("Relative schedules reach the final loss of one tuned learning rate with 25% fewer steps")
    assert alone.endswith("; no embedding-only control was run, so most of it may be that multiplier.")


def test_what_a_simpler_arm_saves_is_said_of_it():
    arms = losses(embedding_only=0.10, rlrs=0.101)
    got = decide(arms, SEEDS, {"uniform": SAVED}, winner_speed_ups={"uniform": SAVED})
    assert "It reaches the final loss of one tuned learning rate with 25% fewer steps" in got.sentence
    assert "It is measurably better than one tuned learning rate (-0.1" in decide(arms, SEEDS).sentence


def test_an_arm_that_diverged_is_said_and_neither_wins_nor_beats():
    arms = losses(embedding_only=0.10, rlrs=0.20)
    arms["rlrs"][2] = math.inf
    got = decide(arms, SEEDS)
    assert got.winner == "embedding_only"
    assert "unstable at the rate that was tuned for them, and diverged on 1 of 4 paired seeds" in got.sentence
    assert got.notes == ("Diverged on the target on seed 3: relative schedules. It is left out of the decision.",)
    arms = losses(embedding_only=0.10, rlrs=0.20)
    arms["uniform"] = [*UNIFORM[:2], math.inf, math.inf]
    got = decide(arms, SEEDS)
    assert got.winner == "rlrs"
    assert got.sentence.startswith("No saving can be given: one learning rate for the whole model diverged")
    assert "on seeds 3 and 4: one tuned learning rate" in got.notes[0]


def test_when_every_arm_diverged_nothing_is_decided():
    got = decide({arm: [math.inf] * 4 for arm in ("uniform", "rlrs")}, SEEDS)
    assert got.winner == "uniform"
    assert got.sentence.startswith("No decision: every arm diverged")


def test_a_seed_unlike_the_others_is_said_with_the_seeds_that_would_decide():
    arms = losses(embedding_only=0.10, rlrs=0.20)
    arms["rlrs"][1] += 0.5
    got = decide(arms, SEEDS)
    assert any(note.startswith("Seed 2 is unlike the others: there relative schedules end +0.") for note in got.notes)
    assert decide(losses(embedding_only=0.10, rlrs=0.20), SEEDS).notes == ()
    # In the median 0.097 nats below, with a noise of 0.25: (1.96 + 0.84)^2 / 0.39^2, and two for Student, make 55.
    assert got.winner == "embedding_only"
    assert got.sentence.startswith(
        "Not decided: relative schedules are not measurably different from a tuned embedding"
    )
    assert "but seed 2 is unlike the others. About 51 " in got.sentence
    assert "more seeds would decide with a chance of 80%, if it is the median, -0." in got.sentence
    assert "Use a tuned" not in got.sentence
    assert any(
        note.startswith("Seed 2") and "more seeds would decide" in note and "from a tuned embedding" in note
        for note in got.notes
    )


def test_a_seed_unlike_the_others_on_the_losing_side_leaves_nothing_open():
    arms = losses(embedding_only=0.10, rlrs=0.05)
    arms["rlrs"][1] += 0.5
    assert decide(arms, SEEDS).sentence.startswith("Use a tuned embedding multiplier, which is simpler")


def test_a_chance_difference_counts_less_the_more_arms_there_are():
    jitter = [0.010, -0.010, 0.004, -0.004]
    better = [base - 0.015 + j for base, j in zip(UNIFORM, jitter, strict=True)]  # t = 3.41: p = 0.042 against uniform
    same = [base + j for base, j in zip(UNIFORM, jitter[::-1], strict=True)]
    two = decide({"uniform": UNIFORM, "rlrs": better}, SEEDS)
    assert (two.winner, two.p_values["uniform"]) == ("rlrs", pytest.approx(0.0421, abs=1e-4))
    four = decide({"uniform": UNIFORM, "embedding_only": same, "constant": same, "rlrs": better}, SEEDS)
    assert (four.winner, four.p_values["uniform"]) == ("uniform", pytest.approx(3 * 0.0421, abs=3e-4))
    assert four.standings["uniform"] == "not_different"
    assert "95% interval -0.029 to -0.001, but p = 0.13 corrected for the number of arms" in four.sentence


def test_the_last_step_is_between_two_arms_and_needs_no_correction():
    got = decide(losses(embedding_only=0.10, constant=0.15, rlrs=0.20), SEEDS)
    pair = [
        a - b
        for a, b in zip(
            *(losses(embedding_only=0.10, constant=0.15, rlrs=0.20)[x] for x in ("rlrs", "constant")), strict=True
        )
    ]
    assert got.p_values["constant"] == pytest.approx(p_value(pair))


class Spec:
    def __init__(self, arm, seed, horizon):
        self.id, self.steps, self.lr = f"{arm}-{seed}-{horizon:g}", round(100 * horizon), 0.01


def run(arm, seed, horizon, loss):
    status, score = ("finished", 3.0) if loss is not None else ("diverged", None)
    result = RunResult(status=status, steps=50, score=score, valid_loss=loss, tokens=1, seconds=0.0)
    return (arm, seed, horizon), (Spec(arm, seed, horizon), result)


def test_measured_runs_become_the_comparison_with_its_decision():
    runs = [run("uniform", seed, 1.0, 3.5 + seed / 100) for seed in (1, 2)]
    runs += [run("rlrs", seed, 1.0, 3.3 + seed / 100) for seed in (1, 2)]
    runs += [run("rlrs", seed, 0.5, 3.7 + seed / 100) for seed in (1, 2)]
    got = measure(dict(runs), ["uniform", "rlrs"], [1, 2], 100, 6400)
    assert got.losses["rlrs"].per_seed == pytest.approx((3.31, 3.32))
    assert got.differences["uniform"].mean == pytest.approx(-0.2)
    assert got.speed_up["uniform"].steps_needed == pytest.approx((100 / math.sqrt(2),) * 2)
    assert got.speed_up["uniform"].bootstrap == pytest.approx((1 - 1 / math.sqrt(2),) * 2)
    assert got.decision.winner == "rlrs"
    runs[2] = run("rlrs", 1, 1.0, None)
    got = measure(dict(runs), ["uniform", "rlrs"], [1, 2], 100, 6400)
    assert (got.losses["rlrs"].mean, got.losses["rlrs"].per_seed) == (None, (None, 3.32))
    assert (got.differences, got.speed_up, got.decision.winner) == ({}, {}, "uniform")


def test_shorter_runs_of_a_simpler_winner_say_what_it_saves():
    runs = [run("uniform", seed, 1.0, 3.5 + seed / 100) for seed in (1, 2, 3)]
    runs += [run("rlrs", seed, 1.0, 3.3 + seed / 100 + 0.001 * (-1) ** seed) for seed in (1, 2, 3)]
    runs += [run("embedding_only", seed, 1.0, 3.3 + seed / 100) for seed in (1, 2, 3)]
    arms = ["uniform", "embedding_only", "rlrs"]
    assert measure(dict(runs), arms, [1, 2, 3], 100, 6400).winner_speed_up == {}
    runs += [run("embedding_only", seed, 0.5, 3.7 + seed / 100) for seed in (1, 2, 3)]
    got = measure(dict(runs), arms, [1, 2, 3], 100, 6400)
    assert got.decision.winner == "embedding_only"
    assert got.winner_speed_up["uniform"].steps_needed == pytest.approx((100 / math.sqrt(2),) * 3)
    assert "with 29% fewer steps" in got.decision.sentence
