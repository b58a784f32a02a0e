"""Commands that train nothing: components and sizes of models, and rates in another stack's form."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from rlrs.cli.number_options import above_zero
from rlrs.cli.terminal import (
    end_quietly,
    err,
    named_ratios,
    print_components,
    print_ladder,
    print_places,
    recipe_from,
)
from rlrs.cli.whole_study import StudyFile
from rlrs.schedules import MOST_STEPS


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A STUDY.yaml, a folder or config.json of a transformers model, a model type (llama, gpt2), or a "
            "function that makes a model (train.py:GPT, 'module:make(width=64)').",
        ),
    ],
    ratios: Annotated[str | None, typer.Option(help="Show these rates beside: a ratios.yaml or a preset.")] = None,
    parameters: Annotated[bool, typer.Option("--parameters", help="List every parameter, with the reason.")] = False,
) -> None:
    """Show the components of a model: every parameter once."""
    from rlrs.inspection import build_models

    shown = named_ratios(ratios) if ratios else None
    for title, module in build_models(model):
        print_components(title, module, shown, parameters)


def ladder(
    study: StudyFile,
    factors: Annotated[
        list[float],
        typer.Argument(
            parser=above_zero("a factor"),
            metavar="FACTOR...",
            help="Times the proxy's parameters: above 0, at most 1e6.",
        ),
    ],
) -> None:
    """Show a study's proxy at other sizes, with its head size and aspect ratio; nothing is trained."""
    from rlrs.settings import load_study

    print_ladder(load_study(study), factors)


def export(
    ratios: Annotated[str, typer.Argument(metavar="RATIOS.yaml", help="A ratios.yaml, or a preset.")],
    to: Annotated[str, typer.Option("--to", help="megatron, torchtitan, olmo-core, deepspeed or nanotron.")],
    steps: Annotated[int, typer.Option(min=1, max=MOST_STEPS, help="Optimizer steps of the run, warm-up included.")],
    lr: Annotated[
        float | None,
        typer.Option(
            parser=above_zero("a rate"), metavar="RATE", help="Base peak rate, above 0; the file's if not given."
        ),
    ] = None,
    final_fraction: Annotated[
        float | None, typer.Option(min=0, max=1, help="Base rate at the end over its peak; the file's if not given.")
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_STEPS, help="Optimizer steps; the file's share of the steps if not given."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Name this model's parameters; as for `rlrs inspect` (the target of a study).")
    ] = None,
    file: Annotated[Path | None, typer.Option("--out", help="File to write; standard output if not given.")] = None,
) -> None:
    """Write the rates in the form of a training stack that owns its loop; what it cannot express goes to stderr."""
    from rlrs.files import write_atomic
    from rlrs.inspection import build_models
    from rlrs.integrations.export import components_for
    from rlrs.integrations.export import export as export_ratios
    from rlrs.records import Recipe
    from rlrs.schedules import BaseSchedule

    loaded = named_ratios(ratios)
    # What a ratios.yaml does not say has the library's own defaults; its base rate has none.
    recipe = recipe_from(ratios, Recipe(lr=1.0 if lr is None else lr), loaded)
    if lr is None and "lr" not in (loaded.provenance.get("base") or {}):
        raise typer.BadParameter(f"{ratios} has no base rate of its own: give --lr")
    found = recipe.base_schedule(steps)
    try:
        schedule = BaseSchedule(
            total_steps=steps,
            warmup_steps=found.warmup_steps if warmup_steps is None else warmup_steps,
            final_fraction=found.final_fraction if final_fraction is None else final_fraction,
            shape=found.shape,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    exported = export_ratios(
        loaded,
        to,
        schedule=schedule,
        lr=recipe.lr if lr is None else lr,
        weight_decay=recipe.weight_decay,
        weight_decays=recipe.component_weight_decay,
        found_with=recipe.optimizer_words() if loaded.provenance.get("base") else (),
        betas=recipe.betas if loaded.provenance.get("base") else None,
        components=components_for(list(build_models(model))[-1][1], loaded, to) if model else None,
    )
    for loss in exported.losses:
        err.print(f"lost: {loss}", highlight=False, markup=False, soft_wrap=True)
    if file is None:
        try:
            sys.stdout.write(exported.text)
            sys.stdout.flush()
        except BrokenPipeError:  # typer would end with 1
            end_quietly()
    else:
        write_atomic(file, exported.text)
        print_places(file=file)
