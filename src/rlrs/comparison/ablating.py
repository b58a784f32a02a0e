"""The rows of an ablation, judged: paired differences, corrected for the number of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlrs.comparison.judging import standing, unstable
from rlrs.comparison.sentences import ENGLISH
from rlrs.comparison.statistics import FIXED, holm
from rlrs.records import Ablation, AblationRow
from rlrs.words import Words

OF_RATIOS = frozenset({"u-plot", "contribution", "removal"})
"""Kinds whose rows are changes of one thing; the others compare arms under one setting after another."""


def judged_rows(
    rows: Sequence[AblationRow], losses: Mapping[tuple[str, str], Sequence[float]], seeds: Sequence[int]
) -> list[AblationRow]:
    """Rows with their losses, and what their paired differences say.

    Args:
        rows: as they were planned.
        losses: series and place of a row -> final validation losses, nats per token, one for each seed; infinite for a
            run that diverged.
        seeds: in the order of the losses.
    """
    pairs: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        key = row.series, row.at
        both = None if row.against is None else list(zip(losses[key], losses[row.against], strict=True))
        if both is not None and all(math.isfinite(value) for pair in both for value in pair):
            pairs[key] = [ours - theirs for ours, theirs in both]
    p_values = holm({key: FIXED.p_value(values) for key, values in pairs.items()})
    found = []
    for row in rows:
        key, own = (row.series, row.at), losses[row.series, row.at]
        changes = {
            "losses": tuple(loss if math.isfinite(loss) else None for loss in own),
            "unstable": unstable(own, seeds),
        }
        if key in pairs:
            difference = FIXED.interval(pairs[key])
            changes |= {
                "difference": difference,
                "p_value": p_values[key],
                "standing": standing(difference.mean, p_values[key]),
            }
        found.append(row.model_copy(update=changes))
    return found


def counted(ablation: Ablation) -> dict[str, int]:
    """How many rows are measurably better than what they are paired with, worse, and neither; and those that diverged.

    Of kinds that compare arms, the rows of the ablation's own arm alone.
    """
    mine = [row for row in ablation.rows if row.against is not None]
    if ablation.kind not in OF_RATIOS:
        mine = [row for row in mine if row.series == ablation.arm]
    counts = {name: sum(row.standing == name for row in mine) for name in ("better", "worse", "not_different")}
    return {**counts, "diverged": sum(row.standing is None for row in mine), "rows": len(mine)}


def ablation_sentence(ablation: Ablation, words: Words = ENGLISH) -> str:
    """What an ablation says as a whole."""
    counts = counted(ablation)
    kind = "changes" if ablation.kind in OF_RATIOS else "settings"
    said = [
        words(
            f"ablating.{kind}",
            arm=words(f"arm.sentence.{ablation.arm}"),
            rows=counts["rows"],
            better=counts["better"],
            worse=counts["worse"],
            same=counts["not_different"],
        )
    ]
    runs = sum(row.unstable.runs for row in ablation.rows)
    badly = sum(len(row.unstable.seeds) for row in ablation.rows)
    if badly:
        said.append(words("ablating.unstable", n=badly, runs=runs))
    return words("sentence.between").join(said)
