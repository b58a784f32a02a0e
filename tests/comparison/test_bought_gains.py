"""Gains on the task that were bought with a higher loss on general text: told, and not counted."""

from types import SimpleNamespace

import pytest

from rlrs.comparison import measure
from rlrs.comparison.judging import judged_again
from rlrs.records import RunResult
from rlrs.settings import ComparisonConfig

LOSSES = {"uniform": 3.0, "embedding_only": 2.95, "rlrs": 2.8}
NOISE = (0.0, 0.01, -0.01)


def compared(rises, may_rise=0.1, settings=None, before=2.0):
    """A comparison on three seeds whose arms raise the loss on general text by so much."""
    runs = {}
    for arm, loss in LOSSES.items():
        for seed, noise in zip((1, 2, 3), NOISE, strict=True):
            for horizon in (1.0, 0.5):
                steps = round(100 * horizon)
                result = RunResult(
                    status="finished", steps=steps, score=loss, valid_loss=loss + noise * (1 + seed / 7) + 1 - horizon,
                    tokens=steps, seconds=1.0, general_before=before, general_loss=before + rises[arm] + noise,
                )  # fmt: skip
                runs[arm, seed, horizon] = (SimpleNamespace(id=f"{arm}{seed}", steps=steps, lr=0.01), result)
    return measure(runs, list(LOSSES), [1, 2, 3], 100, 100, settings, may_rise)


def test_a_gain_within_the_limit_counts():
    found = compared({"uniform": 0.02, "embedding_only": 0.03, "rlrs": 0.09})
    assert found.decision.winner == "rlrs"
    assert found.general.bought == ()
    assert found.general.rises["rlrs"] == pytest.approx((0.09, 0.1, 0.08))
    assert found.decision.notes[0] == (
        "Loss on general text, 2.000 nats per token before fine-tuning, may rise by 0.1: one tuned learning rate "
        "+0.020, a tuned embedding multiplier +0.030 and relative schedules +0.090."
    )


def test_a_gain_that_was_bought_is_no_gain_and_is_said():
    found = compared({"uniform": 0.02, "embedding_only": 0.03, "rlrs": 0.2})
    assert found.general.bought == ("rlrs",)
    assert found.decision.winner == "embedding_only"
    assert "relative schedules raised the loss on general text by more than they may" in found.decision.sentence
    assert found.decision.notes[1] == (
        "Bought on general text: relative schedules, whose loss there rose by +0.200 nats per token, more than the 0.1 "
        "that are allowed. What it gains on the task counts as no gain."
    )
    assert not any("Diverged" in note for note in found.decision.notes)
    assert found.losses["rlrs"].mean == pytest.approx(2.8, abs=0.01)  # the table has it all the same
    assert judged_again(found).standings.keys() == {("embedding_only", "uniform")}


def test_where_the_baseline_bought_its_loss_nothing_is_measured_against_it():
    found = compared({"uniform": 0.3, "embedding_only": 0.03, "rlrs": 0.05})
    assert found.decision.winner == "rlrs"
    assert found.decision.sentence.startswith(
        "No saving can be given: one learning rate for the whole model raised the loss on general text"
    )


def test_where_every_arm_bought_its_loss_nothing_is_decided():
    found = compared({"uniform": 0.3, "embedding_only": 0.4, "rlrs": 0.5})
    assert found.decision.winner == "uniform"
    assert found.decision.sentence.startswith("No decision: every arm that did not diverge raised the loss on general")


def test_seeds_one_by_one_do_not_wait_for_an_arm_that_is_left_out():
    settings = ComparisonConfig(arms=tuple(LOSSES), seeds=3, stop="anytime", max_seeds=9)
    found = compared({"uniform": 0.0, "embedding_only": 0.3, "rlrs": 0.3}, settings=settings)
    assert found.stopping.reason is not None
    assert found.decision.winner == "uniform"


def test_nothing_is_said_where_general_text_is_not_watched():
    found = compared({"uniform": 0.0, "embedding_only": 0.0, "rlrs": 9.0}, may_rise=None)
    assert found.general is None
    assert found.decision.winner == "rlrs"
    assert found.decision.notes == ()
