"""What the `rlrs` command shows of a study that is at work: a bar per stage, and the trials of its searches, live.

On a terminal, bars and trials are drawn anew at the bottom while lines pass above them. Elsewhere (a file, a pipe, a
dumb terminal) there are the lines alone, one at least every half minute, and no control codes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from rlrs.cli.terminal import err
from rlrs.messages import plural

if TYPE_CHECKING:
    from rlrs.records import Trial

LAST = 4
"""Trials shown beneath the table of searches. Chosen here."""

SILENCE = 30.0
"""Seconds without a line after which one says how far a stage is, where no bar does. Chosen here."""

WIDE = 80
"""Columns from which there is room for what led to a search's best, and for long bars."""


@dataclass
class _Course:
    """What one search has come to so far.

    Args:
        budget: runs' worth of training steps that it may take at most; 0 if not known.
        ended: trials that ended, those of an earlier session too.
        steps: optimizer steps that they took.
        flops: that they took.
        best: score of the incumbent, nats per token.
        where: what led to the incumbent, in words.
        number: the incumbent's, counted from 1.
    """

    budget: int = 0
    ended: int = 0
    steps: int = 0
    flops: float = 0.0
    best: float = math.inf
    where: str = ""
    number: int = 0


class StudyView:
    """Progress of a study: bars of its stages, trials of its searches; use as a context manager.

    Args:
        quiet: show nothing.
        console: where; standard error if None.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._quiet, self._console = quiet, console or err
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=24 if self._console.width >= WIDE else 6),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            console=self._console,
        )
        self._task: Any = None
        self._before, self._found, self._last_line = 0, 0, time.monotonic()
        self._searches: dict[str, _Course] = {}
        self._last: deque[tuple[str, str, str, str]] = deque(maxlen=LAST)
        live = self._console.is_terminal and not self._console.is_dumb_terminal and not quiet
        self._live = Live(get_renderable=self._view, console=self._console, refresh_per_second=4) if live else None

    def __enter__(self) -> StudyView:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._close()
        if self._live:
            self._live.stop()

    def stage(self, name: str, steps: int, unit: str = "steps", searches: Mapping[str, int] | None = None) -> None:
        """Begin a bar for a stage of so many steps; the bar before it is full."""
        self._close()
        self._searches = {search: _Course(budget) for search, budget in (searches or {}).items()}
        self._last.clear()
        self._before = self._found = 0
        self._task = self._bars.add_task(name, total=steps or 1, unit=unit)
        if self._live is None:
            self._say(f"{name} ...")

    def trial(self, search: str, trial: Trial, flops: float, *, found: bool) -> None:
        """Note a trial that ended; one line for a new best of a search, and for a run that was given up.

        Trials that were found have no lines of their own: they had them when they ended.
        """
        result = trial.result
        assert result is not None, "a trial that ended"
        seen = self._searches.setdefault(search, _Course())
        seen.ended, seen.steps, seen.flops = seen.ended + 1, seen.steps + result.steps, seen.flops + flops
        if found:
            self._before += result.steps
            self._found += 1
        else:
            self._tell_found()
        # Against what has ended so far: within a batch the search itself waits for those before it.
        best = trial.whole and trial.score < seen.best
        number, move = seen.ended, trial.move
        if best:
            seen.best, seen.number, seen.where = trial.score, number, move
            if not found:
                self._say(f"{search}, run {number}: best so far {trial.score:.4f} nats ({move})")
        elif result.status == "failed":
            self._say(f"{search}, run {number}: {result.reason}; the search goes on without it")
        score = f"{trial.score:.4f}" if trial.measured else result.status
        cheaper = trial.steps is not None or trial.width is not None
        other = "learns" if trial.learn is not None else "cheap" if cheaper else "new seed"
        kind = "best" if best else "" if trial.whole else other
        self._last.append((f"{search} {number}", score, kind, move))

    def tick(self, steps: int) -> None:
        """Steps of the present stage that were done in this session."""
        self._tell_found()
        self._bars.update(self._task, completed=self._before + steps)
        if self._live is None and time.monotonic() - self._last_line >= SILENCE:
            self._say(self._how_far())

    @property
    def worked(self) -> bool:
        """Whether any stage was begun."""
        return self._task is not None

    def _tell_found(self) -> None:
        """Say once for a stage how many of its runs need not be trained."""
        if self._found:
            self._say(f"{plural(self._found, 'run')} had ended before")
            self._found = 0

    def _how_far(self) -> str:
        task = next(task for task in self._bars.tasks if task.id == self._task)
        ended = sum(seen.ended for seen in self._searches.values())
        runs = f", {plural(ended, 'run')} ended" if self._searches else ""
        left = task.time_remaining
        until = f", at most {math.ceil(left / 60)} min left" if left else ""
        return f"{task.description}: {task.completed:,.0f} of {task.total:,.0f} {task.fields['unit']}{runs}{until}"

    def _say(self, line: str) -> None:
        self._last_line = time.monotonic()
        if not self._quiet:
            self._console.print(line, highlight=False, markup=False, soft_wrap=self._live is None)

    def _close(self) -> None:
        # A search may end below its budget, and finished runs are not trained again: what was done is the whole.
        if self._task is not None:
            done = max(self._bars.tasks[self._task].completed, 1)
            self._bars.update(self._task, total=done, completed=done)

    def _view(self) -> RenderableType:
        """All that is drawn anew: bars, and in a stage of searches what these have come to."""
        # rich calls this in a thread of its own: what it reads is copied first.
        searches, last = dict(self._searches), list(self._last)
        if not any(seen.ended for seen in searches.values()):
            return self._bars
        width, height = self._console.size
        room = height - len(self._bars.tasks) - len(searches) - 6
        parts: list[RenderableType] = [self._bars, self._table(searches, width)] if room >= 0 else [self._bars]
        if room > len(last):
            parts.append(self._latest(last))
        return Group(*parts)

    def _table(self, searches: Mapping[str, _Course], width: int) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("search", no_wrap=True)
        for column in ("best, nats", "runs", "steps", "FLOPs"):
            table.add_column(column, justify="right", no_wrap=True)
        if width >= WIDE:
            table.add_column("best found by", no_wrap=True, overflow="ellipsis")
        rows = [(name, seen, self._found_by(seen)) for name, seen in searches.items()]
        total = _Course(ended=sum(s.ended for _, s, _ in rows), steps=sum(s.steps for _, s, _ in rows))
        total.flops = sum(s.flops for _, s, _ in rows)
        for name, seen, where in [*rows, ("all", total, "")] if len(rows) > 1 else rows:
            best = f"{seen.best:.4f}" if math.isfinite(seen.best) else ""
            runs = f"{seen.ended} of {seen.budget}" if seen.budget else f"{seen.ended}"
            cells = [name, best, runs, f"{seen.steps:,}", f"{seen.flops:.1e}"]
            table.add_row(*(Text(cell) for cell in (*cells, where)[: len(table.columns)]))
        return table

    @staticmethod
    def _found_by(seen: _Course) -> str:
        return f"run {seen.number}: {seen.where}" if seen.number else ""

    @staticmethod
    def _latest(last: Sequence[tuple[str, str, str, str]]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("last runs", "nats", "", "move"):
            table.add_column(column, no_wrap=True, overflow="ellipsis", justify="right" if column == "nats" else "left")
        for cells in last:
            table.add_row(*(Text(cell) for cell in cells), style="bold" if cells[2] == "best" else None)
        return table
