"""The pages: what they say, from a study's results; the templates say where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rlrs.comparison import read_results, refutation_sentence
from rlrs.files import write_atomic
from rlrs.messages import shown
from rlrs.ratios import Ratio, Ratios
from rlrs.records import (
    REFUTATIONS_FILE,
    ArmSearch,
    Interval,
    Recipe,
    RecordError,
    Refutation,
    Results,
    read_refutations,
)
from rlrs.report import figures, text, trial_figures, tuning
from rlrs.report.curves import LossCurve, ReportError, read_curves
from rlrs.report.drawing import ended
from rlrs.report.limits import budgets, limits
from rlrs.report.origins import Sources
from rlrs.report.rendering import render
from rlrs.report.snippet import snippet
from rlrs.report.summary import Head
from rlrs.report.units import unit_rows
from rlrs.report.wording import Wording
from rlrs.schedules import MOST_STEPS, BaseSchedule
from rlrs.settings import Arm
from rlrs.words import LANGUAGES, Language
from rlrs.yaml_files import dump_yaml

PLAIN = Recipe(lr=1.0)
"""What ratios are drawn with whose provenance says nothing; rates are then in units of the base rate."""


def write_report(study_folder: str | Path, language: Language = "en", path: str | Path | None = None) -> Path:
    """Write a study's page from its `results.json` and the metrics of its comparison runs.

    The page is one file without any reference to the network. It is replaced in one step.

    Args:
        study_folder: the run directory.
        language: `en` or `ja`.
        path: of the page; `report.html`, or `report.ja.html`, in the run directory if None.

    Returns:
        Path of the page.

    Raises:
        ReportError: results.json or a run's metrics are missing or cannot be used.
    """
    folder, words = Path(study_folder), Wording(language)
    head = read_head(folder, words)
    curves = read_curves(folder, head.comparison.runs)
    page = render("report.html.j2", words, Sources(folder / "results.json"), **_report(head, curves))
    path = folder / ("report.html" if language == "en" else f"report.{language}.html") if path is None else Path(path)
    write_atomic(path, page)
    return path


def rewrite_reports(study_folder: str | Path) -> None:
    """Write a study's page anew in every language that it is there in."""
    for language in LANGUAGES:
        name = "report.html" if language == "en" else f"report.{language}.html"
        if (Path(study_folder) / name).exists():
            write_report(study_folder, language)


def read_head(folder: Path, words: Wording) -> Head:
    """The head of a study's page, with what became of its claims on fresh seeds.

    Raises:
        ReportError: results.json is missing, or it or refutations.json cannot be used.
    """
    try:
        again = read_refutations(folder / REFUTATIONS_FILE).refutations
    except FileNotFoundError:
        again = ()
    except RecordError as error:
        raise ReportError(str(error)) from None
    return Head(read_compared(folder), words, again)


def read_compared(folder: Path) -> Results:
    """The results of a study that has a comparison.

    Raises:
        ReportError: there is no results.json, or it cannot be used.
    """
    path = folder / "results.json"
    if not path.is_file():
        raise ReportError(
            f"{path}: there is none yet; finish the study first (rlrs run STUDY.yaml), or name its folder"
        )
    try:
        results = read_results(path)
    except RecordError as error:
        raise ReportError(str(error)) from None
    if results.comparison is None:
        raise ReportError(f"{path}: has no comparison yet; finish the study first (rlrs run STUDY.yaml)")
    return results


def write_ratios_page(
    ratios: Ratios,
    path: str | Path,
    *,
    schedule: BaseSchedule | None = None,
    lr: float | None = None,
    model: Literal["proxy", "target"] | None = None,
    language: Language = "en",
) -> Path:
    """Write a page with the schedules that ratios give: what `rlrs plot` makes.

    Args:
        ratios: the ratios.
        path: of the page; replaced in one step.
        schedule: the base schedule; if None, the one that the ratios were found with, as their provenance has
            it, or else a cosine over 1,000 steps.
        lr: base peak rate; if None, likewise, or else rates are in units of it.
        model: of the study that found them, whose steps and base rate are meant where these are None; the target
            if None, where its base rate is known.
        language: `en` or `ja`.

    Returns:
        Path of the page.

    Raises:
        RecordError: the provenance has a value that cannot be used, or lacks the model that is named.

    >>> import tempfile
    >>> page = write_ratios_page(Ratios({"embedding": (5.0, 0.5)}), Path(tempfile.mkdtemp()) / "ratios.html")
    >>> "embedding" in page.read_text(encoding="utf-8")
    True
    """
    size = _size(ratios, model) if schedule is None and lr is None else None
    found, rate = _found_with(ratios, size)
    schedule, lr, words = schedule or found, lr or rate, Wording(language)
    page = render(
        "ratios.html.j2",
        words,
        title=str(ratios.provenance.get("study") or ratios.provenance.get("preset") or words("ratios.title")),
        panels=figures.schedule_panels(ratios, schedule, lr, words),
        ratios=_ratio_rows(ratios, schedule, lr),
        schedule=schedule,
        lr=lr,
        size=size,
        provenance=dump_yaml(ratios.provenance) if ratios.provenance else "",
    )
    write_atomic(path, page)
    return Path(path)


def _size(ratios: Ratios, model: Literal["proxy", "target"] | None) -> Literal["proxy", "target"] | None:
    """The model whose rates are drawn; None for ratios that say nothing of a study."""
    known = {
        "target": isinstance(ratios.provenance.get("target"), Mapping),
        "proxy": isinstance(ratios.provenance.get("base"), Mapping),
    }
    if model is not None and not known[model]:
        raise RecordError(f"provenance: has nothing of the {model}; only a study's ratios.yaml has")
    return model or ("target" if known["target"] else "proxy" if known["proxy"] else None)


def _found_with(ratios: Ratios, size: Literal["proxy", "target"] | None) -> tuple[BaseSchedule, float | None]:
    """Base schedule and base peak rate of a study's ratios; a plain cosine for ratios without that provenance."""
    recipe, key = Recipe.from_ratios(ratios, PLAIN), "target" if size == "target" else "horizon"
    part = ratios.provenance.get(key)
    steps = part.get("steps", 1000) if isinstance(part, Mapping) else 1000
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MOST_STEPS:
        raise RecordError(
            f"provenance.{key}.steps: should be a whole number from 1 to {MOST_STEPS}, not {shown(steps)}"
        )
    stated = isinstance(ratios.provenance.get("base"), Mapping) and "lr" in ratios.provenance["base"]
    rate = (recipe.target_lr if size == "target" else None) or (recipe.lr if stated else None)
    return recipe.base_schedule(steps), rate


def _report(head: Head, curves: Sequence[LossCurve]) -> dict[str, Any]:
    """Everything that the page's template names."""
    results, words = head.results, head.words
    config, comparison, winner = results.study.config, head.comparison, results.winner
    arms, recipe = list(comparison.losses), winner.recipe
    rate = recipe.target_lr or recipe.lr
    schedule, ratios = recipe.base_schedule(comparison.steps), recipe.relative_rates()
    searches: dict[Arm, ArmSearch] = {arm: a.search for arm, a in results.arms.items() if a.search}
    transfers: dict[Arm, ArmSearch] = {arm: a.transfer for arm, a in results.arms.items() if a.transfer}
    search, training = config.get("search"), config.get("training")
    method = search.get("method", "") if isinstance(search, dict) else ""
    made_from = f"results.json arms.{winner.arm}.recipe"
    return {
        "title": results.study.name,
        "study": results.study,
        "models": results.models,
        "environment": results.environment,
        "data": results.data,
        "comparison": comparison,
        "decision": comparison.decision,
        **_top(head),
        "units": unit_rows(head),
        "seeds": comparison.seeds,
        "unstable": head.unstable,
        "again": [_again_row(one, words) for one in head.refutations],
        "saved": head.saved,
        "saved_place": "speed_up" if head.arm == "rlrs" else "winner_speed_up",
        "saving_arm": head.arm,
        "arms": arms,
        "winner": winner.arm,
        "rate": rate,
        "final_fraction": schedule.alpha,
        "schedule_panels": figures.schedule_panels(ratios, schedule, rate, words, made_from),
        "ratio_rows": _ratio_rows(ratios, schedule, rate),
        "loss_panels": [
            figures.loss_panel(curves, arms, words),
            figures.horizon_panel(comparison, head.arm, head.saved, words),
        ],
        "search_panels": [tuning.history_panel(searches, str(method), words), tuning.transfer_panel(transfers, words)],
        **_trial_panels(searches["rlrs"], words),
        "tuning_rows": _tuning_rows(results, words),
        "budget": budgets(head),
        "growth": head.growth(),
        "snippet": snippet(recipe, comparison.steps, training if isinstance(training, dict) else None),
        "level": next((d.level for d in comparison.differences.values()), 0.95),
        "config_yaml": dump_yaml(config),
        "limits": limits(head),
    }


def _top(head: Head) -> dict[str, Any]:
    """The part above the fold; made in the order in which it is read, so that words are explained where they come."""
    headline, verdict, savings = head.headline(), head.verdict.sentence(), head.savings()
    on_cards = [part for card in savings for part in (card.against, *card.details)]
    terms = head.explained(headline, verdict, *on_cards)
    return {
        "headline": headline,
        "verdict": verdict,
        "savings": savings,
        "lead_terms": terms,
        "facts": head.facts(),
        "meeting": head.meeting(),
    }


def _again_row(refutation: Refutation, words: Wording) -> dict[str, Any]:
    """One row per claim that was run again: what was said, what was measured, what that makes of it."""
    claim, loss, saved = refutation.claim, refutation.loss, refutation.saved

    def told(found: Interval | None, shown: Callable[[float], str]) -> str:
        if found is None:
            return text.NONE
        return words("again.number", value=shown(found.mean), range=words.span(shown(found.low), shown(found.high)))

    def share(value: float) -> str:
        return text.percent(min(value, 1.0), 0)

    return {
        "arm": claim.arm,
        "claim": words("again.claim", arm=words.arm(claim.arm), control=words.arm(claim.control)),
        "cells": [
            told(claim.loss, lambda value: text.difference(value, 3)),
            told(None if loss is None else loss.fresh, lambda value: text.difference(value, 3)),
            told(claim.saved, share),
            told(None if saved is None else saved.fresh, share),
            words.list([str(seed) for seed in refutation.seeds]),
            str(refutation.environment.get("commit") or text.NONE)[:12],
        ],
        "upheld": words(f"refuting.upheld.{refutation.upheld}"),
        "sentence": refutation_sentence(refutation, words),
    }


def _trial_panels(search: ArmSearch, words: Wording) -> dict[str, Any]:
    """The pictures of the rlrs arm's trials, parameter by parameter; empty where there are too few."""
    drawn = trial_figures.drawn(search, words)
    if drawn is None:
        return {"trial_panels": [], "u_panels": [], "trial_notes": [words("trials.too_few")]}
    importance = trial_figures.importance_panel(drawn)
    notes = drawn.notes if importance else [*drawn.notes, words("trials.no_importance")]
    return {
        "trial_panels": [panel for panel in (importance, trial_figures.parallel_panel(drawn)) if panel],
        "u_panels": trial_figures.u_panels(drawn),
        "trial_notes": notes,
    }


def _ratio_rows(ratios: Mapping[str, Ratio], schedule: BaseSchedule, lr: float | None) -> list[dict[str, Any]]:
    peak = lr or 1.0
    return [
        {
            "component": component,
            "start": ratio.start,
            "end": ratio.end,
            "peak_rate": peak * ratio.start,
            "final_rate": peak * schedule.alpha * ratio.end,
        }
        for component, ratio in ratios.items()
    ]


def _tuning_rows(results: Results, words: Wording) -> list[dict[str, Any]]:
    """One row per arm: what it was allowed, what it spent, what it found."""
    rows = []
    for arm, found in results.arms.items():
        # The constant arm of older studies had no search of its own: it held what the rlrs arm's search found.
        search = found.search or results.arms["rlrs"].search
        assert search is not None
        assert found.transfer is not None
        trials = [*search.trials, *found.transfer.trials]
        recipe = found.recipe
        rows.append(
            {
                "arm": arm,
                "budget": search.budget + found.transfer.budget,
                "spent": len(trials),
                "diverged": sum(ended(trial) == "diverged" for trial in trials),
                "score": search.score if found.search else None,
                "lr": recipe.target_lr,
                "final_fraction": recipe.final_fraction,
                "ratios": recipe.relative_rates(),
                "stopped": words.recorded(search.reason)
                if found.search
                else words("tuning.shared", arm=words.way("rlrs")),
            }
        )
    return rows
