"""What the `rlrs` command prints: tables and warnings."""

from __future__ import annotations

import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console
from rich.table import Table

from rlrs.messages import plural, printable
from rlrs.yaml_files import dump_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from rlrs.ratios import Ratios
    from rlrs.records import Certificate, Recipe, Results
    from rlrs.settings import StudyConfig
    from rlrs.verify import Report

out = Console(markup=False)  # a path may hold brackets
err = Console(markup=False, stderr=True)
WIDE = 100
"""Columns from which a comparison's table has the losses of every seed."""


def end_quietly(self: Console | None = None) -> NoReturn:
    """End as other programs do whose reader has gone (`| head`): without a word, with the exit code 141."""
    # What is still to be written goes nowhere, also when the interpreter ends.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    raise SystemExit(128 + signal.SIGPIPE)


Console.on_broken_pipe = end_quietly  # typer's consoles too, with which it prints its help


@contextmanager
def warnings_shown() -> Iterator[None]:
    """What the trainer warns of, each a line."""
    from rlrs.training import CheckpointWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always", CheckpointWarning)
        warnings.showwarning = lambda message, *rest: err.print(
            f"warning: {message}", style="yellow", highlight=False, markup=False, soft_wrap=True
        )
        yield


@contextmanager
def resumable() -> Iterator[None]:
    """Say, where Ctrl-C or a scheduler's SIGTERM stops a command, that it goes on; typer would end without a word."""
    import typer

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = sys.unraisablehook

    def again(lost: sys.UnraisableHookArgs) -> None:
        # Ctrl-C that Python met where nothing can be raised, as in a destructor: it would be dropped, and all goes on.
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            return before(lost)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    sys.unraisablehook = again
    try:
        yield
    except KeyboardInterrupt:
        err.quiet = os.environ.get("RANK", "0") != "0"
        err.print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = before


def print_report(report: Report) -> None:
    """What `rlrs verify` found, a row per component and finding."""
    if not report.ok and not report.findings:
        err.print("the rates could not be verified", style="red")
    else:
        table = Table("component", "rate", "factor", "likely cause, and what to do")
        found = {finding.component for finding in report.findings}
        for finding in report.findings:
            factor = "-" if finding.factor is None else f"{finding.factor:.3g}"
            kind = finding.kind.replace("_", " ")
            table.add_row(finding.component, kind, factor, f"{finding.cause}\n-> {finding.remedy}", style="red")
        for component in report.components:
            if component not in found:
                table.add_row(component, "as promised", "1", "")
        out.print(table)
    for note in report.notes:
        out.print(f"note: {note}", highlight=False, soft_wrap=True)
    out.print(f"{report.steps} optimizer steps were looked at.", highlight=False)


def named_ratios(text: str) -> Ratios:
    """The ratios of a preset or a ratios.yaml that a user named; a note where there are none."""
    from rlrs.ratios import Ratios

    ratios = Ratios.named(text)
    arm = ratios.provenance.get("arm")
    if not ratios and arm:
        err.print(
            f"note: {printable(text)} has no ratios: its study decided for {arm}, one rate for all",
            highlight=False,
            soft_wrap=True,
        )
    return ratios


def print_places(**places: Path) -> None:
    """Where files are, each on a line of its own, never broken."""
    for what, path in places.items():
        out.print(f"{what:<7} {path}", highlight=False, soft_wrap=True)


def print_ended(study: Path, folder: Path) -> None:
    """Of a study that had ended before it was started again: where its page is, and how it is extended."""
    out.print(f"finished already, nothing to do: its page is {folder / 'report.html'}", highlight=False, soft_wrap=True)
    out.print(
        f"to extend it, raise trials or arms in {study} and run it again; for more seeds, now that these were looked "
        "at, set comparison.stop: anytime and max_seeds (docs/search.md, Extend a search)",
        highlight=False,
        soft_wrap=True,
    )


def print_searches(results: Results) -> None:
    """What the arms' searches on the proxy found."""
    table = Table("arm", "runs", "of", "score, nats", "base rate", "stopped", title="Search on the proxy")
    for arm, found in results.arms.items():
        if (search := found.search) is not None:
            table.add_row(
                arm,
                str(len(search.trials)),
                str(search.budget),
                "" if search.score is None else f"{search.score:.4f}",
                f"{found.recipe.lr:.3g}",
                search.reason,
            )
    out.print(table)


def print_comparison(results: Results) -> None:
    """Losses of the arms on the target, what `rlrs` gains on each, and the decision; all seeds where there is room."""
    comparison = results.comparison
    assert comparison is not None
    seeds = comparison.seeds if out.width >= WIDE else ()
    table = Table(title=f"Validation loss on the target, nats per token, {plural(comparison.steps, 'step')}")
    for column in ("arm", "base rate", *(f"seed {seed}" for seed in seeds), "mean", "rlrs minus it", "95 % interval"):
        table.add_column(column, no_wrap=column in ("arm", "95 % interval"))
    for arm, losses in comparison.losses.items():
        cells = [
            arm,
            f"{results.arms[arm].recipe.target_lr:.3g}",
            *(_loss(value) for value in losses.per_seed[: len(seeds)]),
        ]
        cells.append(_loss(losses.mean))
        if (difference := comparison.differences.get(arm)) is not None:
            cells += [f"{difference.mean:+.3f}", f"{difference.low:+.3f} to {difference.high:+.3f}"]
        table.add_row(*cells)
    out.print(table)
    out.print(comparison.decision.sentence, style="bold", highlight=False)
    if comparison.stopping is not None:
        out.print(comparison.stopping.sentence, highlight=False)
    for note in comparison.decision.notes:
        out.print(f"note: {note}", highlight=False, markup=False)
    for arm, found in results.arms.items():
        if found.search is not None and found.search.bounds_note:
            out.print(f"note: the search of {arm} {found.search.bounds_note}", highlight=False, soft_wrap=True)
        if found.transfer is not None and "edge" in found.transfer.reason:
            out.print(f"note: base rate of {arm}: {found.transfer.reason}", highlight=False)


def print_certificate(certificate: Certificate) -> None:
    """What becomes of each component at the target, the forecast, and what came out."""
    table = Table("component", "verdict", "why", title=f"Will it carry? {certificate.study.name}")
    for verdict in certificate.arms["rlrs"].verdicts:
        fate = f"{verdict.fate} (not shown)" if verdict.shown is False else verdict.fate
        table.add_row(verdict.component, fate, verdict.reason)
    out.print(table)
    forecast = Table(title="Forecast for the target")
    for column in ("arm", "final loss, nats", "best base rate", "gain of rlrs, nats", "steps saved"):
        forecast.add_column(column)
    for arm, ahead in certificate.arms.items():
        gain, saved = certificate.gains.get(arm), certificate.saved.get(arm)
        forecast.add_row(
            arm,
            "-" if ahead.loss is None else f"{ahead.loss.low:.3f} to {ahead.loss.high:.3f}",
            f"{ahead.rate.low:.3g} to {ahead.rate.high:.3g}",
            "" if gain is None else f"{gain.low:+.3f} to {gain.high:+.3f}",
            "" if saved is None else f"{saved.low:.0%} to {saved.high:.0%}",
        )
    out.print(forecast)
    if certificate.checks is not None:
        checks = Table("what", "predicted", "measured", "inside", title="What came out")
        for check in certificate.checks:
            inside = "yes" if check.inside else "no"
            span = f"{check.predicted.low:.4g} to {check.predicted.high:.4g}"
            checks.add_row(check.what, span, f"{check.measured:.4g}", inside)
        out.print(checks)
    out.print(certificate.sentence, style="bold", highlight=False, markup=False)
    for note in certificate.notes:
        out.print(f"note: {note}", highlight=False, markup=False)


def _loss(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.4f}"


def print_components(title: str, module: Any, ratios: Any, parameters: bool) -> None:
    """A model's components, with their rates if there are ratios, and every parameter's if asked for."""
    from rlrs.inspection import component_rows
    from rlrs.models import LanguageModel, count_parameters
    from rlrs.ratios import BASE

    rows, parts, total = component_rows(module, ratios or ())
    table = Table(title=title)
    table.add_column("component", no_wrap=True)
    for column in ("tensors", "parameters", "share", "not decayed", *(["start", "end"] if ratios is not None else [])):
        table.add_column(column, justify="right", no_wrap=column == "parameters")
    for row in rows:
        ratio = (
            ratios.get(row.component, ratios.get(row.component.partition("/")[0], BASE)) if ratios is not None else None
        )
        table.add_row(
            row.component,
            str(row.tensors),
            f"{row.parameters:,}",
            f"{row.parameters / total:.1%}",
            f"{row.undecayed:,}",
            *([f"{ratio.start:g}", f"{ratio.end:g}"] if ratio else []),
        )
    table.add_row("all, each once", str(sum(row.tensors for row in rows)), f"{total:,}", "100.0%", style="bold")
    out.print(table)
    if isinstance(module, LanguageModel):
        count = count_parameters(module)
        out.print(f"a token uses {count.active:,}; without embeddings {count.non_embedding:,}", highlight=False)
    there = {*parts, *(name.partition("/")[0] for name in parts), *parts.tied_components}
    absent = [c for c in ratios or () if c not in there and c.partition("/")[0] not in there]
    if absent:
        out.print(f"the ratios also name {', '.join(absent)}, which this model does not have", highlight=False)
    if parameters:
        component_of = parts.component_of()
        for name in (name for names in parts.values() for name in names):
            out.print(f"  {name}: {component_of[name]} ({parts.reasons[name]})", highlight=False, markup=False)
    for name, aliases in parts.tied.items():
        rate = parts.component_of()[name]
        out.print(f"tied: {', '.join(aliases)} is {name}, one rate: {rate}", highlight=False, markup=False)
    for name, reason in parts.unsure.items():
        out.print(f"unsure: {name}: {reason}", highlight=False, markup=False)
    for rule in parts.suggestions():
        out.print(f"a rule that settles it: rlrs.{rule}", highlight=False, markup=False)


def print_ladder(study: StudyConfig, factors: list[float]) -> None:
    """A study's proxy at other sizes: asked and reached, and as a study's `model`."""
    from rlrs.inspection import ladder_rows
    from rlrs.models import size_steps

    rows = list(ladder_rows(study, factors))
    table = Table(title=f"{study.name}: the proxy times what is asked, without embeddings", box=None)
    for column in ("asked", "reached", "width", "layers", "parameters", "of a token", "no embedding", "FLOPs a token"):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for rung, count, flops in rows:
        steps, step, layers = size_steps(rung.config)
        sizes = (f"{rung.asked:g}", f"{rung.reached:.3g}", str(steps * step), str(layers))
        numbers = (count.total, count.active, count.non_embedding)
        table.add_row(*sizes, *(f"{number:,}" for number in numbers), f"{flops:.3g}")
    out.print(table)
    for rung, _, _ in rows[1:]:
        plain = dump_yaml(
            rung.config.model_dump(mode="json", exclude_unset=True), default_flow_style=True, width=math.inf
        ).strip()
        bent = "" if abs(rung.aspect - 1) < 0.005 else f"  # width / layers is {rung.aspect:.3g} times the proxy's"
        out.print(f"model: {plain}{bent}", highlight=False, markup=False, soft_wrap=True)


def recipe_from(text: str, defaults: Recipe, ratios: Ratios | None = None) -> Recipe:
    """What a ratios.yaml or a preset says, and the defaults for what it does not."""
    from rlrs.records import Recipe, RecordError

    try:
        return Recipe.from_ratios(named_ratios(text) if ratios is None else ratios, defaults)
    except RecordError as error:
        raise RecordError(f"{text}: {error}") from None
