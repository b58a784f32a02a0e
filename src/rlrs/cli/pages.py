"""`rlrs report`, `plot`, `watch` and `dashboard`: pages, and what goes into a pull request."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from rlrs.cli.terminal import named_ratios, out, print_places

Lang = Annotated[Literal["en", "ja"], typer.Option("--lang", help="Language of the page: English or Japanese.")]


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIRECTORY...", help="A study's run directory; several for a page across studies."),
    ],
    lang: Lang = "en",
    form: Annotated[
        Literal["html", "markdown", "json"], typer.Option("--format", help="Markdown and JSON are for pull requests.")
    ] = "html",
    path: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write. Not given: report.html in the run directory, studies.html for several."
        ),
    ] = None,
) -> None:
    """Write a study's page anew from its results; of several studies, one page across them."""
    from rlrs.report import write_across, write_report, write_summary

    if form != "html":
        written = write_summary(folders, form, lang, path)
        if path is None:
            typer.echo(written, nl=False)
            return
        print_places(report=path)
    elif len(folders) > 1:
        where = path or Path("studies.html" if lang == "en" else f"studies.{lang}.html")
        print_places(report=write_across(folders, where, lang))
    else:
        print_places(report=write_report(folders[0], lang, path))


def plot(
    ratios: Annotated[str, typer.Argument(metavar="RATIOS.yaml", help="A ratios.yaml, or a preset.")],
    html: Annotated[Path, typer.Option("--html", help="The page to write.")] = Path("ratios.html"),
    model: Annotated[
        Literal["proxy", "target"] | None,
        typer.Option(help="Whose steps and base rate are drawn; the target's where the file has them, if not given."),
    ] = None,
    lang: Lang = "en",
) -> None:
    """Draw the schedules of a ratios.yaml as a page that opens offline."""
    from rlrs.records import RecordError
    from rlrs.report import write_ratios_page

    try:
        write_ratios_page(named_ratios(ratios), html, model=model, language=lang)
    except RecordError as error:
        raise RecordError(f"{ratios}: {error}") from None
    print_places(page=html)


def watch(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs, studies or rollouts, or folders that hold such; they need not be there yet.",
        ),
    ],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine alone; 0 takes a free one.")] = 8090,
    lang: Lang = "en",
    thresholds: Annotated[
        Path | None,
        typer.Option("--thresholds", "-t", help="A monitor.yaml; of single runs the defaults, if not given."),
    ] = None,
    storage: Annotated[
        str | None, typer.Option(metavar="URL", help="Database that the drivers of the studies share, if they do.")
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Show runs, studies and rollouts in the browser while they are at work, on this machine alone, until Ctrl-C."""
    from rlrs.live import Watcher, by_file, serve_live
    from rlrs.monitoring.thresholds import Thresholds

    loaded = Thresholds.load(thresholds) if thresholds is not None else None
    if storage is not None:
        from rlrs.search.urls import check_url

        check_url(storage, written=False)

    def ready(url: str) -> None:
        typer.echo(f"watch {url}  (Ctrl-C ends it)")
        if browser and (sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)):
            opens(url)  # without a screen it would start a browser in this terminal

    with by_file() as opens:
        try:
            serve_live(Watcher(paths, lang, loaded, storage), port, ready)
        except KeyboardInterrupt:
            typer.echo("watch ended")


def dashboard(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIRECTORY", help="A study's run directory.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine alone; 0 takes a free one.")] = 8080,
    storage: Annotated[str | None, typer.Option("--storage", help="The database URL of a shared study.")] = None,
) -> None:
    """Watch a study's trials in the browser (optuna-dashboard, on this machine alone) until Ctrl-C."""
    from rlrs.study.dashboard import serve

    serve(folder, port, storage, lambda url: out.print(f"dashboard {url}  (Ctrl-C ends it)", highlight=False))
