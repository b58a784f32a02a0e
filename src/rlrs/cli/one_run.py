"""Commands around one run of a study: its tokens (`data`) and its training (`train`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from rlrs.cli.number_options import above_zero
from rlrs.cli.study_view import StudyView
from rlrs.cli.terminal import err, out, print_places, recipe_from, resumable, warnings_shown
from rlrs.cli.upkeep import print_drift
from rlrs.cli.whole_study import Out, StudyFile
from rlrs.messages import plural


def train(
    study: StudyFile,
    model: Annotated[Literal["proxy", "target"], typer.Option(help="Which model of the study.")] = "proxy",
    ratios: Annotated[
        str, typer.Option(help="A ratios.yaml, with all that was found beside the ratios, or a preset.")
    ] = "uniform",
    lr: Annotated[
        float | None,
        typer.Option(
            parser=above_zero("a rate"),
            metavar="RATE",
            help="Base peak rate, above 0; the ratios.yaml's, or else search.lr, if not given.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; those of the study if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and data order.")] = 0,
    distributed: Annotated[
        Literal["ddp", "fsdp2"] | None,
        typer.Option(help="How torchrun's ranks share the model; training.distributed of the study if not given."),
    ] = None,
    folder: Out = None,
) -> None:
    """Train one run, with checkpoints; started again, it resumes, also on another number of ranks.

    Under `torchrun -m rlrs.cli train ...` all ranks train it together. SIGTERM or Ctrl-C: the step is finished, the
    state saved, and the exit code 75.
    """
    from rlrs.records import Recipe
    from rlrs.settings import load_study
    from rlrs.study import train_one
    from rlrs.training import EXIT_CODE, Stopped, stop_on_signals, world

    settings = load_study(study)
    if distributed:
        training = settings.training.model_copy(update={"distributed": distributed})
        settings = settings.model_copy(update={"training": training})
    where = folder or Path("runs") / settings.name
    recipe = recipe_from(ratios, Recipe.from_settings(settings.training, settings.search.lr))
    with (
        resumable(),
        warnings_shown(),
        world() as ranks,
        stop_on_signals() as stop,
        StudyView(quiet=ranks.rank > 0) as bars,
    ):
        out.quiet = ranks.rank > 0
        scale = settings.proxy if model == "proxy" else settings.target
        for change in recipe.changes(settings.training, scale.model):
            out.print(f"from {ratios}: {change}", highlight=False, markup=False, soft_wrap=True)
        if model == "target":  # what a study's ratios were confirmed on
            print_drift(ratios, settings, where)
        try:
            spec, result = train_one(
                settings,
                where,
                bars,
                model=model,
                recipe=recipe,
                lr=lr,
                steps=steps,
                seed=seed,
                world=ranks,
                stop=stop,
            )
        except Stopped as stopped:
            if ranks.rank == 0:
                err.print(f"{stopped}; the same command goes on from here", highlight=False)
            raise typer.Exit(EXIT_CODE) from None
    if result.status == "diverged":
        err.print(f"diverged at step {result.diverged_at}: {result.reason}", style="red")
        raise typer.Exit(1)
    out.print(
        f"validation loss {result.valid_loss:.4f} nats per token after {plural(result.steps, 'step')}", highlight=False
    )
    print_places(files=where / "runs" / spec.id)


def data(study: StudyFile, folder: Out = None) -> None:
    """Prepare a study's tokens alone, ahead of the runs; started again, it goes on."""
    from rlrs.settings import load_study
    from rlrs.study import prepared, resolve

    settings = resolve(load_study(study))
    where = folder or Path("runs") / settings.name
    with resumable(), StudyView() as bars, prepared(settings, where, bars) as tokens:
        summary = tokens.summary
    table = Table("", "", show_header=False, title=f"Data of {settings.name}")
    for name in ("files", "documents", "bytes", "train_tokens", "valid_tokens", "vocab_size"):
        table.add_row(name.replace("_", " "), f"{summary[name]:,}")
    table.add_row("bytes per token", f"{summary['bytes_per_token']:.3f}")
    table.add_row("hash", summary["hash"])
    out.print(table)
    for sentence in summary["skipped"]:
        out.print(f"left out  {sentence}", highlight=False, markup=False, soft_wrap=True)
    print_places(files=where / "data")
