"""`rlrs doctor` and `rlrs drift`: is this machine ready, and do stored ratios still hold?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlrs.cli.terminal import named_ratios, out
from rlrs.messages import plural, printable

if TYPE_CHECKING:
    from rlrs.settings import StudyConfig


def drift_command(
    ratios: Annotated[str, typer.Argument(metavar="RATIOS.yaml", help="From a study.")],
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="As it is now; its target would use the ratios.")],
    data: Annotated[
        Path | None, typer.Option("--data", help="The tokens now: a folder that `rlrs data` has prepared.")
    ] = None,
) -> None:
    """Say what has changed since ratios were found (model, data, length, settings, code), and what it means."""
    from rlrs.data import TokenData
    from rlrs.drift import drift
    from rlrs.records import RecordError
    from rlrs.settings import load_study

    loaded, settings = named_ratios(ratios), load_study(study)
    try:
        found = drift(loaded, settings, TokenData.load(data).hash if data is not None else None)
    except RecordError as error:
        raise RecordError(f"{ratios}: {error}") from None
    for change in found:
        _print(str(change))
    if settings.trainer is not None:
        _print("not compared: data, components, parameters and tokens, which a trainer of your own has to itself")
    if any(change.weight != "note" for change in found):
        raise typer.Exit(1)
    _print("nothing has changed that the ratios depend on")


def print_drift(ratios: str, study: StudyConfig, folder: Path) -> None:
    """Say what has changed that a study's ratios depend on, before a run of the target uses them; nothing of others.

    Args:
        ratios: as the command line has them.
        study: as it is now.
        folder: its run directory; the tokens are compared too where they are prepared.
    """
    from rlrs.data import TokenData
    from rlrs.drift import drift
    from rlrs.records import RecordError

    if "study_hash" not in (loaded := named_ratios(ratios)).provenance:
        return
    data = folder / "data"
    try:
        found = drift(loaded, study, TokenData.load(data).hash if (data / "data.json").is_file() else None)
    except RecordError as error:
        _print(f"whether these ratios still hold cannot be told: {ratios}: {error}")
        return
    for change in found:
        if change.weight != "note":
            _print(f"these ratios may not hold: {change}")


def examine_machine(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where studies will be.")] = Path("."),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for a report of a problem.")] = False,
) -> None:
    """Look at versions, extras, threads, memory, disk and GPU, and train for at most ten seconds; say what to mend."""
    from rlrs.doctor import examine
    from rlrs.environment import environment

    checks = []
    for check in examine(folder):
        checks.append(check)
        if not as_json:
            _print(str(check))
    mend = sum(check.status == "fix" for check in checks)
    if as_json:
        plain = {"environment": environment(), "checks": [asdict(check) for check in checks]}
        sys.stdout.write(json.dumps(plain, indent=1) + "\n")
    else:
        _print(f"{plural(mend, 'thing')} to mend" if mend else "nothing to mend")
    if mend:
        raise typer.Exit(1)


def _print(text: str) -> None:
    out.print(printable(text), highlight=False, markup=False, soft_wrap=True)
