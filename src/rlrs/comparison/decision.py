"""Which arm a study hands out, and why, from the losses on the target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlrs.comparison.power import MOST_SEEDS, POWER, seeds_needed
from rlrs.comparison.sequential import ANYTIME
from rlrs.comparison.statistics import FIXED, LEVEL, Rule, holm
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
NAMES: dict[Arm, str] = {
    "uniform": "one rate for the whole model",
    "embedding_only": "a tuned embedding multiplier alone",
    "constant": "constant ratios",
    "rlrs": "relative schedules",
}
"""Arms in a sentence."""


def decide(
    losses: Mapping[Arm, Sequence[float]],
    seeds: Sequence[int],
    speed_ups: Mapping[Arm, SpeedUp] | None = None,
    rule: Rule = FIXED,
) -> Decision:
    """The simplest arm that none of those beyond it is measurably better than.

    From the simplest on, an arm is passed over where one of the arms beyond it is measurably better: by its paired
    differences, with Holm's correction for the number of arms beyond. So the chance of a false gain, that is, of
    passing over an arm that nothing is truly better than, is at most 5 %, however many arms there are: the arms are
    tried in an order that was fixed beforehand, and the first that is not passed over ends it. An arm that diverged on
    some seed neither wins nor beats another.

    Args:
        losses: arm -> final validation losses, nats per token, one for each seed; infinite for a run that diverged.
        seeds: in the order of the losses.
        speed_ups: control -> steps that `rlrs` saves against it, where that was measured.
        rule: `FIXED` for a number of seeds that was fixed beforehand, `ANYTIME` for one that depends on the losses.

    Examples:
        >>> losses = {"uniform": [3.61, 3.58, 3.60], "embedding_only": [3.40, 3.38, 3.39], "rlrs": [3.40, 3.37, 3.40]}
        >>> decide(losses, [1, 2, 3]).winner
        'embedding_only'
    """
    sound = sound_arms(losses)
    against: dict[tuple[Arm, Arm], Interval] = {}
    adjusted: dict[tuple[Arm, Arm], float] = {}
    standings: dict[tuple[Arm, Arm], Standing] = {}
    for place, arm in enumerate(sound):
        beyond: dict[tuple[Arm, Arm], list[float]] = {}
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
    ours: list[tuple[Arm, Arm]] = [("rlrs", arm) for arm in sound if ("rlrs", arm) in against]
    unlike = {pair: _unlike(against[pair], seeds) for pair in ours}
    judged = _Judged(losses, against, adjusted, standings, speed_ups or {}, len(seeds), rule is ANYTIME)
    return Decision(
        winner=winner,
        sentence=judged.undecided(winner, unlike.get(("rlrs", winner), {})) or judged.sentence(winner),
        standings={control: standings[arm, control] for arm, control in ours},
        p_values={control: adjusted[arm, control] for arm, control in ours},
        against_uniform=against.get((winner, "uniform")),
        notes=(*_diverged(losses, seeds), *judged.unlike(unlike)),
    )


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


@dataclass(frozen=True)
class _Judged:
    """Everything that the sentences are about; pairs are (arm, simpler arm)."""

    losses: Mapping[Arm, Sequence[float]]
    against: Mapping[tuple[Arm, Arm], Interval]
    adjusted: Mapping[tuple[Arm, Arm], float]
    standings: Mapping[tuple[Arm, Arm], Standing]
    speed_ups: Mapping[Arm, SpeedUp]
    seeds: int
    anytime: bool

    @property
    def paired(self) -> str:
        return f"{self.seeds} paired seeds"

    def words(self, pair: tuple[Arm, Arm]) -> str:
        return WORDS[self.standings[pair]]

    def nats(self, pair: tuple[Arm, Arm]) -> str:
        difference = self.against[pair]
        text = f"{difference.mean:+.3f} nats; {_range(difference)}"
        if difference.standing == self.standings[pair]:
            return text
        return f"{text}, but p = {self.adjusted[pair]:.2g} corrected for the number of arms"

    def undecided(self, winner: Arm, unlike: Mapping[int, float]) -> str | None:
        """The sentence where seeds unlike the others leave open whether relative schedules are better."""
        pair: tuple[Arm, Arm] = ("rlrs", winner)
        difference = self.against.get(pair)
        if not unlike or difference is None or self.standings[pair] != "not_different":
            return None
        if statistics.median(difference.per_seed) >= 0:
            return None
        which = f"seed{'s' if len(unlike) > 1 else ''} {', '.join(map(str, unlike))}"
        than = "the tuned baseline" if winner == "uniform" else NAMES[winner]
        return (
            f"Not decided: relative schedules are {self.words(pair)} {than} ({self.nats(pair)}; {self.paired}), but "
            f"{which} {'are' if len(unlike) > 1 else 'is'} unlike the others. {self.more_seeds(pair)} "
            f"Until then the files hold what is simpler: {NAMES[winner]}."
        )

    def more_seeds(self, pair: tuple[Arm, Arm]) -> str:
        """How many further seeds would tell a pair apart that differs by the median, at the noise that was seen."""
        difference = self.against[pair]
        middle, noise = statistics.median(difference.per_seed), statistics.stdev(difference.per_seed)
        needed = seeds_needed(middle, noise, anytime=self.anytime)
        if needed is None:
            return f"More than {MOST_SEEDS:,} seeds would be needed to see their median difference, {middle:+.3f} nats."
        more = max(1, needed - self.seeds)
        chance = "" if self.anytime else f" with a chance of {POWER:.0%}"
        return (
            f"About {more} more seed{'s' if more > 1 else ''} would decide{chance}, if it is the median, {middle:+.3f}."
        )

    def unlike(self, found: Mapping[tuple[Arm, Arm], Mapping[int, float]]) -> list[str]:
        """A sentence for each seed whose difference is far from the others', which widens the interval by itself."""
        return [
            f"Seed {seed} is unlike the others: there relative schedules end {value:+.3f} nats from {pair[1]}, in the "
            f"median {statistics.median(self.against[pair].per_seed):+.3f}; look at its runs. "
            + (self.more_seeds(pair) if self.standings[pair] == "not_different" else "It changes no verdict.")
            for pair, seeds in found.items()
            for seed, value in seeds.items()
        ]

    def sentence(self, winner: Arm) -> str:
        """Why an arm is the winner."""
        losses, against, paired = self.losses, self.against, self.paired
        if not all(map(math.isfinite, losses[winner])):
            return "No decision: every arm diverged on the target at the rate that was tuned for it."
        if not all(map(math.isfinite, losses["uniform"])):
            return (
                "No saving can be given: one rate for the whole model diverged on the target at the rate that was "
                "tuned for it. Of the arms that did not, the simplest that none beyond it is measurably better than: "
                f"{NAMES[winner]}."
            )
        ours = against.get(("rlrs", winner))
        if winner == "uniform":
            if ours is None:
                return "No transferable gain: relative schedules diverged at the rate that was tuned for them."
            return (
                "No transferable gain: on the target, the ratios found on the proxy are "
                f"{self.words(('rlrs', winner))} the tuned baseline ({self.nats(('rlrs', winner))}; {paired})."
            )
        if winner == "rlrs":
            return self.gain(against[winner, "uniform"])
        name, are, them = {
            "embedding_only": ("a tuned embedding multiplier alone", "is", "it"),
            "constant": ("ratios that are held constant", "are", "them"),
        }[winner]
        rest = (
            f"relative schedules are {self.words(('rlrs', winner))} {them} ({self.nats(('rlrs', winner))})"
            if ours is not None
            else "relative schedules diverged at the rate that was tuned for them"
        )
        than_uniform = (
            f"{are} {self.words((winner, 'uniform'))} one tuned rate for the whole model "
            f"({self.nats((winner, 'uniform'))}; {paired})"
        )
        return f"Use {name}, which {are} simpler: {rest}. {'It' if them == 'it' else 'They'} {than_uniform}."

    def gain(self, base: Interval) -> str:
        """What relative schedules gain, and how far the controls are behind."""
        losses, against, saved, paired = self.losses, self.against, self.speed_ups.get("uniform"), self.paired
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


def _unlike(difference: Interval, seeds: Sequence[int]) -> dict[int, float]:
    """Seeds whose difference is far from the others', with that difference."""
    middle = statistics.median(difference.per_seed)
    away = [abs(value - middle) for value in difference.per_seed]
    far = max(FAR * statistics.median(away), LEAST)
    pairs = zip(seeds, difference.per_seed, away, strict=True)
    return {seed: value for seed, value, distance in pairs if distance > far and len(seeds) > 2}


def _range(difference: Interval) -> str:
    return f"{difference.level:.0%} interval {difference.low:+.3f} to {difference.high:+.3f}"


def _saved(saved: SpeedUp) -> str:
    if saved.bound == "lower":
        return f"at least {saved.mean:.0%} fewer steps"
    return f"{saved.mean:.0%} fewer steps ({saved.level:.0%} interval {saved.low:.0%} to {saved.high:.0%})"
