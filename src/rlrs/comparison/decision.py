"""Which arm a study hands out, and why, from the losses on the target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from rlrs.comparison.statistics import interval
from rlrs.records import Decision, Interval, SpeedUp, Standing
from rlrs.settings import Arm

SIMPLEST_FIRST: tuple[Arm, ...] = ("uniform", "embedding_only", "constant", "rlrs")
"""Arms by what they ask of those who use them."""
WORDS: dict[Standing, str] = {
    "better": "measurably better than",
    "not_different": "not measurably different from",
    "worse": "measurably worse than",
}
"""The three things that a comparison with a control can say."""
FAR = 15.0
"""Times the median distance of the seeds from their median, beyond which one is called unlike the others. Chosen here:
of three seeds of a normal distribution one is as far in 11 of 100 cases, of four in 2."""
LEAST = 0.05
"""Nats from the other seeds below which one is not called unlike them. Chosen here: more than sound seeds do."""
_NAMES: dict[Arm, str] = {
    "uniform": "one rate for the whole model",
    "embedding_only": "a tuned embedding multiplier alone",
    "constant": "constant ratios",
    "rlrs": "relative schedules",
}


def decide(
    losses: Mapping[Arm, Sequence[float]], seeds: Sequence[int], speed_ups: Mapping[Arm, SpeedUp] | None = None
) -> Decision:
    """The simplest arm that no other arm is measurably better than.

    One arm is measurably better than another where the whole 95 % interval of their paired differences is below 0. An
    arm that diverged on some seed neither wins nor beats another.

    Args:
        losses: arm -> final validation losses, nats per token, one for each seed; infinite for a run that diverged.
        seeds: in the order of the losses.
        speed_ups: control -> steps that `rlrs` saves against it, where that was measured.

    Example:
        >>> losses = {"uniform": [3.61, 3.58, 3.60], "embedding_only": [3.40, 3.38, 3.39], "rlrs": [3.40, 3.37, 3.40]}
        >>> decide(losses, [1, 2, 3]).winner
        'embedding_only'
    """
    sound: list[Arm] = [arm for arm in SIMPLEST_FIRST if arm in losses and all(map(math.isfinite, losses[arm]))]
    against: dict[tuple[Arm, Arm], Interval] = {
        (one, other): interval([a - b for a, b in zip(losses[one], losses[other], strict=True)])
        for one in sound
        for other in sound
        if one != other
    }
    beaten = {other for (_, other), difference in against.items() if difference.standing == "better"}
    unbeaten: list[Arm] = [arm for arm in sound if arm not in beaten]
    winner: Arm = unbeaten[0] if unbeaten else "uniform"  # none is left only where every arm diverged
    return Decision(
        winner=winner,
        sentence=_sentence(winner, losses, against, speed_ups or {}, len(seeds)),
        standings={arm: against["rlrs", arm].standing for arm in sound if ("rlrs", arm) in against},
        against_uniform=against.get((winner, "uniform")),
        notes=(*_diverged(losses, seeds), *_unlike(against, seeds)),
    )


def _sentence(
    winner: Arm,
    losses: Mapping[Arm, Sequence[float]],
    against: Mapping[tuple[Arm, Arm], Interval],
    speed_ups: Mapping[Arm, SpeedUp],
    seeds: int,
) -> str:
    paired = f"{seeds} paired seeds"
    if not all(map(math.isfinite, losses[winner])):
        return "No decision: every arm diverged on the target at the rate that was tuned for it."
    if not all(map(math.isfinite, losses["uniform"])):
        return (
            "No saving can be given: one rate for the whole model diverged on the target at the rate that was tuned "
            f"for it. Of the arms that did not, the simplest that no other is measurably better than: {_NAMES[winner]}."
        )
    ours = against.get(("rlrs", winner))
    if winner == "uniform":
        if ours is None:
            return (
                "No transferable gain: relative schedules diverged on the target at the rate that was tuned for them."
            )
        return (
            "No transferable gain: on the target, the ratios found on the proxy are "
            f"{WORDS[ours.standing]} the tuned baseline ({_nats(ours)}; {paired})."
        )
    base = against[winner, "uniform"]
    if winner == "rlrs":
        return _gain(losses, against, speed_ups.get("uniform"), base, paired)
    name, are, them = {
        "embedding_only": ("a tuned embedding multiplier alone", "is", "it"),
        "constant": ("ratios that are held constant", "are", "them"),
    }[winner]
    rest = (
        f"relative schedules are {WORDS[ours.standing]} {them} ({_nats(ours)})"
        if ours is not None
        else "relative schedules diverged at the rate that was tuned for them"
    )
    than_uniform = f"{are} {WORDS[base.standing]} one tuned rate for the whole model ({_nats(base)}; {paired})"
    return f"Use {name}, which {are} simpler: {rest}. {'It' if them == 'it' else 'They'} {than_uniform}."


def _gain(
    losses: Mapping[Arm, Sequence[float]],
    against: Mapping[tuple[Arm, Arm], Interval],
    saved: SpeedUp | None,
    base: Interval,
    paired: str,
) -> str:
    reach = (
        f"Relative rates reach the tuned baseline's final loss with {_saved(saved)}, on {paired}"
        if saved is not None
        else f"Relative rates end {-base.mean:.3f} nats below the tuned baseline ({_range(base)}), on {paired}"
    )
    if "embedding_only" not in losses:
        control = "no embedding-only control was run, so most of it may be that multiplier"
    elif (embedding := against.get(("rlrs", "embedding_only"))) is None:
        control = "the embedding-only control diverged, so part of it may be that multiplier"
    else:
        control = f"a tuned embedding multiplier alone is {-embedding.mean:.3f} nats behind"
    held = against.get(("rlrs", "constant"))
    return f"{reach}; {control}" + (f", ratios held constant {-held.mean:.3f}." if held is not None else ".")


def _diverged(losses: Mapping[Arm, Sequence[float]], seeds: Sequence[int]) -> list[str]:
    """A sentence for each arm that diverged."""
    notes = []
    for arm, values in losses.items():
        lost = [str(seed) for seed, value in zip(seeds, values, strict=True) if not math.isfinite(value)]
        if lost:
            which = f"seed{'s' if len(lost) > 1 else ''} {', '.join(lost)}"
            notes.append(f"The arm {arm} diverged on the target on {which}: it is left out of the decision.")
    return notes


def _unlike(against: Mapping[tuple[Arm, Arm], Interval], seeds: Sequence[int]) -> list[str]:
    """A sentence for each seed whose difference is far from the others', which widens the interval by itself."""
    notes = []
    for (one, other), difference in against.items():
        if one != "rlrs":
            continue
        middle = statistics.median(difference.per_seed)
        away = [abs(value - middle) for value in difference.per_seed]
        typical = statistics.median(away)
        for seed, value, distance in zip(seeds, difference.per_seed, away, strict=True):
            if distance > max(FAR * typical, LEAST) and len(seeds) > 2:
                notes.append(
                    f"Seed {seed} is unlike the others: there relative schedules end {value:+.3f} nats from {other}, "
                    f"in the median {middle:+.3f}; look at its runs, or take more seeds."
                )
    return notes


def _nats(difference: Interval) -> str:
    return f"{difference.mean:+.3f} nats; {_range(difference)}"


def _range(difference: Interval) -> str:
    return f"{difference.level:.0%} interval {difference.low:+.3f} to {difference.high:+.3f}"


def _saved(saved: SpeedUp) -> str:
    if saved.bound == "lower":
        return f"at least {saved.mean:.0%} fewer steps"
    return f"{saved.mean:.0%} fewer steps ({saved.level:.0%} interval {saved.low:.0%} to {saved.high:.0%})"
