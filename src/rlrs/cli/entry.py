"""The `rlrs` command: parses, dispatches, and says what went wrong."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated, Any

from rlrs import __version__
from rlrs.extras import install

try:
    import typer

    from rlrs.audit.trail_commands import app as audit_commands
    from rlrs.cli import further, models_and_rates, one_run, pages, planning, upkeep, whole_study
    from rlrs.cli.terminal import end_quietly, err
    from rlrs.grouping.discover_commands import app as discover_commands
    from rlrs.messages import printable, should_be
    from rlrs.monitoring.command_line import app as monitor_commands
    from rlrs.rollout.rollout_commands import app as rollout_commands
except ImportError as error:
    sys.exit(f"rlrs: {error.name} is missing; the command line is an extra: {install('study')}")

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

_COMMANDS = (
    (whole_study.run, "run", "`rlrs run configs/demo.yaml --out runs/demo`"),
    (planning.plan, "plan", "`rlrs plan configs/demo.yaml --gain 0.05 --noise 0.025`"),
    (whole_study.search, "search", "`rlrs search configs/demo.yaml`"),
    (whole_study.certify, "certify", "`rlrs certify study.yaml`"),
    (whole_study.compare, "compare", "`rlrs compare configs/demo.yaml`"),
    (whole_study.verify, "verify", "`rlrs verify study.yaml`"),
    (further.refute_command, "refute", "`rlrs refute runs/demo`, `rlrs refute runs/demo uniform --seeds 6`"),
    (further.ablate_command, "ablate", "`rlrs ablate u-plot runs/demo --dry-run`"),
    (pages.dashboard, "dashboard", "`rlrs dashboard runs/demo`"),
    (pages.watch, "watch", "`rlrs watch runs/demo`, `rlrs watch runs --port 0 --no-browser`"),
    (pages.report, "report", "`rlrs report runs/demo --lang ja`, `rlrs report runs/a runs/b`"),
    (one_run.train, "train", "`rlrs train configs/demo.yaml --model target --ratios paper-moe --lr 8e-3`"),
    (one_run.data, "data", "`rlrs data configs/demo.yaml`"),
    (
        models_and_rates.inspect,
        "inspect",
        "`rlrs inspect configs/demo.yaml`, `rlrs inspect mixtral --ratios paper-moe`",
    ),
    (models_and_rates.ladder, "ladder", "`rlrs ladder configs/demo.yaml 3 9 27`"),
    (pages.plot, "plot", "`rlrs plot runs/demo/ratios.yaml --html ratios.html`"),
    (
        models_and_rates.export,
        "export",
        "`rlrs export runs/demo/ratios.yaml --to megatron --steps 10240 --lr 3e-3`",
    ),
    (upkeep.drift_command, "drift", "`rlrs drift ratios.yaml next.yaml`; exit code 0 they hold, 1 they do not"),
    (upkeep.examine_machine, "doctor", "`rlrs doctor --json`; exit code 0 nothing to mend, 1 something is"),
)
for _function, _name, _example in _COMMANDS:
    app.command(_name, epilog=f"Example: {_example}")(_function)
app.add_typer(audit_commands, name="audit")
app.add_typer(discover_commands, name="discover")
app.add_typer(monitor_commands, name="monitor")
app.add_typer(rollout_commands, name="rollout")


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
    if hasattr(error.__cause__, "errors") and (asked := should_be(error.__cause__.errors()[0])) is not None:
        message = f"{message.partition(':')[0]}: {asked}"
    if not message:
        return 2  # no arguments at all: typer has printed the help
    message = message.removesuffix(".").replace(". Did you mean", "; did you mean")
    return _fail(f"{command}: {message[0].lower()}{message[1:]} (see {command} --help)")


def _fail(message: str) -> int:
    # Whatever a library's message repeats: one line, of a length that can be read, nothing that a terminal acts on.
    err.print(f"error: {printable(message, 2000)}", style="red", highlight=False, markup=False, soft_wrap=True)
    return 2
