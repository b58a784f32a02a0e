"""The head of a study's page as Markdown or JSON, for a pull request or another program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rlrs.files import write_atomic
from rlrs.report.page import read_head
from rlrs.report.snippet import snippet
from rlrs.report.summary import Head
from rlrs.report.wording import Wording
from rlrs.words import Language

SCHEMA = 1
"""Version of the JSON form."""


def write_summary(
    study_folders: Sequence[str | Path],
    form: Literal["markdown", "json"],
    language: Language = "en",
    path: str | Path | None = None,
) -> str:
    """What the head of the page says, of one study or of several one after another.

    Args:
        study_folders: run directories.
        form: `markdown`, or `json` with all numbers unrounded; of several studies, a list.
        language: of the sentences.
        path: file to write; None for none.

    Returns:
        The text.

    Raises:
        ReportError: a results.json is missing or cannot be used.
    """
    words = Wording(language)
    heads = [(Path(folder), read_head(Path(folder), words)) for folder in study_folders]
    if form == "json":
        plain = [_plain(folder, head) for folder, head in heads]
        said = json.dumps(plain if len(plain) > 1 else plain[0], indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    else:
        said = "\n".join(_markdown(folder, head) for folder, head in heads)
    if path is not None:
        write_atomic(path, said)
    return said


def _markdown(folder: Path, head: Head) -> str:
    words, recipe = head.words, head.results.winner.recipe
    rows = [
        f"| {_cell(words.way(card.control))} | {_cell(card.big)} | {_cell(words('list.parts').join(card.details))} |"
        for card in head.savings()
    ]
    columns = (words("column.against"), words("column.saved"), words("column.details"))
    table = [f"| {' | '.join(columns)} |", "| --- | --- | --- |", *rows] if rows else []
    training = head.results.study.config.get("training")
    lines = [
        f"## {_cell(head.results.study.name)}: {_cell(head.headline())}",
        "",
        head.verdict.sentence(),
        "",
        *([*table, ""] if table else []),
        *(f"- **{fact.question}**{words('term.colon')}{fact.answer}" for fact in head.facts()),
        "",
        "```python",
        snippet(recipe, head.comparison.steps, training if isinstance(training, dict) else None),
        "```",
        "",
        words("plain.source", file=f"`{folder / 'results.json'}`", hash=head.results.study.config_hash),
    ]
    return "\n".join(lines) + "\n"


def _cell(said: str) -> str:
    """Text within a line of Markdown."""
    return said.replace("|", "\\|").replace("\n", " ")


def _plain(folder: Path, head: Head) -> dict[str, Any]:
    """All numbers of the head, unrounded; places are in results.json."""
    account, place = head.account, "speed_up" if head.arm == "rlrs" else "winner_speed_up"
    savings = []
    for control in head.controls:
        saved, pays = head.saved[control], account.pays_off(head.saved[control])
        savings.append(
            {
                "control": control,
                "fair": control == head.fair,
                "shown": head.shown(control),
                **saved.to_plain(),
                "p_value": head.judged.p_values.get((head.arm, control)),
                "pays_off": asdict(pays) if pays is not None and head.shown(control) else None,
                "source": f"comparison.{place}.{control}",
            }
        )
    size = head.results.models.target.parameters
    return {
        "schema": SCHEMA,
        "study": head.results.study.name,
        "config_hash": head.results.study.config_hash,
        "results": str(folder / "results.json"),
        "winner": head.winner,
        "undecided": head.judged.undecided,
        "headline": head.headline(),
        "sentence": head.verdict.sentence(),
        "notes": head.verdict.notes(),
        "arm": head.arm,
        "savings": savings,
        "seeds": list(head.comparison.seeds),
        "unstable": {arm: own.to_plain() for arm, own in head.unstable.items()},
        "refutations": [one.to_plain() for one in head.refutations],
        "steps": head.comparison.steps,
        "tokens": head.comparison.tokens,
        "tokens_per_active_parameter": head.comparison.tokens / size.active if size and size.active else None,
        "growth": head.growth(),
        "cost": {name: asdict(spent) for name, spent in account.stages.items()},
        "cost_in_runs": account.in_runs(account.total),
        "run": asdict(account.run),
        "machine": account.machine.model_dump(mode="json") if account.machine else None,
        "facts": {fact.name: fact.answer for fact in head.facts()},
        "meeting": head.meeting(),
    }
