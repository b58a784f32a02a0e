"""When a comparison that runs seed by seed is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlrs.comparison.judging import differences, sound_arms
from rlrs.comparison.sentences import ENGLISH
from rlrs.comparison.sequential import confidence_sequence
from rlrs.records import Decision, Interval, Reason, Stopping
from rlrs.settings import Arm
from rlrs.words import Words


def stopping(
    losses: Mapping[Arm, Sequence[float]], decision: Decision, margin: float, max_seeds: int, words: Words = ENGLISH
) -> Stopping:
    """Whether further seeds could still change a decision by more than a margin.

    It stops where no arm is left beyond the winner (`gain`); where the confidence sequence of every arm beyond it says
    that it gains no more than the margin (`no_gain`); or at `max_seeds`.

    Args:
        losses: arm -> final validation losses so far, nats per token; infinite for a run that diverged.
        decision: of these losses, by the rule `ANYTIME`.
        margin: gain that is worth no further seeds, nats per token.
        max_seeds: most seeds.
        words: of the language that it is said in.
    """
    sound, winner = sound_arms(losses), decision.winner
    seeds = len(losses[winner])
    beyond = sound[sound.index(winner) + 1 :] if winner in sound else []
    left: dict[Arm, Interval] = {arm: confidence_sequence(differences(losses, arm, winner)) for arm in beyond}
    open_: dict[Arm, Interval] = {arm: difference for arm, difference in left.items() if difference.low < -margin}
    reason: Reason | None = None
    if not open_:
        reason = "gain" if not left and len(sound) > 1 else "no_gain"
    elif seeds >= max_seeds:
        reason = "max_seeds"
    return Stopping(
        reason=reason,
        max_seeds=max_seeds,
        margin=margin,
        sentence=_sentence(words, reason, winner, seeds, left, open_, margin),
    )


def _sentence(
    words: Words,
    reason: Reason | None,
    winner: Arm,
    seeds: int,
    left: Mapping[Arm, Interval],
    open_: Mapping[Arm, Interval],
    margin: float,
) -> str:
    count = words("count.seed", n=seeds)
    if not open_ and not left:
        return words("stopping.passed_over" if reason == "gain" else "stopping.alone", seeds=count)
    name = words(f"arm.sentence.{winner}")
    if reason == "no_gain":
        most = max(0.0, -min(difference.low for difference in left.values()))
        return words("stopping.no_gain", seeds=count, arm=name, most=f"{most:.3f}", margin=f"{margin:g}")
    gains = [
        words("stopping.range", arm=words(f"arm.sentence.{arm}"), low=f"{-d.high:+.3f}", high=f"{-d.low:+.3f}")
        for arm, d in open_.items()
    ]
    key = "stopping.most" if reason else "stopping.open"
    return words(key, seeds=count, arm=name, margin=f"{margin:g}", gains=words("list.parts").join(gains))
