"""What a comparison decided, in words: one wording for terminal, results.json, ratios.yaml and page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping

from rlrs.comparison.judging import Judged, Pair
from rlrs.comparison.power import MOST_SEEDS, POWER, seeds_needed
from rlrs.records import GeneralText, Interval, SpeedUp, Standing
from rlrs.settings import Arm
from rlrs.words import Words

ENGLISH = Words("en")


def saving_shown(saved: SpeedUp | None, standing: Standing | None) -> bool:
    """Whether saved steps may be called a gain: a measurably lower loss, and an interval wholly above zero."""
    return saved is not None and standing == "better" and (saved.low > 0 or saved.bound == "lower")


class Verdict:
    """The sentences of a comparison.

    Args:
        judged: what its losses say.
        speed_ups: control -> steps that `rlrs` saves against it.
        winner_speed_ups: control -> steps that the winner saves, where it is a simpler arm than `rlrs`.
        words: of the language.
        general: what the arms did to the loss on general text, where that was watched.
        looked_at: seeds after which a fixed comparison had been looked at, before more were added.
    """

    def __init__(
        self,
        judged: Judged,
        speed_ups: Mapping[Arm, SpeedUp] | None = None,
        winner_speed_ups: Mapping[Arm, SpeedUp] | None = None,
        words: Words = ENGLISH,
        general: GeneralText | None = None,
        looked_at: int | None = None,
    ) -> None:
        self.judged, self.words, self.general, self.looked_at = judged, words, general, looked_at
        self.speed_ups = (speed_ups if judged.winner in ("rlrs", "uniform") else winner_speed_ups) or {}

    @property
    def decided(self) -> bool:
        """Whether an arm and one rate for all, which savings are measured against, ended on every seed."""
        judged = self.judged
        return all(map(math.isfinite, (*judged.losses[judged.winner], *judged.losses["uniform"])))

    def sentence(self) -> str:
        """Which arm is handed out, and why; first what it saves against the strongest simpler way."""
        judged, words, winner = self.judged, self.words, self.judged.winner
        if not all(map(math.isfinite, judged.losses[winner])):
            return words("verdict.all_bought" if judged.bought else "verdict.all_diverged")
        if judged.undecided:
            return self._undecided()
        if not all(map(math.isfinite, judged.losses["uniform"])):
            key = "bought" if "uniform" in judged.bought else "diverged"
            return words(f"verdict.uniform_{key}", arm=self.arm(winner))
        if winner == "rlrs":
            return self._gain()
        ours: Pair = ("rlrs", winner)
        if winner == "uniform":
            if ours not in judged.against:
                return (
                    words("verdict.none_bought") if "rlrs" in judged.bought else self._diverged("verdict.none_diverged")
                )
            return words("verdict.none", standing=self.standing(ours), nats=self.nats(ours), seeds=self.seeds())
        rest = (
            words(f"verdict.rest.{winner}", standing=self.standing(ours), nats=self.nats(ours))
            if ours in judged.against
            else words("verdict.rest.bought")
            if "rlrs" in judged.bought
            else self._diverged("verdict.rest.diverged")
        )
        return words(f"verdict.simpler.{winner}", rest=rest, gain=self._gain_of_simpler(winner))

    def notes(self) -> list[str]:
        """What limits it: arms that diverged, seeds unlike the others; a sentence each."""
        words = self.words
        found = [
            words("verdict.diverged", arm=self.arm(arm), n=len(seeds), seeds=words.list([str(s) for s in seeds]))
            for arm, seeds in self.judged.diverged.items()
        ]
        found += self._general_notes()
        if self.looked_at is not None:
            found.append(words("verdict.looked_at", n=self.looked_at))
        controls: list[Arm] = [control for arm, control in self.judged.against if arm == "rlrs"]
        for control in controls:
            pair: Pair = ("rlrs", control)
            median = statistics.median(self.judged.against[pair].per_seed)
            open_ = self.judged.standings[pair] == "not_different"
            then = self.more_seeds(pair) if open_ else words("verdict.changes_nothing")
            found += [
                words(
                    "verdict.unlike", seed=seed, value=f"{value:+.3f}", arm=self.arm(control), median=f"{median:+.3f}"
                )
                + words("list.sentence")
                + then
                for seed, value in self.judged.unlike(control).items()
            ]
        return found

    def _general_notes(self) -> list[str]:
        """What the arms did to the loss on general text; those that bought their gain there, a sentence each."""
        words, general = self.words, self.general
        if general is None:
            return []
        means: dict[Arm, list[float]] = {
            arm: [rise for rise in own if rise is not None] for arm, own in general.rises.items()
        }
        rises: dict[Arm, str] = {arm: f"{math.fsum(own) / len(own):+.3f}" for arm, own in means.items() if own}
        limit = f"{general.may_rise:g}"
        told = [words("verdict.general_rise", arm=self.arm(arm), rise=rise) for arm, rise in rises.items()]
        return [
            words("verdict.general", before=f"{general.before:.3f}", limit=limit, rises=words.list(told)),
            *(words("verdict.bought", arm=self.arm(arm), rise=rises[arm], limit=limit) for arm in self.judged.bought),
        ]

    def arm(self, arm: Arm) -> str:
        """An arm in a sentence."""
        return self.words(f"arm.sentence.{arm}")

    def standing(self, pair: Pair) -> str:
        """What a comparison with a control says."""
        return self.words(f"standing.{self.judged.standings[pair]}", arm=self.arm(pair[1]))

    def seeds(self) -> str:
        """How many there are."""
        return self.words("count.seed", n=len(self.judged.seeds))

    def nats(self, pair: Pair) -> str:
        """A difference with its interval; with its p-value too, where that says otherwise."""
        difference = self.judged.against[pair]
        text = self.words("verdict.nats", mean=f"{difference.mean:+.3f}", interval=self.range(difference))
        if difference.standing == self.judged.standings[pair]:
            return text
        return text + self.words("verdict.corrected", p=f"{self.judged.p_values[pair]:.2g}")

    def range(self, found: Interval) -> str:
        """An interval of losses."""
        level, low, high = f"{found.level:.0%}", f"{found.low:+.3f}", f"{found.high:+.3f}"
        return self.words("verdict.interval", level=level, low=low, high=high)

    def saved(self, saved: SpeedUp) -> str:
        """Saved steps with their interval."""
        if saved.bound == "lower":
            return self.words("verdict.saved_at_least", mean=f"{saved.mean:.0%}")
        low, high = f"{saved.low:.0%}", f"{min(saved.high, 1.0):.0%}"  # no share is above 1; Student's may be
        interval = self.words("verdict.interval", level=f"{saved.level:.0%}", low=low, high=high)
        return self.words("verdict.saved", mean=f"{saved.mean:.0%}", interval=interval)

    def more_seeds(self, pair: Pair) -> str:
        """How many further seeds would tell a pair apart that differs by the median, at the noise that was seen."""
        difference = self.judged.against[pair]
        middle, noise = statistics.median(difference.per_seed), statistics.stdev(difference.per_seed)
        needed = seeds_needed(middle, noise, anytime=self.judged.anytime)
        median = f"{middle:+.3f}"
        if needed is None:
            return self.words("verdict.too_many_seeds", most=f"{MOST_SEEDS:,}", median=median)
        more = max(1, needed - len(self.judged.seeds))
        key = "verdict.more_seeds" if self.judged.anytime else "verdict.more_seeds_chance"
        return self.words(key, n=more, chance=f"{POWER:.0%}", median=median)

    def _diverged(self, key: str) -> str:
        """That `rlrs` diverged, and on how many of the seeds."""
        lost = self.judged.diverged.get("rlrs", ())
        return self.words(key, n=len(lost), seeds=self.seeds())

    def _undecided(self) -> str:
        winner = self.judged.winner
        pair: Pair = ("rlrs", winner)
        unlike = [str(seed) for seed in self.judged.unlike(winner)]
        return self.words(
            "verdict.undecided",
            standing=self.standing(pair),
            nats=self.nats(pair),
            seeds=self.seeds(),
            unlike=self.words("verdict.seeds_unlike", n=len(unlike), seeds=self.words.list(unlike)),
            more=self.more_seeds(pair),
            arm=self.arm(winner),
        )

    def _gain(self) -> str:
        """What relative schedules save against the strongest control, and against one rate for all."""
        judged, words, fair = self.judged, self.words, self.judged.fair_control
        assert fair is not None, "uniform is one"
        said = [self._against(fair, "fair" if fair != "uniform" else "one")]
        if fair != "uniform":
            said.append(self._against("uniform", "also"))
        if "embedding_only" not in judged.losses:
            said.append(words("verdict.no_embedding_control"))
        elif ("rlrs", "embedding_only") not in judged.against:
            said.append(words("verdict.embedding_control_diverged"))
        return words("verdict.joined", said=words("verdict.and").join(said))

    def _against(self, control: Arm, place: str) -> str:
        pair: Pair = ("rlrs", control)
        saved, values = self.speed_ups.get(control), {"arm": self.arm(control), "seeds": self.seeds()}
        if saved is not None and saving_shown(saved, self.judged.standings[pair]):
            return self.words(f"verdict.reach.{place}", saved=self.saved(saved), **values)
        difference = self.judged.against[pair]
        gap = self.words("verdict.gap", gap=f"{-difference.mean:.3f}", interval=self.range(difference))
        return self.words(f"verdict.below.{place}", gap=gap, **values)

    def _gain_of_simpler(self, winner: Arm) -> str:
        pair: Pair = (winner, "uniform")
        saved = self.speed_ups.get("uniform")
        if saved is not None and saving_shown(saved, self.judged.standings[pair]):
            return self.words(f"verdict.simpler_saves.{winner}", saved=self.saved(saved), seeds=self.seeds())
        standing = self.standing(pair)
        return self.words(f"verdict.simpler_is.{winner}", standing=standing, nats=self.nats(pair), seeds=self.seeds())
