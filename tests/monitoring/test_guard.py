"""The guard: what it does to rates, that it is the same again, and that it saves a run that diverges without it."""

import functools
import json

import pytest
from loops import make, one_step

from rlrs.monitoring import Alarm, Guard, Monitor, Snapshots


def alarm(check="loss_rise", component=None, step=100):
    return Alarm(check=check, component=component, step=step, value=1.0, threshold=0.5, cause="a", remedy="b")


def test_pull_takes_a_ratio_to_its_power_and_writes_the_rate():
    _, optimizer, scheduler = make()
    guard = Guard(scheduler, {"loss_rise": "pull"}, pull=0.5)
    guard.react([alarm(component="embedding")])
    assert scheduler.relative_rates()["embedding"] == pytest.approx(2.0)  # 4 ** 0.5
    rates = {group["component"]: group["lr"] for group in optimizer.param_groups}
    assert rates["embedding"] == pytest.approx(2 * rates["unembedding"])


def test_pull_without_a_component_pulls_all_that_are_apart():
    scheduler = make()[2]
    done = Guard(scheduler, {"loss_rise": "pull"}).react([alarm()])
    assert done.sentence.startswith("ratios of embedding to the power 0.5: 4 -> 2")


def test_there_is_nothing_to_pull_at_a_ratio_of_1():
    scheduler = make()[2]
    done = Guard(scheduler, {"loss_rise": "pull"}).react([alarm(component="unembedding")])
    assert done.sentence == "nothing to pull: unembedding has the ratio 1"
    assert scheduler.relative_rates()["embedding"] == pytest.approx(4.0)


def test_uniform_sets_all_ratios_to_1_for_the_rest_of_the_run():
    parts = make()
    guard = Guard(parts[2], {"loss_rise": "uniform"})
    one_step(*parts, 0)
    guard.react([alarm()])
    for step in (1, 2):
        one_step(*parts, step)
        assert set(parts[2].relative_rates().values()) == {1.0}


def test_checks_that_were_not_chosen_and_warnings_do_nothing():
    guard = Guard(make()[2], {"loss_spike": "warn"})
    assert guard.react([alarm("loss_spike")]) is None
    assert guard.react([alarm("loss_rise")]) is None
    assert guard.taken == []


def test_an_action_has_time_to_show_and_overflow_does_not_wait():
    guard = Guard(make()[2], {"loss_rise": "pull", "non_finite": "stop"}, pause=50)
    assert guard.react([alarm(step=100)]) is not None
    assert guard.react([alarm(step=149)]) is None
    assert guard.react([alarm("non_finite", step=149)]).stop


def test_after_the_last_action_comes_a_stop():
    guard = Guard(make()[2], {"loss_rise": "pull"}, pause=0, most=2)
    done = [guard.react([alarm(step=step)]) for step in (1, 2, 3)]
    assert [one.stop for one in done] == [False, False, True]
    assert [one["action"] for one in guard.taken] == ["pull", "pull", "stop"]


def test_rollback_goes_on_from_a_checkpoint_before_the_alarm_at_a_smaller_rate():
    model, optimizer, scheduler = parts = make()
    snapshots = Snapshots(model, optimizer, scheduler, every=4)
    guard = Guard(scheduler, {"loss_rise": "rollback"}, rollback=snapshots.restore, lookback=5, smaller=0.5)
    kept, rates = {}, {}
    for step in range(14):
        one_step(*parts, step)
        snapshots.take(step + 1)
        kept[step + 1] = model.lm_head.weight.detach().clone()
        rates[step + 1] = scheduler.base_rate()
    done = guard.react([alarm(step=14)])
    assert (done.step, done.stop) == (8, False)
    assert bool((model.lm_head.weight == kept[8]).all())
    assert scheduler.base_rate() == pytest.approx(rates[8] / 2)


def test_a_rollback_without_a_checkpoint_is_a_stop():
    model, optimizer, scheduler = make()
    snapshots = Snapshots(model, optimizer, scheduler)
    done = Guard(scheduler, {"loss_rise": "rollback"}, rollback=snapshots.restore).react([alarm(step=40)])
    assert done.stop
    assert done.sentence == "stopped: no checkpoint of step 10 or before"


def rolling(**options):
    model, optimizer, scheduler = parts = make()
    snapshots = Snapshots(model, optimizer, scheduler, every=4)
    guard = Guard(scheduler, {"update_ratio_high": "rollback"}, rollback=snapshots.restore, lookback=5, **options)
    for step in range(14):
        one_step(*parts, step)
        snapshots.take(step + 1)
    return guard, scheduler


def test_a_rollback_makes_the_component_that_is_named_smaller_and_leaves_the_rest():
    guard, scheduler = rolling(smaller=0.8, pull=0.5)
    rate = scheduler.base_rate()
    done = guard.react([alarm("update_ratio_high", "embedding", 14)])
    assert done.sentence == "back to step 8, ratios of embedding: 4 -> 2 at the start, 4 -> 2 at the end"
    assert scheduler.relative_rates()["embedding"] == pytest.approx(2.0)
    assert (guard.scale, scheduler.base_rate() > rate) == (1.0, True)  # it is at an earlier step, with the same peak


def test_a_component_at_or_below_1_is_made_smaller_not_pulled_up():
    guard, scheduler = rolling(smaller=0.5, pull=0.5)
    guard.react([alarm("update_ratio_high", "unembedding", 14)])
    assert scheduler.relative_rates()["unembedding"] == pytest.approx(0.5)


def test_where_most_components_are_too_fast_it_is_the_base_rate():
    guard, scheduler = rolling(smaller=0.5)
    every = [alarm("update_ratio_high", name, 14) for name in scheduler.relative_rates()]
    done = guard.react(every)
    assert done.sentence == "back to step 8, base peak rates times 0.5"
    assert (guard.scale, scheduler.relative_rates()["embedding"]) == (0.5, pytest.approx(4.0))


def test_batches_that_were_left_out_stay_so_after_a_second_rollback():
    guard, _ = rolling(skip=True, pause=0)
    guard.react([alarm("update_ratio_high", "embedding", 14)])  # back to 8: 8 to 13 are left out
    assert [guard.batch(step) for step in (7, 8, 9)] == [7, 14, 15]
    guard.react([alarm("update_ratio_high", "embedding", 11)])  # back to 4: 4 to 7 and 14 to 16 are left out too
    assert [guard.batch(step) for step in (3, 4, 8)] == [3, 17, 21]


def test_an_alarm_of_the_pause_that_still_stands_after_it_is_acted_on():
    guard = Guard(make()[2], {"loss_rise": "pull", "loss_spike": "pull"}, pause=50)
    guard.react([alarm(step=100)])
    assert guard.react([alarm("loss_spike", step=120)]) is None
    standing = alarm("loss_spike", step=149)
    assert guard.react([], [standing, alarm(step=149)]) is None
    assert guard.react([], [alarm(step=150)]) is None  # acted on before, and no longer standing
    assert guard.react([], [alarm("loss_spike", step=150)]) is None
    guard.react([alarm("loss_spike", step=151)])
    assert [one["check"] for one in guard.taken] == ["loss_rise", "loss_spike"]


def test_an_alarm_that_waited_is_kept_over_a_resumption():
    guard = Guard(make()[2], {"loss_rise": "pull", "loss_spike": "pull"}, pause=50)
    guard.react([alarm(step=100)])
    guard.react([alarm("loss_spike", step=120)])
    resumed = Guard(make()[2], {"loss_rise": "pull", "loss_spike": "pull"}, pause=50)
    resumed.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    done = resumed.react([], [alarm("loss_spike", step=150)])
    assert done.alarm.check == "loss_spike"


@pytest.mark.filterwarnings("ignore:RelativeLR.load_state_dict")
@pytest.mark.parametrize("guard_first", [True, False])
def test_a_resumed_run_keeps_what_the_guard_did(guard_first):
    parts = make()
    guard = Guard(parts[2], {"loss_rise": "pull"}, pause=0)
    one_step(*parts, 0)
    guard.react([alarm(component="embedding")])
    saved = parts[2].state_dict(), json.loads(json.dumps(guard.state_dict()))
    parts = make()
    resumed = Guard(parts[2], {"loss_rise": "pull"}, pause=0)
    loads = [lambda: parts[2].load_state_dict(saved[0]), lambda: resumed.load_state_dict(saved[1])]
    for load in reversed(loads) if guard_first else loads:
        load()
    assert parts[2].relative_rates()["embedding"] == pytest.approx(2.0)
    assert resumed.taken == guard.taken
    resumed.react([alarm(component="embedding", step=200)])
    assert parts[2].relative_rates()["embedding"] == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("actions", "options", "message"),
    [
        ({"loss": "stop"}, {}, "no check 'loss'; should be one of non_finite"),
        ({"loss_rise": "halt"}, {}, "loss_rise: no action 'halt'; should be one of warn, pull"),
        ({"loss_rise": "rollback"}, {}, "'rollback' needs rollback="),
        ({"loss_rise": "pull"}, {"pull": 1.0}, "pull=1.0 should be 0 or more, and below 1"),
        ({"loss_rise": "pull"}, {"most": -1}, "most=-1 should be 0 or more"),
    ],
)
def test_a_guard_that_cannot_be_is_refused(actions, options, message):
    with pytest.raises(ValueError, match=message):
        Guard(make()[2], actions, **options)


@functools.cache
def diverging(action):
    """A run at 300 times a good rate; the losses, and what the guard did."""
    model, optimizer, scheduler = parts = make(total_steps=60, lr=3.0)
    snapshots = Snapshots(model, optimizer, scheduler, every=2, keep=20)
    snapshots.take(0)
    checks = dict.fromkeys(("loss_rise", "loss_spike", "update_ratio_high"), action or "warn")
    guard = Guard(scheduler, checks, rollback=snapshots.restore, lookback=30, pause=0, most=20, smaller=0.1)
    monitor = Monitor(optimizer, scheduler, every=2, guard=guard)
    step, losses = 0, {}
    while step < 60 and monitor.stopped is None:
        loss, _ = one_step(*parts, step)
        step += 1
        losses[step] = loss.item()
        monitor.observe(step, loss)
        snapshots.take(step)
        step = monitor.step
    return losses, guard.taken, monitor


def test_a_run_that_diverges_is_saved_by_going_back_at_a_smaller_rate():
    alone, _, _ = diverging(None)
    saved, taken, monitor = diverging("rollback")
    assert max(alone.values()) > 1000
    assert max(saved.values()) < 4
    assert saved[60] < 2.5 < alone[60]  # a guess has ln 16 = 2.77
    assert [one["action"] for one in taken] == ["rollback"] * 3
    assert monitor.stopped is None
    assert any("back to step 0" in found.action for found in monitor.alarms)


def test_the_guard_does_the_same_again():
    assert diverging("rollback")[:2] == diverging.__wrapped__("rollback")[:2]


def test_a_stop_ends_the_loop_with_the_alarm():
    losses, _, monitor = diverging("stop")
    assert monitor.stopped.action == "stopped"
    assert max(losses) == monitor.stopped.step < 60
