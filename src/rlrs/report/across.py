"""One page across several studies: does the gain hold at other sizes, horizons, data?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrs.comparison import holm
from rlrs.files import write_atomic
from rlrs.report import text
from rlrs.report.curves import ReportError
from rlrs.report.drawing import Panel, line, markers, plot
from rlrs.report.origins import Sources
from rlrs.report.page import read_head
from rlrs.report.palette import MUTED, arm_look
from rlrs.report.rendering import render
from rlrs.report.summary import Head
from rlrs.report.wording import Wording
from rlrs.settings import Arm
from rlrs.words import Language


@dataclass(frozen=True)
class StudyRow:
    """A study in the table: what it is, what was decided, what is saved.

    Args:
        name: of the study; with its folder's where two have one name.
        cells: in the order of the table's columns.
        source: file, line and place of the decision.
    """

    name: str
    cells: list[str]
    source: str


def write_across(study_folders: Sequence[str | Path], path: str | Path, language: Language = "en") -> Path:
    """Write one page across studies.

    Each study's saving stands against its own strongest control; p-values are corrected for the number of studies
    (Holm), on top of the correction for arms within each.

    Args:
        study_folders: run directories, two or more.
        path: of the page; replaced in one step.
        language: `en` or `ja`.

    Returns:
        Path of the page.

    Raises:
        ReportError: a results.json is missing or cannot be used, or a folder is named twice.
    """
    words, folders = Wording(language), [Path(folder) for folder in study_folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        twice = next(f for f in folders if [g.resolve() for g in folders].count(f.resolve()) > 1)
        raise ReportError(f"{twice}: named twice; a study counts once")
    heads = [read_head(folder, words) for folder in folders]
    names = _names(heads, folders)
    p_values = holm({name: p for name, head in zip(names, heads, strict=True) if (p := _p_value(head)) is not None})
    rows = [
        _row(name, head, folder, p_values.get(name)) for name, head, folder in zip(names, heads, folders, strict=True)
    ]
    gains = sum(head.winner == "rlrs" and p_values.get(n, 1.0) <= 0.05 for n, head in zip(names, heads, strict=True))
    page = render(
        "across.html.j2",
        words,
        title=words("across.title", studies=words.n(len(heads), "study")),
        headline=words("across.headline", gains=gains, studies=len(heads)),
        panels=[_panel(names, heads, folders, words)],
        columns=[words(f"across.column.{name}") for name in COLUMNS],
        rows=rows,
        details=[(name, head.headline(), head.verdict.sentence()) for name, head in zip(names, heads, strict=True)],
        terms=[(words(f"term.{term}.word"), words(f"term.{term}.means")) for term in ("nat", "proxy", "target", "arm")],
    )
    write_atomic(path, page)
    return Path(path)


COLUMNS = ("parameters", "growth", "tokens", "steps", "seeds", "decision", "saved", "p", "one_rate", "cost", "pays")
"""Keys of the table's columns under `across.column.`."""


def _names(heads: Sequence[Head], folders: Sequence[Path]) -> list[str]:
    names = [head.results.study.name for head in heads]
    return [
        name if names.count(name) == 1 else f"{name} ({folder})" for name, folder in zip(names, folders, strict=True)
    ]


def _p_value(head: Head) -> float | None:
    return head.judged.p_values.get((head.arm, head.fair)) if head.fair is not None else None


def _row(name: str, head: Head, folder: Path, p: float | None) -> StudyRow:
    words, size, comparison = head.words, head.results.models.target.parameters, head.comparison
    growth, cost = head.growth(), head.account.in_runs(head.account.total)
    saved = head.fair_saved
    pays = head.account.pays_off(saved) if saved is not None else None
    one_rate = head.share(head.saved["uniform"]) if head.shown("uniform") else text.NONE
    cells = [
        text.NONE if size is None else text.compact(size.total),
        text.NONE if growth is None else f"{growth:.3g}{text.TIMES}",
        text.NONE if size is None or not comparison.tokens else f"{comparison.tokens / size.active:.2g}",
        text.count(comparison.steps),
        str(len(comparison.seeds)),
        words("across.undecided") if head.judged.undecided else words.arm(head.winner),
        _saved(head),
        text.NONE if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}",
        one_rate,
        text.NONE if cost is None else f"{cost:.2g}",
        text.NONE if pays is None else text.count(pays.runs),
    ]
    return StudyRow(name, cells, f"{folder / ''}{Sources(folder / 'results.json')('comparison.decision.winner')}")


def _saved(head: Head) -> str:
    saved = head.fair_saved
    if saved is None or head.fair is None:
        return head.words("saving.none")
    ends = head.words.between(saved.low, saved.high, text.digits_for(saved.low, saved.high))
    return head.words("across.saved", share=head.share(saved), ends=ends, control=head.words.arm(head.fair))


def _panel(names: Sequence[str], heads: Sequence[Head], folders: Sequence[Path], words: Wording) -> Panel:
    """Saved shares with their intervals, study by study: against the strongest control, and against one rate."""
    figure = plot(words("across.x"))
    rows = {name: -row for row, name in enumerate(names)}
    legend, said = [], []
    kinds: list[tuple[str, float]] = [("fair", 0.12), ("uniform", -0.12)]
    for kind, offset in kinds:
        label = words(f"across.against.{kind}")
        look = arm_look("rlrs" if kind == "fair" else "uniform")
        legend.append((label, look))
        for name, head, folder in zip(names, heads, folders, strict=True):
            control: Arm | None = head.fair if kind == "fair" else "uniform"
            if control is None or control not in head.saved or (kind == "uniform" and head.fair == "uniform"):
                continue
            saved, y = head.saved[control], rows[name] + offset
            low, high = 100 * saved.low, 100 * min(saved.high, 1.0)
            place = "speed_up" if head.arm == "rlrs" else "winner_speed_up"
            source = f"{folder / 'results.json'} comparison.{place}.{control}"
            line(figure, [low, high], [y, y], f"{name}, {label}", look, hover="%{x:.1f}%", source=source)
            mean = [100 * saved.mean], [y], f"{name}, {label}", look
            markers(figure, *mean, hover=f"{head.share(saved)}", source=source, style={"size": 9})
            said.append(f"{name} {words.way(control)} {head.share(saved)}")
    line(figure, [0, 0], [-len(rows) + 0.5, 0.5], words("across.nothing"), MUTED, width=1, hover=None)
    figure.update_yaxes(tickvals=list(rows.values()), ticktext=list(rows), range=[-len(rows) + 0.5, 0.5])
    return Panel(
        id="across",
        title=words("across.figure"),
        unit=words("across.unit"),
        alt=words("across.alt", said=words("list.parts").join(said) or words("figure.none")),
        figure=figure,
        legend=legend,
        note=words("across.note"),
        height=max(220, 90 + 56 * len(rows)),
        source="results.json comparison.speed_up",
    )
