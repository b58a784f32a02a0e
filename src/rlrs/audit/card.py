"""The recipe card: what a study found, how, and who decided what, on one page, under the headings of Annex IV.

It reads files and never models: `results.json` (as plain JSON; what is not there is left out), `ratios.yaml`,
`audit.jsonl`.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlrs.audit.annex_iv import APPLIES, LEFT, TITLES
from rlrs.audit.changes import sentence
from rlrs.audit.entries import AuditEntry, AuditError
from rlrs.audit.tampering import TrailReport
from rlrs.audit.trail import Trail
from rlrs.messages import shown
from rlrs.ratios import Ratios
from rlrs.records.results import RESULTS_SCHEMA

MAIN = "rlrs"
"""The arm whose ratios a study is about."""


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    heading: str
    paragraphs: list[str] = field(default_factory=list)
    header: tuple[str, ...] = ()
    rows: list[tuple[Any, ...]] = field(default_factory=list)
    level: int = 2


def recipe_card(folder: str | Path, form: Literal["markdown", "html"] = "markdown") -> str:
    """The recipe card of a study's folder, as one page that opens offline.

    Args:
        folder: with at least one of results.json, ratios.yaml and audit.jsonl; the card says what was missing.
        form: of the page.

    Raises:
        AuditError: the folder has none of the files, or one cannot be read or is of a later version.
        RatiosError: ratios.yaml cannot be read.

    >>> import tempfile
    >>> trail = Trail(tempfile.mkdtemp())
    >>> _ = trail.append("decision", {"decision": "use", "reason": "0.1 nats better"}, actor="ann")
    >>> "| decision | use: 0.1 nats better |" in recipe_card(trail.folder)
    True
    """
    study = _read(Path(folder))
    sections = list(_sections(study))
    return _markdown(sections) if form == "markdown" else _html(sections)


@dataclass(frozen=True)
class _Study:
    folder: Path
    results: Any
    ratios: Ratios | None
    entries: list[AuditEntry]
    verified: TrailReport | None

    def get(self, *path: str, of: Any = None) -> Any:
        """What results.json has at a path, or None."""
        value = self.results if of is None else of
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def provenance(self, *path: str) -> Any:
        return self.get(*path, of=self.ratios.provenance) if self.ratios is not None else None

    @property
    def environment(self) -> Any:
        stated = [e.facts["environment"] for e in self.entries if isinstance(e.facts.get("environment"), Mapping)]
        return self.get("environment") or (stated[-1] if stated else self.provenance("code"))


def _read(folder: Path) -> _Study:
    results, ratios, entries, verified = None, None, [], None
    trail, path = Trail(folder), folder / "results.json"
    if not folder.is_dir():
        raise AuditError(f"{folder}: no such folder")
    if path.exists():
        try:
            results = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            raise AuditError(f"{path}: damaged: not JSON") from None
        if not isinstance(results, Mapping):
            raise AuditError(f"{path}: damaged: not a mapping")
        schema = results.get("schema")
        if isinstance(schema, int) and schema > RESULTS_SCHEMA:
            raise AuditError(
                f"{path}: has schema {shown(schema)}, of a later rlrs: this one reads up to {RESULTS_SCHEMA}"
            )
    if (folder / "ratios.yaml").exists():
        ratios = Ratios.load(folder / "ratios.yaml")
    if trail.path.exists():
        verified = trail.verify()
        if verified.intact:
            entries = list(trail)
    if results is None and ratios is None and verified is None:
        raise AuditError(f"{folder}: has no results.json, no ratios.yaml and no audit.jsonl: not a study's folder")
    return _Study(folder, results, ratios, entries, verified)


def _sections(study: _Study) -> Iterator[Section]:
    name = study.get("study", "name") or study.provenance("study") or study.folder.resolve().name
    verdict = study.get("comparison", "decision", "sentence") or study.get("comparison", "verdict", "sentence")
    verdict = verdict or study.provenance("decision", "sentence") or study.provenance("target", "verdict")
    verdict = verdict or "No comparison was recorded."
    missing = [
        name
        for name, there in (
            ("results.json", study.results is not None),
            ("ratios.yaml", study.ratios is not None),
            ("audit.jsonl", study.verified is not None),
        )
        if not there
    ]
    absent = [f"Not in the folder, and so not on this card: {', '.join(missing)}."] if missing else []
    yield Section(f"Recipe card: {name}", [str(verdict), *absent, APPLIES], level=1)
    yield _general(study)
    yield from _development(study)
    yield from _judgement(study, str(verdict))
    yield _history(study)
    yield Section(
        "Left to the provider",
        ["Points of Annex IV, or parts of them, that a study says nothing about."],
        ("Point", "What it asks for", "Here"),
        [(point, *words) for point, words in LEFT.items()],
    )


def _general(study: _Study) -> Section:
    environment = study.environment if isinstance(study.environment, Mapping) else {}
    rows = [(key, value) for key, value in environment.items() if value is not None]
    rows += [("settings (hash)", study.get("study", "config_hash") or study.provenance("study_hash"))]
    return Section(
        f"1. {TITLES['1']}",
        ["What is documented: the learning-rate schedules of a model's components, and the code that they come from."],
        ("Software and hardware of the study", ""),
        [row for row in rows if row[1] is not None],
    )


def _development(study: _Study) -> Iterator[Section]:
    yield Section(f"2. {TITLES['2']}")
    rows = []
    for arm, found in _named(study.get("search") or study.get("arms")):
        search = found.get("search", found)  # results.json of schema 2, and of schema 1
        if isinstance(search, Mapping) and isinstance(trials := search.get("trials"), list):
            steps = [study.get("result", "steps", of=trial) or study.get("steps", of=trial) or 0 for trial in trials]
            ended = search.get("reason") or search.get("stopped")
            rows.append((arm, len(trials), sum(n for n in steps if isinstance(n, int)), ended))
    searched = study.provenance("search")
    lines = ["Relative learning rates per component (arXiv:2507.03526): searched on the proxy, used on the target."]
    if isinstance(searched, Mapping):
        lines.append(", ".join(f"{key}: {_text(value)}" for key, value in searched.items()))
    yield Section(f"2(a) {TITLES['2(a)']}", lines, ("Arm", "Runs", "Steps", "Ended"), rows, 3)

    base = study.provenance("base")
    base = base if isinstance(base, Mapping) else study.get("arms", MAIN, "recipe") or study.get("base", MAIN)
    lines = ["Optimised for: training loss on the proxy. A component's rate is the base rate times its ratio."]
    if isinstance(base, Mapping):
        lines.append("Base: " + ", ".join(f"{key} {_text(value)}" for key, value in base.items()))
    rows = [(c, r.start, r.end, "" if len(r.knots) == 2 else len(r.knots)) for c, r in (study.ratios or {}).items()]
    yield Section(f"2(b) {TITLES['2(b)']}", lines, ("Component", "Start", "End", "Knots, if more than two"), rows, 3)

    rows = []
    for name, model in _named(study.get("models")):
        counted = study.get("parameters", of=model)
        total = counted.get("total") if isinstance(counted, Mapping) else counted
        rows.append((name, total, study.get("steps", of=model), study.get("tokens", of=model)))
    spent = [f"{stage}: {_text(study.get('steps', of=c))} steps" for stage, c in _named(study.get("cost"))]
    lines = [f"Training spent: {'; '.join(spent)}."] if spent else []
    yield Section(f"2(c) {TITLES['2(c)']}", lines, ("Model", "Parameters", "Steps", "Tokens"), rows, 3)

    data = study.get("data") or study.provenance("data")
    rows = [(key, value) for key, value in data.items() if value not in (None, [])] if isinstance(data, Mapping) else []
    yield Section(f"2(d) {TITLES['2(d)']}", [], ("Data", ""), rows, 3)

    rows = []
    for arm, loss in _named(study.get("comparison", "losses")):
        minus = study.get("comparison", "differences", arm)
        interval = [_text(study.get(key, of=minus)) for key in ("mean", "low", "high")] if minus else []
        shown = f"{interval[0]} ({interval[1]} to {interval[2]})" if interval else ""
        rate = study.get("arms", arm, "recipe", "target_lr") or study.get("base", arm, "lr")
        rows.append((arm, rate, study.get("mean", of=loss), shown))
    seeds = study.get("comparison", "seeds")
    lines = [f"On the target, paired over the seeds {_text(seeds)}, which no search saw."] if seeds else []
    header = ("Arm", "Base rate", "Validation loss, nats per token", f"{MAIN} minus it, with its interval")
    yield Section(f"2(g) {TITLES['2(g)']}", lines, header, rows, 3)


def _judgement(study: _Study, verdict: str) -> Iterator[Section]:
    notes = study.get("comparison", "decision", "notes")
    lines = [
        verdict,
        *(str(note) for note in (notes if isinstance(notes, list) else ())),
        "Ratios depend on scale, horizon and data: what was measured holds for the target above, and is to be "
        "confirmed at the size that it is used at. Intervals say how sure the measurement is, not how far it carries.",
    ]
    yield Section(f"3. {TITLES['3']}", lines)
    metric = (
        "Validation loss (cross-entropy, nats per token) on text that is not trained on, at equal steps, and the steps "
        "saved at equal loss. It measures how fast a model learns its data, not how well it does a task, nor for whom."
    )
    yield Section(f"4. {TITLES['4']}", [metric])


def _history(study: _Study) -> Section:
    verified = study.verified
    heading = f"6. {TITLES['6']}"
    if verified is None:
        return Section(heading, ["The folder has no audit trail."])
    if not verified.intact:
        return Section(heading, ["The audit trail is NOT intact:", *(str(one) for one in verified.found)])
    lines = [
        f"The audit trail is intact: {verified.entries} entries, head {verified.head}. "
        "An anchor or a signature that is kept elsewhere holds it to its length (`rlrs audit verify`).",
        *(f"{note[:1].upper()}{note[1:]}." for note in verified.notes),
    ]
    rows = [
        (e.index, e.at.replace("T", " ")[:19], e.actor, e.kind, _shortened(sentence(e), 400)) for e in study.entries
    ]
    return Section(heading, lines, ("Entry", "UTC", "Who", "Kind", "What"), rows)


def _named(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Members of a mapping by name, or of a list whose members say theirs."""
    if isinstance(value, Mapping):
        yield from ((str(name), item) for name, item in value.items() if isinstance(item, Mapping))
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, Mapping):
                known = next((key for key in ("arm", "name", "stage", "model") if isinstance(item.get(key), str)), None)
                if known is not None:
                    yield item[known], item


def _text(value: Any) -> str:
    if value is None:
        return "not recorded"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str):
        return _shortened(value, 2000)
    return _shortened(json.dumps(value, ensure_ascii=False, default=str), 2000)


def _shortened(text: str, length: int) -> str:
    shown = "".join(c if c.isprintable() else " " if c.isspace() else f"\\u{ord(c):04x}" for c in text)
    return shown if len(shown) <= length else f"{shown[: length - 3]}..."


def _markdown(sections: Sequence[Section]) -> str:
    blocks = []
    for section in sections:
        blocks.append(f"{'#' * section.level} {_escaped(section.heading)}")
        blocks += [_escaped(paragraph) for paragraph in section.paragraphs]
        if section.rows:
            lines = [section.header, ["---"] * len(section.header), *section.rows]
            cells = [lines[0], *(list(row) for row in lines[1:])]
            blocks.append("\n".join(f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in cells))
    return "\n\n".join(blocks) + "\n"


def _escaped(value: Any) -> str:
    return re.sub(r"([\\*`\[\]<|])", r"\\\1", _text(value))


def _html(sections: Sequence[Section]) -> str:
    parts = []
    for section in sections:
        parts.append(f"<h{section.level}>{_quoted(section.heading)}</h{section.level}>")
        parts += [f"<p>{_quoted(paragraph)}</p>" for paragraph in section.paragraphs]
        if section.rows:
            head = "".join(f'<th scope="col">{_quoted(cell)}</th>' for cell in section.header)
            body = "\n".join(f"<tr>{''.join(f'<td>{_quoted(c)}</td>' for c in row)}</tr>" for row in section.rows)
            parts.append(f"<div><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>")
    return _PAGE.format(title=_quoted(sections[0].heading), style=_STYLE, body="\n".join(parts))


def _quoted(value: Any) -> str:
    return html.escape(_text(value))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin: 2rem 0 .5rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid #8886; padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; }
td { overflow-wrap: anywhere; }
@media print { body { margin: 0; max-width: none; } }
"""
