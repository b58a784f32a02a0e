"""Antithetic replicas: no bias of short windows, copies where they should be, and stops that change nothing."""

import math
import statistics

import pytest
import torch

from rlrs.discovery import LearnedLR, Replicas


def scheduler(total=200, component=("embedding",)):
    groups = [
        {"name": name, "component": name, "params": [torch.nn.Parameter(torch.zeros(1))], "lr": 0.1}
        for name in component
    ]
    optimizer = torch.optim.SGD(groups)
    return LearnedLR(optimizer, total_steps=total, rule=None)


def feed(replicas, loss, steps):
    """Each copy's loss at a step, from its logarithms so far: (all of them in order)."""
    seen = [[] for _ in replicas.schedulers]
    for _ in range(steps):
        losses = []
        for past, one in zip(seen, replicas.schedulers, strict=True):
            past.append(one.logarithms[0])
            losses.append(loss(past))
            one.optimizer.step()
        replicas.step(losses)


def delayed(past):
    """A high rate pays at once, and costs five times that over the next windows: greed is wrong."""
    return -past[-1] + 0.5 * sum(past[-11:-1])


@pytest.mark.filterwarnings("ignore:RelativeLR.step")
@pytest.mark.parametrize(("persistent", "sign"), [(True, -1), (False, 1)])
def test_persistence_sees_costs_beyond_the_window(persistent, sign):
    ends = []
    for seed in range(6):
        replicas = Replicas(
            [scheduler() for _ in range(8)], window=1, sigma=0.1, reach=4.0, seed=seed, persistent=persistent
        )
        feed(replicas, delayed, 200)
        ends.append(replicas.logarithms[0])
    assert math.copysign(1, statistics.fmean(ends)) == sign, ends


def test_copies_come_in_opposite_pairs_around_what_is_learned():
    replicas = Replicas([scheduler() for _ in range(4)], window=3, sigma=0.2)
    feed(replicas, lambda past: past[-1] ** 2, 7)
    [mean] = replicas.logarithms
    first, second, third, fourth = (one.logarithms[0] - mean for one in replicas.schedulers)
    assert first == pytest.approx(-second)
    assert third == pytest.approx(-fourth)
    assert first not in (0, third)


@pytest.mark.parametrize("loaded", ["schedulers first", "before the replicas are made", "replicas first"])
def test_a_stop_changes_nothing(loaded):
    def load(ones, states):
        for one, state in zip(ones, states, strict=True):
            one.load_state_dict(state)

    def run(stop):
        replicas = Replicas([scheduler(30), scheduler(30)], window=4)
        if stop:
            feed(replicas, lambda past: past[-1], 10)
            state, *own = [replicas.state_dict(), *[one.state_dict() for one in replicas.schedulers]]
            copies = [scheduler(30), scheduler(30)]
            if loaded == "before the replicas are made":
                load(copies, own)
            replicas = Replicas(copies, window=4)
            if loaded == "schedulers first":
                load(copies, own)
            replicas.load_state_dict(state)
            if loaded == "replicas first":
                load(copies, own)
        feed(replicas, lambda past: past[-1], 20 if stop else 30)
        return replicas.state_dict(), [one.state_dict()["learned"]["course"] for one in replicas.schedulers]

    assert run(stop=True) == run(stop=False)


def test_what_is_learned_is_between_the_copies():
    replicas = Replicas([scheduler(60), scheduler(60)], window=5, sigma=0.5)
    feed(replicas, lambda past: 0.0, 60)
    assert replicas.logarithms == [0.0]
    found = replicas.learned()
    assert found["embedding"].start == found["embedding"].end == 1.0
    assert found.provenance["learned"]["rule"]["copies"] == 2


def test_copies_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="come in pairs"):
        Replicas([scheduler()])
    with pytest.raises(ValueError, match="the same components"):
        Replicas([scheduler(), scheduler(component=("attention",))])
    with pytest.raises(ValueError, match="rule=None"):
        Replicas([LearnedLR(scheduler().optimizer, total_steps=9), scheduler()])
    with pytest.raises(ValueError, match="one for each copy here, not 1"):
        Replicas([scheduler(), scheduler()]).step([1.0])
