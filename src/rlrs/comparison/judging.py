"""Arms judged by their losses on the target: who is measurably better than whom, and which arm that leaves."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from rlrs.comparison.sequential import ANYTIME
from rlrs.comparison.statistics import FIXED, LEVEL, PairedTest, holm
from rlrs.records import Comparison, Interval, Standing, Unstable
from rlrs.settings import Arm

SIMPLEST_FIRST: tuple[Arm, ...] = get_args(Arm)
"""Arms by what they ask of those who use them."""
FAR = 15.0
"""Times the median distance of the seeds from their median, beyond which one is called unlike the others. Chosen here:
of three seeds of a normal distribution one is as far in 11 of 100 cases, of four in 2."""
LEAST = 0.05
"""Nats from the other seeds below which one is not called unlike them. Chosen here: more than sound seeds do."""

Pair = tuple[Arm, Arm]
"""An arm, and a simpler one that it is compared with."""


@dataclass(frozen=True)
class Judged:
    """What the losses of a comparison say.

    Args:
        losses: arm -> final validation losses, nats per token, one for each seed; infinite for a run that diverged.
        seeds: in the order of the losses.
        against: pair -> loss of the arm minus that of the simpler one; of arms that diverged on no seed.
        p_values: pair -> p-value, corrected for the arms beyond the simpler one (Holm).
        standings: pair -> what that says.
        winner: the simplest arm that none of those beyond it is measurably better than.
        anytime: whether the number of seeds depends on the losses.
        bought: arms that raised the loss on general text by more than they may; their losses are infinite here.
    """

    losses: Mapping[Arm, Sequence[float]]
    seeds: tuple[int, ...]
    against: Mapping[Pair, Interval]
    p_values: Mapping[Pair, float]
    standings: Mapping[Pair, Standing]
    winner: Arm
    anytime: bool
    bought: tuple[Arm, ...] = ()

    @property
    def diverged(self) -> dict[Arm, list[int]]:
        """Arms with the seeds that they diverged on."""
        lost: dict[Arm, list[int]] = {
            arm: [seed for seed, value in zip(self.seeds, values, strict=True) if not math.isfinite(value)]
            for arm, values in self.losses.items()
            if arm not in self.bought
        }
        return {arm: seeds for arm, seeds in lost.items() if seeds}

    @property
    def fair_control(self) -> Arm | None:
        """The strongest arm that is simpler than the winner; than `rlrs`, where one rate for all won. None if none."""
        return self.strongest_below(self.winner if self.winner != "uniform" else "rlrs")

    def strongest_below(self, over: Arm) -> Arm | None:
        """The arm with the lowest losses of those that are simpler than one; None if there is none."""
        simpler: list[Arm] = [
            arm for arm in sound_arms(self.losses) if SIMPLEST_FIRST.index(arm) < SIMPLEST_FIRST.index(over)
        ]
        return min(simpler, key=lambda arm: math.fsum(self.losses[arm]), default=None)

    def unlike(self, control: Arm) -> dict[int, float]:
        """Seeds where `rlrs` differs from a control quite otherwise than on the other seeds, with that difference."""
        difference = self.against.get(("rlrs", control))
        if difference is None or len(self.seeds) < 3:
            return {}
        pairs = zip(self.seeds, difference.per_seed, far(difference.per_seed), strict=True)
        return {seed: value for seed, value, away in pairs if away}

    @property
    def undecided(self) -> bool:
        """Whether a seed unlike the others leaves open if `rlrs` is better than the winner."""
        difference = self.against.get(("rlrs", self.winner))
        if difference is None or not self.unlike(self.winner):
            return False
        return self.standings["rlrs", self.winner] == "not_different" and statistics.median(difference.per_seed) < 0


def far(values: Sequence[float]) -> list[bool]:
    """Which values lie unlike the others: farther from the median than `FAR` times the median distance, and `LEAST`.

    Args:
        values: losses, or differences of such, nats per token; fewer than three have no others to be unlike.

    Examples:
        >>> far([3.41, 3.40, 3.42, 3.95])
        [False, False, False, True]
    """
    if len(values) < 3:
        return [False] * len(values)
    middle = statistics.median(values)
    away = [abs(value - middle) for value in values]
    limit = max(FAR * statistics.median(away), LEAST)
    return [distance > limit for distance in away]


def unstable(losses: Sequence[float | None], seeds: Sequence[int]) -> Unstable:
    """The runs of an arm that diverged, or ended far above its median.

    Args:
        losses: final validation losses, nats per token, one for each seed; None or infinite for a run that diverged.
        seeds: in the order of the losses.

    Examples:
        >>> unstable([3.41, 3.40, 3.42, 3.95, None], [1, 2, 3, 4, 5])
        Unstable(runs=5, diverged=(5,), outliers=(4,))
    """
    ended = {s: v for s, v in zip(seeds, losses, strict=True) if v is not None and math.isfinite(v)}
    middle = statistics.median(ended.values()) if ended else 0.0
    found = zip(ended.items(), far(list(ended.values())), strict=True)
    return Unstable(
        runs=len(losses),
        diverged=tuple(seed for seed in seeds if seed not in ended),
        outliers=tuple(seed for (seed, loss), away in found if away and loss > middle),
    )


def judge(
    losses: Mapping[Arm, Sequence[float]], seeds: Sequence[int], rule: PairedTest = FIXED, bought: Sequence[Arm] = ()
) -> Judged:
    """Judge arms by their paired losses; `decide` says how.

    Args:
        losses: arm -> final validation losses, nats per token, one for each seed; infinite for a run that diverged.
        seeds: in the order of the losses.
        rule: `FIXED` for a number of seeds that was fixed beforehand, `ANYTIME` for one that depends on the losses.
        bought: arms that are left out, having raised the loss on general text by more than they may.
    """
    losses = without(losses, bought)
    sound = sound_arms(losses)
    against: dict[Pair, Interval] = {}
    adjusted: dict[Pair, float] = {}
    standings: dict[Pair, Standing] = {}
    for place, arm in enumerate(sound):
        beyond: dict[Pair, list[float]] = {}
        for one in sound[place + 1 :]:
            beyond[one, arm] = differences(losses, one, arm)
        adjusted.update(holm({pair: rule.p_value(values) for pair, values in beyond.items()}))
        for pair, values in beyond.items():
            against[pair] = rule.interval(values)
            standings[pair] = standing(against[pair].mean, adjusted[pair])
    beaten = {other for (_, other), found in standings.items() if found == "better"}
    # The last has nothing beyond it; none is sound only where every arm diverged.
    unbeaten: list[Arm] = [arm for arm in sound if arm not in beaten]
    winner: Arm = unbeaten[0] if unbeaten else "uniform"
    return Judged(losses, tuple(seeds), against, adjusted, standings, winner, rule is ANYTIME, tuple(bought))


def judged_again(comparison: Comparison) -> Judged:
    """What a comparison on disk was judged by; the arm that was decided for stays what it was."""
    losses: dict[Arm, list[float]] = {
        arm: [math.inf if value is None else value for value in part.per_seed]
        for arm, part in comparison.losses.items()
    }
    bought = () if comparison.general is None else comparison.general.bought
    found = judge(losses, comparison.seeds, FIXED if comparison.stopping is None else ANYTIME, bought)
    return Judged(**{**vars(found), "winner": comparison.decision.winner})


def without(losses: Mapping[Arm, Sequence[float]], arms: Sequence[Arm]) -> dict[Arm, Sequence[float]]:
    """The losses with infinite ones for arms that are left out: they neither win nor beat another."""
    return {arm: [math.inf] * len(own) if arm in arms else own for arm, own in losses.items()}


def sound_arms(losses: Mapping[Arm, Sequence[float]]) -> list[Arm]:
    """Those that diverged on no seed, the simplest first."""
    return [arm for arm in SIMPLEST_FIRST if arm in losses and all(map(math.isfinite, losses[arm]))]


def differences(losses: Mapping[Arm, Sequence[float]], one: Arm, other: Arm) -> list[float]:
    """Losses of one arm minus another's, seed by seed."""
    return [a - b for a, b in zip(losses[one], losses[other], strict=True)]


def standing(mean: float, p_value: float) -> Standing:
    """What a mean difference of losses says, lower being better, once its p-value is adjusted."""
    if p_value > 1 - LEVEL:
        return "not_different"
    return "better" if mean < 0 else "worse"
