"""Which arm a study hands out, and why, from the losses on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlrs.comparison.judging import judge
from rlrs.comparison.sentences import Verdict
from rlrs.comparison.statistics import FIXED, PairedTest
from rlrs.records import Decision, GeneralText, SpeedUp
from rlrs.settings import Arm


def decide(
    losses: Mapping[Arm, Sequence[float]],
    seeds: Sequence[int],
    speed_ups: Mapping[Arm, SpeedUp] | None = None,
    rule: PairedTest = FIXED,
    winner_speed_ups: Mapping[Arm, SpeedUp] | None = None,
    general: GeneralText | None = None,
    looked_at: int | None = None,
) -> Decision:
    """The simplest arm that none of those beyond it is measurably better than.

    From the simplest on, an arm is passed over where one of the arms beyond it is measurably better: by its paired
    differences, with Holm's correction for the number of arms beyond. So the chance of a false gain, that is, of
    passing over an arm that nothing is truly better than, is at most 5 %, however many arms there are: the arms are
    tried in an order that was fixed beforehand, and the first that is not passed over ends it. An arm that diverged on
    some seed neither wins nor beats another, and so does one that raised the loss on general text by more than it may.

    Args:
        losses: arm -> final validation losses, nats per token, one for each seed; infinite for a run that diverged.
        seeds: in the order of the losses.
        speed_ups: control -> steps that `rlrs` saves against it, where that was measured.
        rule: `FIXED` for a number of seeds that was fixed beforehand, `ANYTIME` for one that depends on the losses.
        winner_speed_ups: the same of the winner, where it is another arm than `rlrs`.
        general: what the arms did to the loss on general text, where that was watched.
        looked_at: seeds after which a fixed comparison had been looked at, before more were added.

    Examples:
        >>> losses = {"uniform": [3.61, 3.58, 3.60], "embedding_only": [3.40, 3.38, 3.39], "rlrs": [3.40, 3.37, 3.40]}
        >>> decide(losses, [1, 2, 3]).winner
        'embedding_only'
    """
    judged = judge(losses, seeds, rule, () if general is None else general.bought)
    verdict = Verdict(judged, speed_ups, winner_speed_ups, general=general, looked_at=looked_at)
    controls: list[Arm] = [control for arm, control in judged.against if arm == "rlrs"]
    return Decision(
        winner=judged.winner,
        sentence=verdict.sentence(),
        standings={control: judged.standings["rlrs", control] for control in controls},
        p_values={control: judged.p_values["rlrs", control] for control in controls},
        against_uniform=judged.against.get((judged.winner, "uniform")),
        notes=tuple(verdict.notes()),
    )
