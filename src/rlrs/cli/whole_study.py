"""Commands that work through a study: `run`, `search`, `certify`, `compare`, `verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlrs.cli.pages import Lang
from rlrs.cli.planning import print_plan
from rlrs.cli.study_view import StudyView
from rlrs.cli.terminal import (
    print_certificate,
    print_comparison,
    print_ended,
    print_places,
    print_report,
    print_searches,
    resumable,
)

if TYPE_CHECKING:
    from rlrs.records import Results
    from rlrs.settings import StudyConfig

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="Settings of the study.", show_default=False)]
Out = Annotated[
    Path | None, typer.Option("--out", help="Run directory; runs/NAME, with the study's name, if not given.")
]
ProcessCount = Annotated[
    int | None, typer.Option("--processes", min=1, max=10_000, help="Runs trained side by side; changes no result.")
]
EngineName = Annotated[
    Literal["processes", "ray"] | None, typer.Option("--engine", help="Where runs are trained; changes no result.")
]
Address = Annotated[
    str | None, typer.Option("--address", help="Of the Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")
]
Storage = Annotated[
    str | None, typer.Option("--storage", help="Database URL that several drivers share; each with its own --out.")
]


def run(
    study: StudyFile,
    folder: Out = None,
    processes: ProcessCount = None,
    engine: EngineName = None,
    address: Address = None,
    storage: Storage = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost; train nothing.")] = False,
) -> None:
    """Run a whole study: search on the proxy, transfer, comparison, report. Started again, it goes on."""
    if dry_run:
        from rlrs.study import check_places, check_sources, resolve

        settings = resolve(_settings(study, processes, engine, address, storage))
        check_sources(settings)
        check_places(settings)
        print_plan(settings)
        return
    results, where, worked = _study(study, folder, processes, "report", engine, address, storage)
    if not worked:
        print_ended(study, where)
        return
    print_comparison(results)
    print_places(report=where / "report.html", ratios=where / "ratios.yaml")


def search(
    study: StudyFile,
    folder: Out = None,
    processes: ProcessCount = None,
    engine: EngineName = None,
    address: Address = None,
    storage: Storage = None,
) -> None:
    """Find the ratios on the proxy: the first stages of `rlrs run`, with the same files."""
    results, where, _ = _study(study, folder, processes, "search", engine, address, storage)
    print_searches(results)
    print_places(ratios=where / "ratios.yaml")


def certify(
    study: StudyFile,
    folder: Out = None,
    processes: ProcessCount = None,
    engine: EngineName = None,
    address: Address = None,
    storage: Storage = None,
    lang: Lang = "en",
) -> None:
    """Say whether ratios will carry to the target, before any run of it: the study's ladder, and its certificate."""
    from rlrs.records import read_certificate
    from rlrs.report import write_certificate_page

    _, where, _ = _study(study, folder, processes, "certificate", engine, address, storage)
    print_certificate(read_certificate(where / "certificate.json"))
    print_places(page=write_certificate_page(where, lang), file=where / "certificate.json")


def compare(
    study: StudyFile,
    folder: Out = None,
    processes: ProcessCount = None,
    engine: EngineName = None,
    address: Address = None,
    storage: Storage = None,
) -> None:
    """Measure the arms on the target, on paired seeds: everything of `rlrs run` but the page."""
    results, where, _ = _study(study, folder, processes, "comparison", engine, address, storage)
    print_comparison(results)
    print_places(results=where / "results.json")


def verify(
    study: StudyFile,
    folder: Out = None,
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Optimizer steps to look at.")] = 3,
) -> None:
    """Run the study's trainer for some steps on the proxy: has every component the rate that it should have?

    The exit code is 0 where all rates are real, 1 where one is not, and 2 where that could not be told.
    """
    from rlrs.settings import load_study
    from rlrs.study import verify_study

    settings = load_study(study)
    with StudyView() as bars:
        report = verify_study(settings, folder or Path("runs") / settings.name, bars, steps)
    print_report(report)
    if not report.ok:
        raise typer.Exit(1 if report.findings else 2)


def _study(
    path: Path,
    folder: Path | None,
    processes: int | None,
    until: str,
    engine: Literal["processes", "ray"] | None = None,
    address: str | None = None,
    storage: str | None = None,
) -> tuple[Results, Path, bool]:
    """A study's results, its run directory, and whether any stage was begun for them."""
    with resumable():
        from rlrs import study as studies

        study = _settings(path, processes, engine, address, storage)
        where = folder or Path("runs") / study.name
        with StudyView() as bars:
            return studies.run(study, where, bars, until=until), where, bars.worked


def _settings(
    path: Path,
    processes: int | None,
    engine: Literal["processes", "ray"] | None,
    address: str | None,
    storage: str | None,
) -> StudyConfig:
    """The settings of a study, with those that the command line gives."""
    from rlrs.settings import EngineConfig, load_study

    study = load_study(path)
    if address is not None and (engine or study.engine.kind) != "ray":
        raise typer.BadParameter("--address is for --engine ray")
    asked = study.engine.model_dump(exclude={"address", "resources"} if engine == "processes" else set())
    asked |= {name: value for name, value in (("kind", engine), ("address", address)) if value is not None}
    given = {"processes": processes, "engine": EngineConfig(**asked), "storage": storage}
    return study.model_copy(update={name: value for name, value in given.items() if value is not None})
