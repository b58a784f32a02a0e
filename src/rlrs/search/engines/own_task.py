"""One run of the user's own trainer as a Ray task: an engine of one slot, on the node that Ray chose."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrs.messages import printable
from rlrs.records import Pruning, RunResult
from rlrs.runs import OwnRun
from rlrs.search.engines.commands import Commands
from rlrs.search.engines.engine import EngineError


@dataclass(frozen=True)
class Workplace:
    """What a program is started with, as the driver would start it."""

    folder: str
    """Current directory."""
    path: tuple[str, ...]
    """Where Python looks for modules."""
    time_limit: float | None
    """Seconds that an attempt may take."""

    @classmethod
    def here(cls, time_limit: float | None) -> Workplace:
        """The driver's."""
        return cls(str(Path.cwd()), tuple(os.path.abspath(entry) for entry in sys.path), time_limit)

    def enter(self, runs: Path) -> None:
        """Make it this process's.

        Raises:
            EngineError: the node does not have the folders.
        """
        for needed in (Path(self.folder), runs):
            if not needed.is_dir():
                raise EngineError(
                    f"the node {platform.node()} has no folder {printable(str(needed))}: runs of a trainer of your own "
                    "need a file system that all nodes share"
                )
        os.chdir(self.folder)
        sys.path += [entry for entry in self.path if entry not in sys.path]


def train_own(
    workplace: Workplace,
    board: Any,
    attempt: str,
    spec: OwnRun,
    folder: str,
    validate: bool,
    prune: Pruning | None,
) -> tuple[str, Any, dict[str, bytes]]:
    """One run, in a worker; its files are where the driver reads them."""
    board.write.remote(attempt, 0)
    try:
        workplace.enter(Path(folder).parent)
        result = _trained(workplace, board, attempt, spec, Path(folder), validate, prune)
    except Exception as error:
        return "fault", error, {}
    return "result", result, {}


def _trained(
    workplace: Workplace,
    board: Any,
    attempt: str,
    spec: OwnRun,
    folder: Path,
    validate: bool,
    prune: Pruning | None,
) -> RunResult:
    # The engine's folder is the run's: what it clears away when it begins is what an earlier attempt left, not others.
    with Commands(folder, 1, time_limit=workplace.time_limit) as engine:
        engine.submit("run", spec, folder, validate=validate, prune=prune)
        ended = engine.next(lambda steps: board.write.remote(attempt, steps))
    assert ended is not None
    return ended[1]
