"""When a comparison that runs seed by seed is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlrs.comparison.decision import NAMES, differences, sound_arms
from rlrs.comparison.sequential import confidence_sequence
from rlrs.records import Decision, Interval, Reason, Stopping
from rlrs.settings import Arm


def stopping(losses: Mapping[Arm, Sequence[float]], decision: Decision, margin: float, max_seeds: int) -> Stopping:
    """Whether further seeds could still change a decision by more than a margin.

    It stops where no arm is left beyond the winner (`gain`); where the confidence sequence of every arm beyond it says
    that it gains no more than the margin (`no_gain`); or at `max_seeds`.

    Args:
        losses: arm -> final validation losses so far, nats per token; infinite for a run that diverged.
        decision: of these losses, by the rule `ANYTIME`.
        margin: gain that is worth no further seeds, nats per token.
        max_seeds: most seeds.
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
        sentence=_sentence(reason, winner, seeds, left, open_, margin),
    )


def _sentence(
    reason: Reason | None,
    winner: Arm,
    seeds: int,
    left: Mapping[Arm, Interval],
    open_: Mapping[Arm, Interval],
    margin: float,
) -> str:
    if not open_ and not left:
        what = "every simpler arm is passed over" if reason == "gain" else "no other arm is left to compare with"
        return f"Stopped after {seeds} paired seeds: {what}."
    if reason == "no_gain":
        most = max(0.0, -min(difference.low for difference in left.values()))
        return (
            f"Stopped after {seeds} paired seeds: no arm beyond {NAMES[winner]} gains more than {most:.3f} nats, "
            f"within the margin of {margin:g}."
        )
    gains = "; ".join(f"{NAMES[arm]} {-d.high:+.3f} to {-d.low:+.3f}" for arm, d in open_.items())
    where = f"Stopped after {seeds} paired seeds, the most allowed, undecided" if reason else f"After {seeds} seeds"
    return f"{where}: a gain of more than {margin:g} nats over {NAMES[winner]} is still possible ({gains})."
