"""`rlrs discover`: statistics of a run, their page, and components found from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlrs.messages import plural, printable

if TYPE_CHECKING:
    from rlrs.discovery import RunStatistics
    from rlrs.grouping.found_components import FoundComponents

app = typer.Typer(
    help="How do tensors learn, and which learn alike? Statistics of a run, and components found from them.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
Statistics = Annotated[
    list[Path], typer.Argument(metavar="STATISTICS.npz...", help="Of one model; of several seeds, several files.")
]


@app.command(epilog="Example: `rlrs discover probe configs/demo.yaml --out runs/demo/probe`")
def probe(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Settings of the study.", show_default=False)],
    folder: Annotated[Path, typer.Option("--out", help="Folder for data and statistics.")] = Path("runs/probe"),
    model: Annotated[Literal["proxy", "target"], typer.Option(help="Which model of the study.")] = "proxy",
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps; the study's if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and data order.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps between two observations.")] = 10,
) -> None:
    """Train one run of a study's model with uniform ratios, and write what its tensors do."""
    from rlrs.grouping.probe_run import probe_run
    from rlrs.settings import load_study

    path, status = probe_run(load_study(study), folder, model=model, steps=steps, seed=seed, every=every)
    if status != "finished":
        typer.echo(f"the run ended early: {status}; its statistics are of the steps before that", err=True)
    typer.echo(f"statistics  {path}")


@app.command(epilog="Example: `rlrs discover page runs/demo/probe/statistics.0.npz --html probe.html`")
def page(
    statistics: Annotated[Path, typer.Argument(metavar="STATISTICS.npz", help="Of a run.")],
    html: Annotated[Path, typer.Option("--html", help="The page to write.")] = Path("statistics.html"),
    lang: Annotated[Literal["en", "ja"], typer.Option("--lang", help="English or Japanese.")] = "en",
) -> None:
    """Draw heat maps over depth and time, as a page that opens offline."""
    from rlrs.report import write_heat_page

    typer.echo(f"page  {write_heat_page(_loaded(statistics), html, lang)}")


@app.command(epilog="Example: `rlrs discover components statistics.0.npz statistics.1.npz --most 6 --keep embedding`")
def components(
    statistics: Statistics,
    out: Annotated[Path, typer.Option("--out", help="Rules to write.")] = Path("components.yaml"),
    most: Annotated[int, typer.Option(min=1, help="Components at most.")] = 8,
    keep: Annotated[list[str] | None, typer.Option("--keep", help="A component that is not divided.")] = None,
    leave: Annotated[
        list[str] | None,
        typer.Option("--leave", help="A component that is not grouped; norm, other and position if not given."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
) -> None:
    """Group tensors that learn alike, and write the groups as rules."""
    from rlrs.grouping import find_components, save_components

    runs = [_loaded(path) for path in statistics]
    asked = {} if leave is None else {"leave": leave}
    found = find_components(runs, most=most, keep=keep or (), seed=seed, **asked)
    save_components(found, out)
    _print(found)
    typer.echo(f"rules  {out}")


@app.command(epilog="Example: `rlrs discover carry components.yaml configs/demo.yaml --out components.target.yaml`")
def carry(
    components: Annotated[Path, typer.Argument(metavar="COMPONENTS.yaml", help="Of a smaller model.")],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="As for `rlrs inspect`; of a STUDY.yaml, its target is meant.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Rules to write.")] = Path("components.carried.yaml"),
) -> None:
    """Carry found components to a model of another size, by structure."""
    from rlrs.grouping import carry_components, read_components, save_components
    from rlrs.inspection import build_models

    title, module = list(build_models(model))[-1]
    carried = carry_components(read_components(components), module)
    save_components(carried, out)
    typer.echo(printable(title))
    _print(carried)
    typer.echo(f"rules  {out}")


def _loaded(path: Path) -> RunStatistics:
    from rlrs.discovery import RunStatistics, StatisticsError
    from rlrs.grouping.found_components import GroupingError

    try:
        return RunStatistics.load(path)
    except StatisticsError as error:
        raise GroupingError(str(error)) from None


def _print(found: FoundComponents) -> None:
    for one in found.components:
        typer.echo(f"{one.component}  {plural(len(one.tensors), 'tensor')}  {one.words}")
    if found.stability is not None:
        said = f"silhouette {found.silhouette:.2f}, stability {found.stability:.2f}"
        said += f", between seeds {found.seeds:.2f}" if found.seeds is not None else ""
        typer.echo(f"{said}, agreement with the named components {found.named:.2f} (adjusted Rand index)")
    elif found.carried_from is None:
        typer.echo("no grouping was both stable and apart: these tensors learn alike, as far as this run tells")
