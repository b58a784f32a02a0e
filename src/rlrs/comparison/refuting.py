"""A claim of a report against fresh seeds: the test that decides, declared before any of them is run.

Of the fresh seeds alone, with Student's interval of the paired differences and Welch's test against the report's own:

    is there an effect in the direction that was claimed?   its 95 % interval lies wholly on that side of 0
    is it smaller than was claimed?                         Welch's one-sided p-value is at most 5 %

| effect | smaller | |
| --- | --- | --- |
| yes | no | confirmed |
| yes | yes | weaker |
| no | yes | refuted |
| no | no | open: the seeds are too few to tell the claimed effect from none |

An arm that was claimed to be better, and diverges on a fresh seed, refutes the claim. The claim that there is no
difference worth having is refuted by an interval that leaves 0 out, and confirmed by one that lies within the margin.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

from rlrs.comparison.judging import SIMPLEST_FIRST, judged_again
from rlrs.comparison.power import power, seeds_needed
from rlrs.comparison.savings import saved_by_winner
from rlrs.comparison.sentences import ENGLISH, saving_shown
from rlrs.comparison.statistics import LEVEL, interval, p_smaller
from rlrs.records import FreshTest, Interval, RecordError, Refutation, ReportClaim, Results, SpeedUp, Upheld
from rlrs.settings import Arm, ComparisonConfig
from rlrs.words import Words

LEAST_SEEDS, MOST_SEEDS = 3, 16
"""Fresh seeds that are run where no number is given, at least and at most. Chosen here."""
_WORST: tuple[Upheld, ...] = ("confirmed", "weaker", "open", "refuted")


def claims(results: Results) -> dict[str, ReportClaim]:
    """What a report says of one arm against a simpler one: by name, `ARM:CONTROL`, that of the headline first.

    Args:
        results: of a study with a comparison.
    """
    comparison = results.comparison
    assert comparison is not None
    judged, saved = judged_again(comparison), saved_by_winner(comparison)
    head: Arm = "rlrs" if judged.winner == "uniform" else judged.winner
    plain = results.study.config.get("comparison")
    margin = plain.get("margin") if isinstance(plain, dict) else None
    found: dict[tuple[Arm, Arm], ReportClaim] = {}
    for (arm, control), loss in judged.against.items():
        standing = judged.standings[arm, control]
        measured = saved.get(control) if arm == head else None
        found[arm, control] = ReportClaim(
            arm=arm,
            control=control,
            standing=standing,
            loss=loss,
            saved=measured if saving_shown(measured, standing) else None,
            seeds=judged.seeds,
            margin=margin if isinstance(margin, float) else ComparisonConfig().margin,
            config_hash=results.study.config_hash,
            commit=results.environment.get("commit"),
        )
    fair = judged.fair_control

    def place(pair: tuple[Arm, Arm]) -> tuple[bool, bool, int, int]:
        arm, control = pair
        return arm != head, control != fair, -SIMPLEST_FIRST.index(arm), -SIMPLEST_FIRST.index(control)

    return {f"{arm}:{control}": found[arm, control] for arm, control in sorted(found, key=place)}


def named_claim(results: Results, name: str | None) -> ReportClaim:
    """The claim of a name, `ARM:CONTROL` or a control alone; that of the headline if None.

    Raises:
        RecordError: the report says nothing of that name.
    """
    known = claims(results)
    if not known:
        raise RecordError("the report has no claim to try: too many runs of its comparison diverged")
    if name is None:
        return next(iter(known.values()))
    chosen = [key for key in known if name in (key, key.partition(":")[2])]
    if not chosen:
        raise RecordError(f"no claim {name!r} in the report; it has {', '.join(known)}")
    return known[chosen[0]]


def fresh_seeds_for(claim: ReportClaim) -> int:
    """Fresh seeds that see an effect as large as was claimed with 80 % power; as many as the report's, at least."""
    least = max(LEAST_SEEDS, len(claim.seeds))
    if claim.standing == "not_different":
        return least
    needed = seeds_needed(claim.loss.mean, statistics.stdev(claim.loss.per_seed)) or MOST_SEEDS
    return max(least, min(needed, MOST_SEEDS))


def chance_of_seeing(claim: ReportClaim, seeds: int) -> float | None:
    """Chance that so many fresh seeds show an effect as large as was claimed; None where none was."""
    noise = statistics.stdev(claim.loss.per_seed)
    if claim.standing == "not_different":
        return None
    return power(seeds, claim.loss.mean, noise) if noise else 1.0


def fresh_test(kind: Literal["loss", "saved"], claim: ReportClaim, values: Sequence[float]) -> FreshTest:
    """What fresh seeds say of one number of a claim.

    Args:
        kind: of number: the paired difference of the losses, or the share of steps that is saved.
        claim: of the report.
        values: the same number on every fresh seed, two or more.

    Examples:
        >>> loss = interval([-0.06, -0.07, -0.08])
        >>> claim = ReportClaim(
        ...     arm="rlrs", control="uniform", standing="better", loss=loss, saved=None, seeds=(1, 2, 3), margin=0.02,
        ...     config_hash="0", commit=None,
        ... )
        >>> [fresh_test("loss", claim, values).upheld for values in (
        ...     [-0.06, -0.07, -0.07], [-0.02, -0.03, -0.03], [0.01, -0.01, 0.0], [-0.16, 0.08, -0.06],
        ... )]
        ['confirmed', 'weaker', 'refuted', 'open']
    """
    fresh = interval(values)
    claimed = claim.loss if kind == "loss" else claim.saved
    assert claimed is not None
    if claim.standing == "not_different":
        within = -claim.margin < fresh.low and fresh.high < claim.margin
        found: Upheld = "refuted" if fresh.standing != "not_different" else "confirmed" if within else "open"
        return FreshTest(fresh=fresh, p_smaller=None, upheld=found)
    sign = math.copysign(1.0, claimed.mean)
    p = p_smaller([sign * value for value in fresh.per_seed], [sign * value for value in claimed.per_seed])
    effect = fresh.low > 0 if sign > 0 else fresh.high < 0
    smaller = p <= 1 - LEVEL
    found = ("weaker" if smaller else "confirmed") if effect else ("refuted" if smaller else "open")
    return FreshTest(fresh=fresh, p_smaller=p, upheld=found)


def upheld(
    claim: ReportClaim, loss: FreshTest | None, saved: FreshTest | None, diverged: Mapping[Arm, Sequence[int]]
) -> Upheld:
    """What becomes of a claim as a whole.

    Args:
        claim: of the report.
        loss: its test; None where a run diverged.
        saved: of the steps saved; None where none were claimed, or a run diverged.
        diverged: arm -> fresh seeds that it diverged on.
    """
    if loss is None:
        # The one that was claimed to be better cannot be had on every seed; the other says nothing against it.
        better = claim.arm if claim.standing == "better" else claim.control
        return "refuted" if claim.standing != "not_different" and diverged.get(better) else "open"
    return max((test.upheld for test in (loss, saved) if test is not None), key=_WORST.index)


def further_seeds(claim: ReportClaim, loss: FreshTest | None, saved: FreshTest | None) -> int | None:
    """Seeds of a further attempt that tell what is claimed from nothing, at the larger noise of both; None if > 1,000.

    Args:
        claim: of the report.
        loss: its test; None where a run diverged.
        saved: of the steps saved.
    """
    most = 0
    for claimed, test in ((claim.loss, loss), (claim.saved, saved)):
        if claimed is None or (test is not None and test.upheld != "open"):
            continue
        fresh = () if test is None else test.fresh.per_seed
        noise = max(statistics.stdev(values) for values in (claimed.per_seed, fresh) if len(values) > 1)
        size = claim.margin if claim.standing == "not_different" else claimed.mean
        if (needed := seeds_needed(size, noise)) is None:
            return None
        most = max(most, needed, len(fresh) + 1)
    return most


def claim_sentence(claim: ReportClaim, words: Words = ENGLISH) -> str:
    """What a report claims, in words."""
    arm, control = (words(f"arm.sentence.{name}") for name in (claim.arm, claim.control))
    said = words("refuting.claim.loss", arm=arm, control=control, loss=_nats(claim.loss, words))
    if claim.saved is None:
        return said
    return said + words("refuting.claim.saved", saved=_share(claim.saved, words))


def refutation_sentence(refutation: Refutation, words: Words = ENGLISH) -> str:
    """What became of a claim, in words."""
    claim = refutation.claim
    said = [
        words(
            f"refuting.sentence.{refutation.upheld}",
            claim=claim_sentence(claim, words),
            seeds=words("refuting.fresh", n=len(refutation.seeds)),
        )
    ]
    if refutation.loss is not None:
        said.append(words("refuting.measured.loss", loss=_nats(refutation.loss.fresh, words)))
    if refutation.saved is not None:
        said.append(words("refuting.measured.saved", saved=_share(refutation.saved.fresh, words)))
    said += [
        words("refuting.unstable", arm=words(f"arm.sentence.{arm}"), n=len(own.seeds), runs=own.runs)
        for arm, own in refutation.unstable.items()
        if own.seeds
    ]
    if refutation.upheld == "open":
        more = refutation.more_seeds
        said.append(words("refuting.too_many") if more is None else words("refuting.more", n=more))
    return words("sentence.between").join(said)


def _nats(found: Interval, words: Words) -> str:
    ends = words("verdict.interval", level=f"{found.level:.0%}", low=f"{found.low:+.3f}", high=f"{found.high:+.3f}")
    return words("verdict.nats", mean=f"{found.mean:+.3f}", interval=ends)


def _share(found: Interval | SpeedUp, words: Words) -> str:
    ends = words(
        "verdict.interval", level=f"{found.level:.0%}", low=f"{found.low:.0%}", high=f"{min(found.high, 1.0):.0%}"
    )
    return words("verdict.saved", mean=f"{found.mean:.0%}", interval=ends)
