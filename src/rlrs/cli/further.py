"""`rlrs refute` and `rlrs ablate`: further runs of a finished study, which change nothing that it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast, get_args

import typer
from rich.table import Table

from rlrs.cli.pages import Lang
from rlrs.cli.study_view import StudyView
from rlrs.cli.terminal import out, print_places, resumable
from rlrs.messages import plural

if TYPE_CHECKING:
    from rlrs.records import Ablation, Refutation
    from rlrs.study import FurtherCost

_Kind = Literal[
    "u-plot",
    "contribution",
    "removal",
    "base-rate",
    "seeds",
    "schedule",
    "horizon",
    "batch",
    "weight-decay",
    "optimizer",
]
Result = Annotated[
    Path,
    typer.Argument(
        metavar="RESULT", help="Run directory of a finished study, or its results.json.", show_default=False
    ),
]
Processes = Annotated[int | None, typer.Option("--processes", min=1, max=10_000, help="Runs trained side by side.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what will be run and what it takes; train nothing.")]
Seeds = Annotated[int | None, typer.Option(min=2, max=1000, help="Paired seeds, all of them fresh.")]


def refute_command(
    result: Result,
    claim: Annotated[
        str | None,
        typer.Argument(metavar="CLAIM", help="ARM:CONTROL, or a control; that of the headline if not given."),
    ] = None,
    seeds: Seeds = None,
    processes: Processes = None,
    dry_run: DryRun = False,
) -> None:
    """Run a claim of a report again on fresh seeds, and append what came out; started again, it goes on.

    The exit code is 0 where the claim is confirmed or weaker, 1 where it is refuted, and 3 where that is open.
    """
    from rlrs.comparison import chance_of_seeing, claim_sentence, claims
    from rlrs.study import compared, plan_refutation, refute, study_folder

    folder = study_folder(result)
    if dry_run:
        with StudyView() as bars:
            plan = plan_refutation(folder, bars, claim=claim, seeds=seeds)
        out.print(f"claims: {', '.join(claims(compared(folder)))}", highlight=False, soft_wrap=True)
        out.print(f"to be tried: {claim_sentence(plan.claim)}", highlight=False, soft_wrap=True)
        chance = chance_of_seeing(plan.claim, len(plan.seeds))
        seen = "" if chance is None else f", which show an effect of the claimed size with a chance of {chance:.0%}"
        out.print(f"on {plural(len(plan.seeds), 'fresh seed')}{seen}", highlight=False, soft_wrap=True)
        _print_cost(plan.cost)
        return
    with resumable(), StudyView() as bars:
        found = refute(folder, bars, claim=claim, seeds=seeds, processes=processes)
    _print_refutation(found)
    print_places(report=folder / "report.html", record=folder / "refutations.json")
    if found.upheld in ("refuted", "open"):
        raise typer.Exit(1 if found.upheld == "refuted" else 3)


def ablate_command(
    kind: Annotated[
        _Kind,
        typer.Argument(metavar="KIND", help=f"{', '.join(get_args(_Kind))}."),
    ],
    result: Result,
    model: Annotated[Literal["proxy", "target"], typer.Option(help="Which model of the study is trained.")] = "proxy",
    arm: Annotated[str | None, typer.Option(help="Whose ratios are looked at; those decided for if not given.")] = None,
    seeds: Seeds = None,
    factor: Annotated[
        list[float] | None,
        typer.Option(
            help="Of ratios, base rates, steps, batches or weight decays; give it several times. The paper's, or the "
            "kind's own, if not given."
        ),
    ] = None,
    processes: Processes = None,
    dry_run: DryRun = False,
    lang: Lang = "en",
) -> None:
    """Change one thing of a finished study's runs, train them again on fresh seeds, and draw it; it can be resumed."""
    from rlrs.report import write_ablations_page
    from rlrs.settings import Arm
    from rlrs.study import ablate, plan_ablation, study_folder

    folder = study_folder(result)
    if arm is not None and arm not in get_args(Arm):
        raise typer.BadParameter(f"--arm {arm}: no such arm; there are {', '.join(get_args(Arm))}")
    chosen = cast("Arm | None", arm)
    if dry_run:
        with StudyView() as bars:
            plan = plan_ablation(kind, folder, bars, model=model, arm=chosen, seeds=seeds, factors=factor or ())
        out.print(
            f"{kind} of {plan.arm} on the {model}: {plural(len(plan.variants), 'variant')} on "
            f"{plural(len(plan.seeds), 'fresh seed')}",
            highlight=False,
        )
        _print_cost(plan.cost)
        return
    with resumable(), StudyView() as bars:
        found = ablate(
            kind, folder, bars, model=model, arm=chosen, seeds=seeds, factors=factor or (), processes=processes
        )
    _print_ablation(found)
    print_places(page=write_ablations_page(folder, lang), record=folder / "ablations.json")


def _print_cost(cost: FurtherCost) -> None:
    """What runs will take that are not there yet."""
    said = [f"{plural(cost.runs, 'run')}, {cost.there} of them there already", f"{cost.steps:,} steps to go"]
    if cost.tokens:
        said.append(f"{cost.tokens:,} tokens")
    if cost.flops:
        said.append(f"{cost.flops:.2e} FLOPs")
    if cost.hours is not None:
        said.append(f"{60 * cost.hours:.1f} minutes at the pace of the study's runs, one at a time")
    out.print("; ".join(said), highlight=False, soft_wrap=True)
    out.print("Nothing was trained.")


def _print_refutation(found: Refutation) -> None:
    table = Table("", "as reported", "on fresh seeds", "what became of it")
    rows = [
        ("loss, nats", found.claim.loss, found.loss, "+.3f"),
        ("steps saved", found.claim.saved, found.saved, ".0%"),
    ]
    for name, claimed, test, form in rows:
        if claimed is not None:
            fresh = "a run diverged" if test is None else _with_ends(test.fresh, form)
            table.add_row(name, _with_ends(claimed, form), fresh, "-" if test is None else test.upheld)
    out.print(table)
    style = {"confirmed": "bold green", "refuted": "bold red"}.get(found.upheld, "bold")
    out.print(found.sentence, style=style, highlight=False, markup=False)


def _with_ends(found: object, form: str) -> str:
    mean, low, high = (format(getattr(found, name), form) for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def _print_ablation(found: Ablation) -> None:
    table = Table(title=f"{found.kind} of {found.arm} on the {found.model}, {plural(len(found.seeds), 'seed')}")
    for column in ("series", "at", "mean loss", "difference", "95 % interval", "p, corrected"):
        table.add_column(column)
    for row in found.rows:
        cells = [row.series, row.at, "diverged" if row.mean is None else f"{row.mean:.4f}"]
        if (gap := row.difference) is not None and row.p_value is not None:
            cells += [f"{gap.mean:+.3f}", f"{gap.low:+.3f} to {gap.high:+.3f}", f"{row.p_value:.2g}"]
        table.add_row(*cells)
    out.print(table)
    out.print(found.sentence, style="bold", highlight=False, markup=False)
