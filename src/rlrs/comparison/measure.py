"""The comparison section of a study's results, from its finished runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from rlrs.comparison.decision import decide
from rlrs.comparison.judging import SIMPLEST_FIRST, judge, unstable, without
from rlrs.comparison.seed_stopping import stopping
from rlrs.comparison.sequential import ANYTIME
from rlrs.comparison.statistics import FIXED, speed_up
from rlrs.records import ArmLosses, Comparison, ComparisonRun, GeneralText, Interval, RunResult, SpeedUp
from rlrs.settings import Arm, ComparisonConfig


class Compared(Protocol):
    """What is looked at of a run's spec: a `rlrs.training.RunSpec` has it."""

    @property
    def id(self) -> str:
        """Of the run."""
        ...

    @property
    def steps(self) -> int:
        """Its length."""
        ...

    @property
    def lr(self) -> float:
        """Base peak rate."""
        ...


Runs = Mapping[tuple[Arm, int, float], tuple[Compared, RunResult]]
"""(arm, seed, horizon) -> run; horizon 1.0 is the full length."""


def measure(
    runs: Runs,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    steps: int,
    tokens: int,
    settings: ComparisonConfig | None = None,
    may_rise: float | None = None,
    looked_at: int | None = None,
) -> Comparison:
    """Losses, paired differences, saved steps and what they decide.

    Args:
        runs: full-length runs of every arm and seed, and shorter ones of `rlrs`, and of a simpler arm that won.
        arms: in the order of the tables.
        seeds: paired.
        steps: full length.
        tokens: of a full-length run.
        settings: with `stop: anytime`, everything is judged so that more seeds may follow, and `stopping` says whether
            they should; a fixed number of seeds if None.
        may_rise: nats per token by which the loss on general text may rise; None if that is not watched.
        looked_at: seeds after which a fixed comparison had been looked at, before more were added.
    """
    anytime = settings is not None and settings.stop == "anytime"
    rule = ANYTIME if anytime else FIXED
    final: dict[Arm, list[float]] = {arm: [final_loss(runs[arm, seed, 1.0][1]) for seed in seeds] for arm in arms}
    sound: list[Arm] = [arm for arm in arms if all(map(math.isfinite, final[arm]))]
    differences: dict[Arm, Interval] = {}

    def saved(arm: Arm, controls: Sequence[Arm]) -> dict[Arm, SpeedUp]:
        """Steps that an arm saves against controls, from its runs of several lengths."""
        lengths = [
            {spec.steps: final_loss(result) for (one, s, _), (spec, result) in runs.items() if one == arm and s == seed}
            for seed in seeds
        ]
        return {control: speed_up(final[control], lengths, steps, rule) for control in controls}

    speed_ups: dict[Arm, SpeedUp] = {}
    if "rlrs" in sound:
        controls: list[Arm] = [arm for arm in sound if arm != "rlrs"]
        for control in controls:
            pairs = zip(final["rlrs"], final[control], strict=True)
            differences[control] = rule.interval([ours - theirs for ours, theirs in pairs])
        speed_ups = saved("rlrs", controls)
    general = None if may_rise is None else general_text(runs, arms, seeds, may_rise)
    bought = general.bought if general is not None else ()
    winner = judge(final, seeds, rule, bought).winner
    own: dict[Arm, SpeedUp] = {}
    if winner not in ("uniform", "rlrs") and any(arm == winner and horizon < 1 for arm, _, horizon in runs):
        own = saved(winner, [arm for arm in sound if SIMPLEST_FIRST.index(arm) < SIMPLEST_FIRST.index(winner)])
    looked_at = None if anytime else looked_at
    decision = decide(final, seeds, speed_ups, rule, own, general, looked_at)
    return Comparison(
        looked_at=looked_at,
        steps=steps,
        tokens=tokens,
        seeds=tuple(seeds),
        runs=tuple(comparison_run(*key, *run) for key, run in runs.items()),
        losses={
            arm: ArmLosses(
                mean=_finite(math.fsum(losses) / len(losses)), per_seed=tuple(_finite(value) for value in losses)
            )
            for arm, losses in final.items()
        },
        differences=differences,
        speed_up=speed_ups,
        winner_speed_up=own,
        decision=decision,
        unstable={arm: unstable(losses, seeds) for arm, losses in final.items()},
        general=general,
        stopping=stopping(without(final, bought), decision, settings.margin, settings.most_seeds)
        if settings and anytime
        else None,
    )


def general_text(runs: Runs, arms: Sequence[Arm], seeds: Sequence[int], may_rise: float) -> GeneralText:
    """What full-length runs did to the loss on general text, and which arms raised it by more than they may.

    Args:
        runs: as of `measure`.
        arms: in the order of the tables.
        seeds: paired.
        may_rise: nats per token, of the mean over the seeds.

    Raises:
        ValueError: runs that were not measured on general text.
    """
    ended: dict[Arm, list[RunResult]] = {arm: [runs[arm, seed, 1.0][1] for seed in seeds] for arm in arms}
    before = [result.general_before for own in ended.values() for result in own if result.general_before is not None]
    if not before:
        raise ValueError("no run of the comparison was measured on general text")
    rises: dict[Arm, tuple[float | None, ...]] = {}
    for arm, own in ended.items():
        pairs = [(result.general_before, result.general_loss) for result in own]
        rises[arm] = tuple(None if was is None or now is None else now - was for was, now in pairs)
    means: dict[Arm, list[float]] = {arm: [rise for rise in own if rise is not None] for arm, own in rises.items()}
    bought: tuple[Arm, ...] = tuple(arm for arm, own in means.items() if own and math.fsum(own) / len(own) > may_rise)
    return GeneralText(may_rise=may_rise, before=math.fsum(before) / len(before), rises=rises, bought=bought)


def comparison_run(arm: Arm, seed: int, horizon: float, spec: Compared, result: RunResult) -> ComparisonRun:
    """A run as results.json has it."""
    return ComparisonRun(
        id=spec.id,
        arm=arm,
        seed=seed,
        horizon=horizon,
        steps=spec.steps,
        lr=spec.lr,
        status=result.status,
        valid_loss=result.valid_loss,
        score=result.score,
        general_before=result.general_before,
        general_loss=result.general_loss,
        seconds=result.seconds,
    )


def final_loss(result: RunResult) -> float:
    """Validation loss at the end, nats per token; infinite for a run that did not come to it."""
    return result.valid_loss if result.status == "finished" and result.valid_loss is not None else math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
