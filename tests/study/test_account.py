"""What a study cost and what it saves, in every unit."""

import math

import pytest
from sample_results import results

from rlrs.comparison import Quantity, account
from rlrs.comparison.savings import saved_by_winner
from rlrs.records import SpeedUp, Spent
from rlrs.settings import MachineConfig

MACHINE = {"price_per_hour": 36.0, "currency": "EUR", "flops_per_second": 1e6}


def with_machine(winner="rlrs", machine=MACHINE):
    found = results(winner)
    study = found.study.model_copy(update={"config": {**found.study.config, "machine": machine}})
    return found.model_copy(update={"study": study})


def test_flops_hours_and_money_follow_from_tokens():
    # A stage: 6,400 tokens at 6 x 500 active parameters; a run of the target: 12,800 tokens.
    got = account(with_machine())
    assert got.stages["search"].flops == 6_400 * 3_000
    assert got.run == Quantity(
        steps=200, tokens=12_800, flops=3.84e7, hours=1 / 3600, machine_hours=38.4 / 3600, money=0.384
    )
    assert got.total.flops == pytest.approx(3 * 1.92e7)
    assert got.total.steps is None
    assert got.in_runs(got.total) == pytest.approx(1.5)


def test_a_ladder_is_a_part_of_what_a_study_cost():
    found = results("rlrs")
    ladder = Spent(steps=50, tokens=3200, flops=1e7, seconds=36.0)
    got = account(found.model_copy(update={"cost": found.cost.model_copy(update={"ladder": ladder})}))
    assert list(got.stages) == ["search", "ladder", "transfer", "comparison"]
    assert got.stages["ladder"].hours == 0.01
    assert got.total.flops == pytest.approx(3 * 1.92e7 + 1e7)


def test_without_a_described_machine_there_is_no_money():
    got = account(results("rlrs"))
    assert (got.run.money, got.run.machine_hours, got.machine) == (None, None, None)
    assert got.total.flops


def test_the_models_own_count_of_flops_comes_before_the_rule_of_six():
    found = results("rlrs")
    sizes = found.models.model_copy(
        update={"target": found.models.target.model_copy(update={"flops_per_token": 5_000.0})}
    )
    assert account(found.model_copy(update={"models": sizes})).run.flops == 12_800 * 5_000


def saved(mean, low, high, bound="none"):
    return SpeedUp(mean=mean, low=low, high=high, level=0.95, per_seed=(mean,) * 3, bound=bound, steps_needed=(9,) * 3)


@pytest.mark.parametrize(
    ("saving", "expected"),
    [
        (saved(0.5, 0.25, 0.75), (3, 2, 6)),  # 1.5 runs
        (saved(0.5, -0.1, 1.1), (3, 2, None)),
        (saved(0.6, 0.1, 0.7, "lower"), (3, 3, 3)),
        (saved(0.0, -0.1, 0.1), None),
        (saved(-0.1, -0.2, 0.0), None),
    ],
)
def test_a_study_pays_off_after_as_many_runs_as_make_up_for_all_of_its_stages(saving, expected):
    got = account(results("rlrs")).pays_off(saving)
    assert (None if got is None else (got.runs, got.soonest, got.latest)) == expected


def test_by_hours_where_flops_are_not_known_and_not_at_all_where_neither_is():
    found = results("rlrs")
    size = found.models.target.model_copy(update={"parameters": None, "flops_per_token": None})
    blind = found.model_copy(update={"models": found.models.model_copy(update={"proxy": size, "target": size})})
    got = account(blind)
    # 4 arms' searches and transfers of one trial of a second each, 12 runs of a second.
    assert got.in_runs(got.total) == pytest.approx(20.0)
    assert math.isclose(got.run.hours * 3600, 1.0)
    runs = tuple(run.model_copy(update={"seconds": None}) for run in blind.comparison.runs)
    older = blind.model_copy(update={"comparison": blind.comparison.model_copy(update={"runs": runs})})
    assert account(older).pays_off(saved(0.5, 0.4, 0.6)) is None


def test_the_savings_shown_are_those_of_the_arm_that_was_decided_for():
    assert saved_by_winner(results("rlrs").comparison) == results("rlrs").comparison.speed_up
    assert saved_by_winner(results("embedding_only").comparison) == {}  # no shorter runs of it


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"price_per_hour": 1}, "flops_per_second or tokens_per_second, one of the two"),
        ({**MACHINE, "tokens_per_second": {"proxy": 1, "target": 1}}, "one of the two"),
        ({**MACHINE, "price_per_hour": -1}, "greater than or equal to 0"),
        ({**MACHINE, "currency": "a long word"}, "one to eight characters without spaces"),
    ],
)
def test_a_machine_that_cannot_be_is_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        MachineConfig.model_validate(plain)


def test_a_machines_pace_may_be_given_in_tokens():
    machine = MachineConfig(price_per_hour=2, tokens_per_second={"proxy": 100, "target": 10})
    assert machine.hours("proxy", 3.6e5, None) == 1.0
    assert machine.hours("target", 3.6e5, 1e9) == 10.0
    assert machine.hours("target", None, 1e9) is None
