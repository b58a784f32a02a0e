"""The `rlrs` command: parses, dispatches, prints."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rlrs import __version__
from rlrs.extras import install

try:
    import typer
    from rich.table import Table

    from rlrs.audit.trail_commands import app as audit_commands
    from rlrs.further import ablate_command, refute_command
    from rlrs.grouping.discover_commands import app as discover_commands
    from rlrs.messages import plural, printable
    from rlrs.monitoring.command_line import app as monitor_commands
    from rlrs.number_options import above_zero
    from rlrs.pages import Lang, plot, report, watch
    from rlrs.planning import plan, print_plan
    from rlrs.rollout.rollout_commands import app as rollout_commands
    from rlrs.schedules import MOST_STEPS
    from rlrs.study_view import StudyView
    from rlrs.terminal import (
        end_quietly,
        err,
        named_ratios,
        out,
        print_certificate,
        print_comparison,
        print_components,
        print_ended,
        print_ladder,
        print_places,
        print_report,
        print_searches,
        resumable,
        warnings_shown,
    )
    from rlrs.upkeep import drift_command, examine_machine, print_drift
except ImportError as error:
    sys.exit(f"rlrs: {error.name} is missing; the command line is an extra: {install('study')}")

if TYPE_CHECKING:
    from rlrs.ratios import Ratios
    from rlrs.records import Recipe, Results
    from rlrs.settings import StudyConfig

_UsageError: Any = typer.BadParameter.__mro__[1]
"""What typer raises for a command line that it cannot use; newer versions do not export it."""

app = typer.Typer(
    help="Decoupled relative learning-rate schedules: found on a small model, proven on a larger one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
)
app.add_typer(audit_commands, name="audit")
app.add_typer(discover_commands, name="discover")
app.add_typer(monitor_commands, name="monitor")
app.add_typer(rollout_commands, name="rollout")
app.command("drift", epilog="Example: `rlrs drift ratios.yaml next.yaml`; exit code 0 they hold, 1 they do not")(
    drift_command
)
app.command("doctor", epilog="Example: `rlrs doctor --json`; exit code 0 nothing to mend, 1 something is")(
    examine_machine
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlrs {__version__}")
        raise typer.Exit


@app.callback()
def _command(
    _version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say the version, and end.")
    ] = False,
) -> None:
    """What stands before all commands."""


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


@app.command(epilog="Example: `rlrs run configs/demo.yaml --out runs/demo`")
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


app.command(epilog="Example: `rlrs plan configs/demo.yaml --gain 0.05 --noise 0.025`")(plan)


@app.command(epilog="Example: `rlrs search configs/demo.yaml`")
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


@app.command(epilog="Example: `rlrs certify study.yaml`")
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


@app.command(epilog="Example: `rlrs compare configs/demo.yaml`")
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


@app.command(epilog="Example: `rlrs verify study.yaml`")
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


app.command("refute", epilog="Example: `rlrs refute runs/demo`, `rlrs refute runs/demo uniform --seeds 6`")(
    refute_command
)
app.command("ablate", epilog="Example: `rlrs ablate u-plot runs/demo --dry-run`")(ablate_command)


@app.command(epilog="Example: `rlrs dashboard runs/demo`")
def dashboard(
    folder: Annotated[Path, typer.Argument(metavar="RUN_DIRECTORY", help="A study's run directory.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine alone; 0 takes a free one.")] = 8080,
    storage: Annotated[str | None, typer.Option("--storage", help="The database URL of a shared study.")] = None,
) -> None:
    """Watch a study's trials in the browser (optuna-dashboard, on this machine alone) until Ctrl-C."""
    from rlrs.study.dashboard import serve

    serve(folder, port, storage, lambda url: out.print(f"dashboard {url}  (Ctrl-C ends it)", highlight=False))


app.command(epilog="Example: `rlrs watch runs/demo`, `rlrs watch runs --port 0 --no-browser`")(watch)


app.command(epilog="Example: `rlrs report runs/demo --lang ja`, `rlrs report runs/a runs/b`")(report)


@app.command(epilog="Example: `rlrs train configs/demo.yaml --model target --ratios paper-moe --lr 8e-3`")
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
    recipe = _recipe(ratios, Recipe.from_settings(settings.training, settings.search.lr))
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


@app.command(epilog="Example: `rlrs data configs/demo.yaml`")
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


@app.command(epilog="Example: `rlrs inspect configs/demo.yaml`, `rlrs inspect mixtral --ratios paper-moe`")
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A STUDY.yaml, a folder or config.json of a transformers model, or a model type (llama, gpt2).",
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


@app.command(epilog="Example: `rlrs ladder configs/demo.yaml 3 9 27`")
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


app.command(epilog="Example: `rlrs plot runs/demo/ratios.yaml --html ratios.html`")(plot)


@app.command(epilog="Example: `rlrs export runs/demo/ratios.yaml --to megatron --steps 10240 --lr 3e-3`")
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
    recipe = _recipe(ratios, Recipe(lr=1.0 if lr is None else lr), loaded)
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


def _recipe(text: str, defaults: Recipe, ratios: Ratios | None = None) -> Recipe:
    """What a ratios.yaml or a preset says, and the defaults for what it does not."""
    from rlrs.records import Recipe, RecordError

    try:
        return Recipe.from_ratios(named_ratios(text) if ratios is None else ratios, defaults)
    except RecordError as error:
        raise RecordError(f"{text}: {error}") from None


def main() -> None:
    """Entry point: bad input is one line on standard error and exit code 2."""
    from rlrs.ratios import RatiosError

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a path that is not UTF-8, or a terminal that has fewer letters
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = app(prog_name="rlrs", standalone_mode=False)
        finally:
            sys.stdout.flush()  # here a reader that is gone is no traceback
        sys.exit(code if isinstance(code, int) else 0)
    except _UsageError as error:
        sys.exit(_misused(error))
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from here")
        sys.exit(130)
    except BrokenPipeError:
        end_quietly()
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes | os.PathLike) else ""
        sys.exit(_fail(f"{where}{error.strerror or error}"))
    except ImportError as error:
        sys.exit(_fail(f"{error}"))
    except (RatiosError, *_stage_errors()) as error:
        err.quiet = os.environ.get("RANK", "0") != "0"  # all of torchrun's ranks meet these; one says so
        sys.exit(_fail(str(error)))


def _stage_errors() -> tuple[type[Exception], ...]:
    """Errors that are meant for the user; evaluated only when one is raised."""
    from rlrs.audit import AuditError
    from rlrs.components import PartitionError
    from rlrs.inspection import InspectionError
    from rlrs.integrations.export import ExportError
    from rlrs.live import LiveError
    from rlrs.records import RecordError
    from rlrs.rollout import RolloutError
    from rlrs.search import EngineError, StorageError
    from rlrs.settings import ConfigError
    from rlrs.study import StudyError
    from rlrs.training import CheckpointError

    return (
        *(AuditError, CheckpointError, ConfigError, EngineError, ExportError, InspectionError, LiveError),
        *(PartitionError, RecordError, RolloutError, StorageError, StudyError),
    )


def _misused(error: Any) -> int:
    """A command line that cannot be used: one line, and where its options are listed."""
    command = error.ctx.command_path if error.ctx else "rlrs"
    message = error.format_message().removeprefix("Invalid value: ").replace("Value error, ", "").strip()
    if not message:
        return 2  # no arguments at all: typer has printed the help
    message = message.removesuffix(".").replace(". Did you mean", "; did you mean")
    return _fail(f"{command}: {message[0].lower()}{message[1:]} (see {command} --help)")


def _fail(message: str) -> int:
    # Whatever a library's message repeats: one line, of a length that can be read, nothing that a terminal acts on.
    err.print(f"error: {printable(message, 2000)}", style="red", highlight=False, markup=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
