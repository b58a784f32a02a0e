"""README.md of this folder, made of the two studies' results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlrs.records import Interval, Results
from rlrs.words import Words

TITLES = {"full": "All weights", "lora": "LoRA"}
WORDS = Words("en")


def document(studies: Mapping[str, Results]) -> str:
    """The whole text.

    Args:
        studies: by name, `full` and `lora`.
    """
    first = studies["full"]
    target, data = first.models.target, first.data
    general = _general(first)
    assert target.parameters is not None
    head = f"""# What should a fine-tuned model's components learn at?

    apt-get install python3.11-doc debian-reference-ja maint-guide-ja
    python -m experiments.finetuning.measure

Made by that command from `full.json` and `lora.json`, each the `results.json` of a study. The base is a Llama of
{target.parameters.total:,} parameters, trained from scratch on the documentation of Python (English; `base.py`). It is
tuned on two books of Debian in Japanese, {data["train_tokens"]:,} bytes of them for training; a token is a byte. Proxy
and target are the same model, with {first.models.proxy.steps} and {target.steps} steps of {target.batch_size} x 128
bytes: {target.tokens / target.parameters.total:.2f} tokens per parameter. General text is held-out English, on which
the base has {general.before:.3f} nats per byte; it may rise by {general.may_rise:g}. Every arm has the same budget.

A base of this size, trained for a minute, says nothing of a large one: what is shown is the way, and what it found.
"""
    return head + "".join(_study(name, found) for name, found in studies.items())


def _study(name: str, found: Results) -> str:
    comparison, general = found.comparison, _general(found)
    assert comparison is not None
    budget = found.arms["uniform"].search
    assert budget is not None
    rows = []
    for arm in found.arms:
        mean = comparison.losses[arm].mean
        rise = [value for value in general.rises[arm] if value is not None]
        cells = [
            WORDS(f"arm.sentence.{arm}"),
            "diverged" if mean is None else f"{mean:.3f}",
            "" if arm == "rlrs" else _range(comparison.differences.get(arm)),
            f"{math.fsum(rise) / len(rise):+.3f}" if rise else "",
            _found(found, arm),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    lines = [
        f"\n## {TITLES[name]}\n",
        f"{budget.budget} trials an arm on the proxy, {len(comparison.seeds)} paired seeds; losses in nats per byte.\n",
        "| arm | Japanese, held out | relative schedules minus it (95 %) | English, rise | found |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        f"\n**Verdict**: {comparison.decision.sentence}\n",
        *(f"- {note}" for note in comparison.decision.notes),
    ]
    return "\n".join(lines) + "\n"


def _general(found: Results):
    comparison = found.comparison
    assert comparison is not None
    assert comparison.general is not None, "general text was watched"
    return comparison.general


def _range(difference: Interval | None) -> str:
    return "" if difference is None else f"{difference.mean:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"


def _found(found: Results, arm: str) -> str:
    """What an arm's search ended with, in a few words."""
    recipe = next(own.recipe for name, own in found.arms.items() if name == arm)
    said = [f"rate {recipe.target_lr:.2g}"]
    said += [
        f"{name.replace('_', ' ')} {value:.2g}"
        for name in ("layer_decay", "lora_plus")
        if (value := getattr(recipe, name)) is not None
    ]
    said += [
        f"{name.replace('_', ' ')} {_knots(knots)}" for name, knots in recipe.ratios.items() if any(r for _, r in knots)
    ]
    return ", ".join(said)


def _knots(knots: Sequence[tuple[float, float]]) -> str:
    return f"{knots[0][1]:.2g} to {knots[-1][1]:.2g}"
