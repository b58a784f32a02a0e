"""A study's run directory as the page shows it: stage, progress, searches, runs, verdict."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from rlrs.live.growing import is_held, last_written, stamp
from rlrs.live.live_run import LiveRun, course_line
from rlrs.live.searches import LiveTrial, SharedTrials, read_trials
from rlrs.live.trails import TrailTail, entry_text, in_words
from rlrs.messages import printable
from rlrs.monitoring.thresholds import Thresholds
from rlrs.settings import ConfigError, StudyConfig, load_study
from rlrs.words import Words

STUDY_FILES = ("study.yaml", "trials.db", "results.json")
SILENCE = 120.0
"""Seconds without a change after which a study is stale, if three of its longest trials are not longer. Chosen here."""
BEST = 3
"""Trials of a search that are listed."""
STAGES = {"proxy": "search", "ladder": "ladder", "target": "transfer", "search": "search"}


class LiveStudy:
    """A study that is at work, has ended, or stopped.

    Args:
        folder: its run directory.
        words: of the page's language.
        thresholds: of the checks on its runs' lines; None for no checks: a search tries rates that are too high.
        storage: URL of the database that its drivers share; its own file if None.
    """

    def __init__(self, folder: Path, words: Words, thresholds: Thresholds | None, storage: str | None = None) -> None:
        self.folder, self._words, self._thresholds = folder, words, thresholds
        self._shared = SharedTrials(storage) if storage is not None else None
        self.trail = TrailTail(folder)
        self.runs: dict[str, LiveRun] = {}
        self._study: StudyConfig | None = None
        self._trials: list[LiveTrial] = []
        self._verdict: dict[str, str] | None = None
        self._stamps: dict[str, Any] = {}
        self._damage: dict[str, str] = {}

    def look(self) -> None:
        """Read what is new; of runs that have ended, their curves when they are asked for."""
        self.trail.look()
        self._if_changed("study.yaml", self._read_settings)
        if self._shared is None:
            self._if_changed("trials.db", self._read_trials, "trials.db-wal")
        elif self._study is not None:
            self._trials = self._shared.look(self._study.name)
        self._if_changed("results.json", self._read_verdict)
        try:
            there = sorted(path.name for path in (self.folder / "runs").iterdir() if path.is_dir())
        except OSError:
            there = []
        self.runs = {
            name: self.runs.get(name) or LiveRun(self.folder / "runs" / name, self._words, self._thresholds)
            for name in there
        }
        for run in self.runs.values():
            run.look(follow=not run.result or run.unread)

    def _if_changed(self, name: str, read: Any, *others: str) -> None:
        found = stamp(*(self.folder / other for other in (name, *others)))
        if self._stamps.get(name) == found:
            return
        self._stamps[name] = found
        self._damage.pop(name, None)
        try:
            read(self.folder / name if found[0] is not None else None)
        except (ConfigError, OSError, ValueError) as error:
            self._damage[name] = printable(str(error), 300)
            if name == "trials.db":
                del self._stamps[name]  # it may be in the middle of a change: tried again

    def _read_settings(self, path: Path | None) -> None:
        self._study = None if path is None else load_study(path)

    def _read_trials(self, path: Path | None) -> None:
        self._trials = [] if path is None else read_trials(path)

    def _read_verdict(self, path: Path | None) -> None:
        self._verdict = None
        if path is not None:
            from rlrs.report import write_summary

            with contextlib.suppress(ValueError, AttributeError):  # of which the summary says where
                if json.loads(path.read_bytes()).get("comparison", ...) is None:
                    return  # searched, and not compared yet
            plain = json.loads(write_summary([self.folder], "json", self._words.language))
            self._verdict = {name: plain[name] for name in ("headline", "sentence")}

    def stage(self) -> tuple[str, int, int]:
        """The stage that it is in, and how many of how many trials or runs have ended."""
        kinds = {trial.search.split("/")[0] for trial in self._trials}
        study, of = self._study, {"search": 0, "transfer": 0}
        if study is not None:
            of = {"search": study.search.trials, "transfer": study.transfer.trials}
        for kind in ("target", "ladder", "proxy", "search"):  # the last one is of `rlrs.Search`
            if kind not in kinds:
                continue
            mine = [trial for trial in self._trials if trial.search.split("/")[0] == kind]
            compared = self._compared()
            if kind == "target" and compared and all(trial.ended for trial in mine):
                return "comparison", sum(bool(run.result) for run in compared), max(len(compared), self._to_compare())
            most = of.get(STAGES[kind], 0) * len({trial.search for trial in mine})
            return STAGES[kind], sum(trial.ended for trial in mine), max(most, len(mine))
        return "data" if (self.folder / "data").is_dir() else "begins", 0, 0

    def _compared(self) -> list[LiveRun]:
        """Runs that no search asked for."""
        searched = {trial.run for trial in self._trials}
        return [run for name, run in self.runs.items() if name not in searched]

    def _to_compare(self) -> int:
        if self._study is None:
            return 0
        settings = self._study.comparison
        return settings.seeds * (len(settings.arms) + ("rlrs" in settings.arms) * len(settings.horizons))

    @property
    def written(self) -> float:
        """When one of its files was last written, seconds since the epoch."""
        names = (*STUDY_FILES, "trials.db-wal", "audit.jsonl", "ratios.yaml", "data/progress.json", "data/data.json")
        runs = max((run.written for run in self.runs.values() if not run.result), default=0.0)
        return max(runs, last_written(*(self.folder / name for name in names)))

    def state(self, now: float) -> tuple[str, str]:
        """One of waiting, running, finished, failed, stale; and why, in a sentence or nothing."""
        if is_held(self.folder / "lock"):
            return "running", ""
        course = self.trail.course
        if course is not None and course.kind == "failed":
            return "failed", entry_text(course)
        if (course is not None and course.kind == "ended") or (course is None and self._verdict is not None):
            return "finished", ""
        if not self.folder.is_dir():
            return "waiting", self._words("live.said.gone" if self._stamps else "live.said.nothing")
        longest = max((trial.seconds or 0.0 for trial in self._trials), default=0.0)
        quiet = now - self.written
        if quiet > max(SILENCE, 3 * longest):
            return "stale", self._words("live.said.stale", minutes=math.ceil(quiet / 60))
        return "running", ""

    def summary(self, now: float) -> dict[str, Any]:
        """What the list shows of it."""
        state, why = self.state(now)
        stage, done, total = self.stage()
        ended = state == "finished"
        return {
            "name": self._study.name if self._study is not None else self.folder.name,
            "state": state,
            "why": why,
            "stage": "" if ended else self._words(f"live.stage.{stage}"),
            "step": done,
            "steps": total or None,
            "loss": None,
            "written": round(self.written),
            "alarms": len(self.trail.alarms) + sum(len(run.alarms()) for run in self.runs.values()),
        }

    def detail(self, now: float) -> dict[str, Any]:
        """All that the page shows of it."""
        report = self.folder / "report.html"
        alarms = [(name, alarm) for name, run in self.runs.items() for alarm in run.alarms()]
        summary = self.summary(now)
        return {
            "kind": "study",
            **summary,
            "path": str(self.folder),
            "searches": [self._search(name) for name in dict.fromkeys(trial.search for trial in self._trials)],
            "runs": [{"id": name, **run.summary(now)} for name, run in self.runs.items()],
            "list": [
                *(in_words(alarm, self._words) for alarm in self.trail.alarms),
                *({**alarm, "run": name} for name, alarm in alarms),
            ],
            "checked": self._thresholds is not None,
            "verdict": self._verdict,
            "report": str(report) if report.is_file() else None,
            "course": [course_line(entry) for entry in reversed(self.trail.entries)],
            "problems": [
                *self._damage.values(),
                *([self._shared.problem] if self._shared is not None and self._shared.problem else []),
                *self.trail.problems,
            ],
        }

    def _search(self, name: str) -> dict[str, Any]:
        """One search: how far it is, its best trials, and the score of every trial."""
        mine = [trial for trial in self._trials if trial.search == name]
        key = "transfer" if name.startswith("target/") else "search"
        settings = getattr(self._study, "ladder" if name.startswith("ladder/") else key, None)
        most = (settings.trials if settings is not None else None) or 0  # of a ladder by `share`: not known before
        best = sorted((t for t in mine if t.whole and t.score is not None), key=lambda t: t.score or 0.0)[:BEST]
        return {
            "name": name,
            "arm": name.partition("/")[2].partition("/")[0] or name,
            "ended": sum(trial.ended for trial in mine),
            "running": sum(trial.state == "running" for trial in mine),
            "total": max(most, len(mine)),
            "best": [
                {
                    "number": t.number + 1,
                    "score": t.score,
                    "move": self._words.recorded(t.move),
                    "lr": t.params.get("lr"),
                }
                for t in best
            ],
            "scores": [[t.number + 1, t.score, t.state, t.whole] for t in mine if t.ended],
        }
