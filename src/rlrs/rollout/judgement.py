"""Pass, fail or more data: what the results of a stage say, by what was declared for it.

The gain is judged by a confidence sequence (`rlrs.comparison.sequential`): it holds at all looks together, so a stage
may be looked at after every run. Results that are not paired are compared in the order in which they came, the first of
one arm with the first of the other: their differences are independent with one spread whatever those of the arms are.
(H. Scheffé, "On solutions of the Behrens-Fisher problem", Annals of Mathematical Statistics 14, 1943.)

To pass, the gain and every guardrail must be shown, each at 5 %: so the chance of passing where any of them does not
hold is at most that (intersection-union).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rlrs.comparison.sequential import boundary
from rlrs.comparison.statistics import LEVEL, moments
from rlrs.rollout.declared import DIVERGED, GuardrailConfig, RolloutError, StageConfig

StageVerdict = Literal["pass", "fail", "more_data"]


class Outcome(NamedTuple):
    """How one run of an arm ended."""

    arm: str
    run: str
    """Name: of the pair, where results are paired."""
    values: dict[str, float]
    """Metric -> value; empty where it diverged."""
    diverged: bool = False


class Pair(NamedTuple):
    """What is compared."""

    baseline: Outcome
    candidate: Outcome


@dataclass(frozen=True)
class CriterionResult:
    """What the results say of the gain, or of one guardrail."""

    name: str
    verdict: StageVerdict
    reason: str


@dataclass(frozen=True)
class Judgement:
    """What the results of a stage say, so far."""

    verdict: StageVerdict
    reason: str
    pairs: int
    """That were compared."""
    gain: tuple[float, float, float] | None
    """Mean, low, high of the metric's gain, in its unit; None before the first `min_pairs`."""
    findings: tuple[CriterionResult, ...] = field(default=())

    def to_plain(self) -> dict[str, Any]:
        """As JSON would hold it."""
        gain = None if self.gain is None else dict(zip(("mean", "low", "high"), self.gain, strict=True))
        findings = [{"name": f.name, "verdict": f.verdict, "reason": f.reason} for f in self.findings]
        return {"pairs": self.pairs, "gain": gain, "findings": findings}


def judge(stage: StageConfig, arms: tuple[str, str], outcomes: Sequence[Outcome], *, passed: bool = False) -> Judgement:
    """What the results of a stage say.

    Args:
        stage: as declared.
        arms: the arm in use, and the one that would take its place.
        outcomes: of both, in the order in which they came.
        passed: whether an earlier look has shown the gain; what was shown once stays so.

    Examples:
        >>> stage = StageConfig(metric="loss", max_pairs=9, back_out="Ann loads the old rates.")
        >>> old = [Outcome("a", str(n), {"loss": 3.2 + 0.01 * n}) for n in range(4)]
        >>> new = [Outcome("b", str(n), {"loss": 3.1 + 0.009 * n}) for n in range(4)]
        >>> found = judge(stage, ("a", "b"), [*old, *new])
        >>> found.verdict, found.pairs
        ('pass', 4)
        >>> print(found.reason)
        loss: gain 0.102 (95 % at all looks: 0.0973 to 0.106), above 0
    """
    candidate = [outcome for outcome in outcomes if outcome.arm == arms[1]]
    pairs = make_pairs(stage, arms, outcomes)[: stage.max_pairs]
    whole = [pair for pair in pairs if not (pair.baseline.diverged or pair.candidate.diverged)]
    gain = _gain(stage, whole)
    last = len(pairs) >= stage.max_pairs
    findings = [_criterion(stage, gain, len(whole), passed)]
    for metric, guardrail in stage.bounds().items():
        findings.append(_guardrail(stage, metric, guardrail, whole, candidate))
    failed = [finding for finding in findings if finding.verdict == "fail"]
    open_ = [finding for finding in findings if finding.verdict == "more_data"]
    verdict: StageVerdict
    if failed:
        verdict, reason = "fail", "; ".join(finding.reason for finding in failed)
    elif open_ and last:
        said = "; ".join(finding.reason for finding in open_)
        verdict, reason = "fail", f"not shown within max_pairs, {stage.max_pairs}: {said}"
    elif open_:
        verdict, reason = "more_data", "; ".join(finding.reason for finding in open_)
    else:
        verdict, reason = "pass", findings[0].reason
    lost = len(pairs) - len(whole)
    if lost:
        reason += f" ({lost} of {len(pairs)} pairs have a run that diverged and are left out of the means)"
    return Judgement(verdict, reason, len(pairs), gain, tuple(findings))


def make_pairs(stage: StageConfig, arms: tuple[str, str], outcomes: Sequence[Outcome]) -> list[Pair]:
    """Results that are compared with each other, in the order in which the later one of them came.

    So a pair that was looked at keeps its place, whatever comes after.
    """
    if not stage.paired:
        old, new = ([outcome for outcome in outcomes if outcome.arm == arm] for arm in arms)
        return [Pair(*pair) for pair in zip(old, new, strict=False)]
    waiting: dict[tuple[str, str], Outcome] = {}
    pairs = []
    for outcome in outcomes:
        other = arms[1] if outcome.arm == arms[0] else arms[0]
        if (first := waiting.pop((other, outcome.run), None)) is None:
            waiting[outcome.arm, outcome.run] = outcome
        else:
            pairs.append(Pair(outcome, first) if outcome.arm == arms[0] else Pair(first, outcome))
    return pairs


def _gain(stage: StageConfig, pairs: Sequence[Pair]) -> tuple[float, float, float] | None:
    sign = 1.0 if stage.better == "higher" else -1.0
    values = [sign * (p.candidate.values[stage.metric] - p.baseline.values[stage.metric]) for p in pairs]
    found = _sequence(values, stage)
    # Differences without any spread are rounded, copied, or of arms that are one and the same: they show no gain.
    return (found[0], -math.inf, math.inf) if found and found[1] == found[2] else found


def _sequence(values: Sequence[float], stage: StageConfig) -> tuple[float, float, float] | None:
    """Mean, low and high of the confidence sequence; None before `min_pairs`."""
    if len(values) < stage.min_pairs:
        return None
    mean, error = moments(values)
    half = boundary(len(values), LEVEL, stage.tau) * error if error > 0 else 0.0
    return mean, mean - half, mean + half


def _criterion(
    stage: StageConfig, gain: tuple[float, float, float] | None, pairs: int, passed: bool
) -> CriterionResult:
    if gain is None:
        return CriterionResult(
            stage.metric, "more_data", f"{stage.metric}: {pairs} of at least {stage.min_pairs} pairs"
        )
    _, low, high = gain
    what = f"{stage.metric}: gain {_interval(gain)}"
    if low > stage.min_gain or (passed and high > stage.min_gain):
        earlier = "" if low > stage.min_gain else ", as an earlier look has shown"
        return CriterionResult(stage.metric, "pass", f"{what}, above {stage.min_gain:g}{earlier}")
    if high <= stage.min_gain:
        return CriterionResult(stage.metric, "fail", f"{what}, not above {stage.min_gain:g}")
    return CriterionResult(stage.metric, "more_data", f"{what}, not shown to be above {stage.min_gain:g}")


def _guardrail(
    stage: StageConfig, metric: str, guardrail: GuardrailConfig, pairs: Sequence[Pair], candidate: Sequence[Outcome]
) -> CriterionResult:
    words = guardrail.words(metric)
    if metric == DIVERGED:
        return _diverged(stage, guardrail, candidate)
    if guardrail.of == "run":
        return _every_run(metric, guardrail, candidate)
    values = [(p.baseline.values[metric], p.candidate.values[metric]) for p in pairs]
    if guardrail.of == "ratio":
        _above_zero(metric, pairs)
        found = _sequence([math.log(new / old) for old, new in values], stage)
        found = None if found is None else (_exp(found[0]), _exp(found[1]), _exp(found[2]))
    else:
        found = _sequence([new - old for old, new in values], stage)
    if found is None:
        return CriterionResult(metric, "more_data", f"{words}: {len(values)} of at least {stage.min_pairs} pairs")
    _, low, high = found
    upper = guardrail.at_most is not None
    if high <= guardrail.bound if upper else low >= guardrail.bound:
        return CriterionResult(metric, "pass", f"{words}: {_interval(found)}")
    if low > guardrail.bound if upper else high < guardrail.bound:
        return CriterionResult(metric, "fail", f"{words}, does not hold: {_interval(found)}")
    return CriterionResult(metric, "more_data", f"{words}, not shown yet: {_interval(found)}")


def _diverged(stage: StageConfig, guardrail: GuardrailConfig, candidate: Sequence[Outcome]) -> CriterionResult:
    """A share of the runs: broken when even `max_pairs` runs could not bring it back below its bound."""
    lost = [outcome.run for outcome in candidate if outcome.diverged]
    most = max(stage.max_pairs, len(candidate))
    said = f"{DIVERGED}: {len(lost)} of {len(candidate)} runs of the candidate"
    if lost:
        said += f" ({', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''})"
    said += f", a share of {guardrail.bound:g} is allowed"
    if len(lost) > guardrail.bound * most:
        return CriterionResult(DIVERGED, "fail", said)
    return CriterionResult(DIVERGED, "pass" if len(lost) <= guardrail.bound * len(candidate) else "more_data", said)


def _every_run(metric: str, guardrail: GuardrailConfig, candidate: Sequence[Outcome]) -> CriterionResult:
    words = guardrail.words(metric)
    values = [(outcome.values[metric], outcome.run) for outcome in candidate if metric in outcome.values]
    if not values:
        return CriterionResult(metric, "more_data", f"{words}: no run of the candidate yet")
    value, run = max(values) if guardrail.at_most is not None else min(values)
    holds = value <= guardrail.bound if guardrail.at_most is not None else value >= guardrail.bound
    said = f"{words}: {'worst' if holds else 'is'} {value:.4g} in run {run}"
    return CriterionResult(metric, "pass" if holds else "fail", said)


def _above_zero(metric: str, pairs: Sequence[Pair]) -> None:
    for outcome in (outcome for pair in pairs for outcome in pair):
        if outcome.values[metric] <= 0:
            raise RolloutError(
                f"{metric} of run {outcome.run} of {outcome.arm} is {outcome.values[metric]:g}; a guardrail of a "
                "ratio needs values above 0"
            )


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _interval(found: tuple[float, float, float]) -> str:
    mean, low, high = found
    if math.isinf(high):
        return f"{mean:.3g} (no spread in the differences: rounded or copied values show nothing)"
    return f"{mean:.3g} ({LEVEL:.0%} at all looks: {low:.3g} to {high:.3g})".replace("%", " %")
