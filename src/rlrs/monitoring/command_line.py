"""`rlrs monitor`: thresholds from healthy runs, and the alarms of a run on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlrs.messages import plural

app = typer.Typer(
    help="Is this run healthy? Thresholds from your own healthy runs, alarms with component and cause.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@app.command(epilog="Example: `rlrs monitor calibrate runs/demo/runs/* --out monitor.yaml`")
def calibrate(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Healthy runs: folders, or metrics.jsonl files.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Thresholds to write.")] = Path("monitor.yaml"),
) -> None:
    """Write thresholds that none of these healthy runs crosses."""
    from rlrs.monitoring.calibration import calibrate as calibrate_from

    found = calibrate_from(runs)
    found.save(out)
    typer.echo(
        f"thresholds {out}: from {plural(len(found.runs), 'run')}, {plural(found.observations, 'observation')} "
        f"every {found.every} steps; "
        f"the thresholds of the others raise an alarm in {found.held_out_alarms} of these runs"
    )


@app.command(
    epilog="Example: `rlrs monitor check runs/a -t monitor.yaml`; exit code 0 no alarm, 3 alarms, 2 unreadable"
)
def check(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or its metrics.jsonl.")],
    thresholds: Annotated[
        Path | None, typer.Option("--thresholds", "-t", help="A monitor.yaml; the defaults if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each alarm.")] = False,
) -> None:
    """Print the alarms of a run, also of one that is still training."""
    from rlrs.messages import printable
    from rlrs.monitoring.checker import check_file
    from rlrs.monitoring.thresholds import Thresholds

    alarms = check_file(run, Thresholds.load(thresholds) if thresholds is not None else None)
    for alarm in alarms:
        typer.echo(alarm.model_dump_json() if as_json else printable(alarm.message))
    if not as_json and not alarms:
        typer.echo("no alarm")
    if alarms:
        raise typer.Exit(3)
