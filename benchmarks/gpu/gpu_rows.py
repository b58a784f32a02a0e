"""Results as they come: a line of JSON each, with the device and the versions that it was measured with."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlrs.environment import environment


def stamp(device: str, commit: str | None) -> dict[str, Any]:
    """What every row says of where it comes from.

    Args:
        device: `cuda` or `cpu`.
        commit: of the code, where it runs outside of a checkout; found if None.
    """
    here = environment()
    name = torch.cuda.get_device_name() if device == "cuda" else here["cpu"]
    versions = {key: here[key] for key in ("rlrs", "python", "torch")}
    return {"device": name, "cuda": torch.version.cuda, "commit": commit or here["commit"], **versions}


class DeviceRows:
    """The rows of one file that have a stamp of their own.

    Args:
        path: of the file; made if missing. A line that a kill has cut short is passed over.
        stamp: columns of every row; rows of another device or commit are not seen.
    """

    def __init__(self, path: Path, stamp: dict[str, Any]) -> None:
        self.path, self.stamp = path, stamp
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> list[dict[str, Any]]:
        """All rows with this stamp's device and commit."""
        found = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if all(row.get(key) == self.stamp[key] for key in ("device", "commit")):
                found.append(row)
        return found

    def add(self, phase: str, name: str, state: str, **values: Any) -> None:
        """Append a row; a whole line at once, so that a kill leaves no mixture."""
        row = {"phase": phase, "name": name, "state": state, **values, **self.stamp}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shown = ", ".join(f"{key} {value}" for key, value in values.items() if not isinstance(value, list | dict))
        print(f"{phase}: {name}: {state}{f' ({shown})' if shown else ''}", flush=True)

    def done(self, phase: str) -> set[str]:
        """Names of what a phase has measured, or has failed at."""
        return {row["name"] for row in self.read() if row["phase"] == phase and row["state"] in ("passed", "failed")}

    def under_way(self, phase: str) -> str | None:
        """What a phase had begun when its process ended; None if it had ended that."""
        rows = [row for row in self.read() if row["phase"] == phase]
        return rows[-1]["name"] if rows and rows[-1]["state"] == "begun" else None


@dataclass(frozen=True)
class Measurement:
    """Something that is measured.

    Args:
        name: of its row.
        measure: gives the row's values; `passed` among them says whether they are as they should be.
        seconds: that it takes at most, on a GPU and in the small on a CPU; it is not begun with fewer left.
    """

    name: str
    measure: Callable[[], dict[str, Any]]
    seconds: float


def run(phase: str, checks: list[Measurement], rows: DeviceRows, until: float) -> None:
    """Measure what is not measured yet, in order, as long as there is time.

    Args:
        phase: of the rows.
        checks: what there is to measure.
        rows: where it goes.
        until: the end, by `time.time()`.
    """
    done = rows.done(phase)
    for check in (check for check in checks if check.name not in done):
        left = until - time.time()
        if left < check.seconds:
            rows.add(phase, check.name, "left out", seconds_left=round(left))
            continue
        rows.add(phase, check.name, "begun")
        started = time.time()
        try:
            values = check.measure()
        except Exception as error:  # whatever it is: the other checks are worth their time
            values = {"passed": False, "error": f"{type(error).__name__}: {error}".partition("\n")[0][:500]}
        state = "passed" if values.pop("passed", True) else "failed"
        rows.add(phase, check.name, state, took=round(time.time() - started, 1), **values)
