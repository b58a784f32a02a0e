"""Results of both arms: from a study's results.json, from folders of runs, or from a table of a team's own runs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlrs.messages import printable, shown
from rlrs.records import RecordError, RunResult
from rlrs.records.frozen import first_problem, read_plain
from rlrs.rollout.declared import ALARMS, DIVERGED, RolloutError, StageConfig
from rlrs.rollout.judgement import Outcome

_STATUS = ("finished", "diverged", "failed")
_TABLES = (".csv", ".jsonl", ".ndjson")


def read_outcomes(
    stage: StageConfig,
    arms: tuple[str, str],
    paths: Sequence[Path] = (),
    runs: Sequence[tuple[str, Path]] = (),
    thresholds: Path | None = None,
) -> tuple[list[Outcome], dict[str, str]]:
    """Results of both arms, in the order of the files, and the SHA-256 of the files that hold them.

    Args:
        stage: whose metrics are wanted.
        arms: the arm in use, and the one that would take its place.
        paths: `results.json` of studies, or their folders; tables (`.csv`, `.jsonl`).
        runs: arm and folder of a run, or of runs; those that have not ended are left out.
        thresholds: a monitor.yaml, for the guardrail `alarms`.

    Raises:
        RolloutError: a file without the arms, runs or values that are wanted; one line.
        RecordError, OSError: a damaged or missing file.
    """
    found: list[Outcome] = []
    sources: dict[str, str] = {}
    wanted = stage.metrics()
    for path in paths:
        path = path / "results.json" if path.is_dir() else path
        sources[str(path)] = _digest(path)
        found += _study(path, arms, wanted, thresholds) if path.suffix == ".json" else _table(path, arms, wanted)
    for arm, folder in runs:
        if arm not in arms:
            raise RolloutError(f"--runs {printable(arm, 60)}=...: the arms are {arms[0]} and {arms[1]}")
        for run in _run_folders(folder):
            sources[str(run / "result.json")] = _digest(run / "result.json")
            name = _seed(run) if stage.paired else run.name
            found.append(_run_outcome(arm, name, run, wanted, thresholds))
    seen: set[tuple[str, str]] = set()
    for outcome in found:
        if (outcome.arm, outcome.run) in seen:
            raise RolloutError(f"run {shown(outcome.run)} of {outcome.arm} is there twice; a run counts once")
        seen.add((outcome.arm, outcome.run))
    return found, sources


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _study(path: Path, arms: tuple[str, str], wanted: Sequence[str], thresholds: Path | None) -> Iterator[Outcome]:
    """Full-length runs of a study's comparison; what is not in results.json is taken from the folders of the runs."""
    from rlrs.comparison import read_results

    comparison = read_results(path).comparison
    if comparison is None:
        raise RolloutError(f"{path}: the study has no comparison yet; `rlrs compare STUDY.yaml` makes it")
    if missing := [arm for arm in arms if arm not in comparison.losses]:
        raise RolloutError(f"{path}: no arm {shown(missing[0])}; its arms are {', '.join(comparison.losses)}")
    for run in comparison.runs:
        if run.horizon != 1.0 or run.arm not in arms:
            continue
        known = {
            name: value for name, value in (("valid_loss", run.valid_loss), ("score", run.score)) if value is not None
        }
        folder = path.parent / "runs" / run.id
        if run.status == "finished" and not set(wanted) <= set(known):
            if not folder.is_dir():
                lacking = next(name for name in wanted if name not in known)
                raise RolloutError(f"{path}: {lacking} of run {run.id} is wanted, and its folder {folder} is not there")
            yield _run_outcome(run.arm, str(run.seed), folder, wanted, thresholds)
            continue
        yield _outcome(run.arm, str(run.seed), run.status, lambda name, known=known: known[name], wanted)


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RolloutError(f"{folder}: no folder of a run, or of runs")
    if (folder / "result.json").exists():
        return [folder]
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    runs = [path for path in below if (path / "result.json").exists()]
    if below and not runs and not any((path / "run.json").exists() for path in below):
        raise RolloutError(f"{folder}: no folder in it has the result.json of a run")
    return runs


def _seed(run: Path) -> str:
    try:
        seed = read_plain((run / "run.json").read_bytes()).get("seed")
    except (ValueError, AttributeError):
        raise RolloutError(f"{run / 'run.json'}: not the record of a run") from None
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise RolloutError(f"{run / 'run.json'}: no seed, by which runs are paired")
    return str(seed)


def _run_outcome(arm: str, name: str, run: Path, wanted: Sequence[str], thresholds: Path | None) -> Outcome:
    path = run / "result.json"
    try:
        plain = read_plain(path.read_bytes())
        result = RunResult.model_validate({key: plain[key] for key in RunResult.model_fields if key in plain})
    except ValidationError as error:
        raise RecordError(f"{path}: damaged: {first_problem(error)}; train the run again") from None
    except (ValueError, TypeError) as error:
        raise RecordError(f"{path}: damaged: {printable(str(error), 200)}; train the run again") from None

    def value(metric: str) -> float | None:
        if metric == ALARMS:
            return float(_alarms(run, thresholds))
        if metric == "tokens_per_second":
            return result.tokens / result.seconds if result.seconds > 0 else None
        found = getattr(result, metric, None)
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise RolloutError(
                f"{path}: has no {shown(metric)}; run folders have valid_loss, score, tokens_per_second, steps, "
                "tokens, seconds and alarms; for other metrics, give a table (.csv, .jsonl)"
            )
        return float(found)

    return _outcome(arm, name, result.status, value, wanted)


def _alarms(run: Path, thresholds: Path | None) -> int:
    from rlrs.monitoring.checker import check_file
    from rlrs.monitoring.thresholds import Thresholds

    return len(check_file(run, Thresholds.load(thresholds) if thresholds is not None else None))


def _table(path: Path, arms: tuple[str, str], wanted: Sequence[str]) -> Iterator[Outcome]:
    if path.suffix not in _TABLES:
        raise RolloutError(f"{path}: should be a study's results.json or folder, or a table: {', '.join(_TABLES)}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RolloutError(f"{path}: not UTF-8 text (byte {error.start})") from None
    others: set[str] = set()
    own = False
    for number, row in _csv(path, text) if path.suffix == ".csv" else _json_lines(path, text):
        where = f"{path}, line {number}"
        arm, run, status = (_text(row.get(name)) for name in ("arm", "run", "status"))
        for name, value in (("arm", arm), ("run", run)):
            if not value:
                raise RolloutError(f"{where}: no {name}; every row has arm, run and {', '.join(wanted)}")
        if arm not in arms:
            others.add(arm)
            continue
        own = True
        if status and status not in _STATUS:
            raise RolloutError(f"{where}: status should be {', '.join(_STATUS)} or empty, not {shown(status)}")
        yield _outcome(arm, run, status or "finished", _cell(where, row), wanted)
    if others and not own:
        raise RolloutError(f"{path}: no row of {arms[0]} or {arms[1]}; its arms are {', '.join(sorted(others)[:5])}")


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _cell(where: str, row: Mapping[str, Any]) -> Callable[[str], float | None]:
    def value(metric: str) -> float | None:
        text = _text(row.get(metric))
        if not text:
            raise RolloutError(f"{where}: no {metric}; a run that ended without one has status diverged")
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not math.isfinite(found):
            raise RolloutError(f"{where}: {metric} should be a finite number, not {shown(text)}")
        return found

    return value


def _csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        names = reader.fieldnames or []
        if twice := [name for name in names if names.count(name) > 1]:
            raise RolloutError(f"{path}: the column {shown(twice[0])} is there twice")
        for row in reader:
            if None in row or None in row.values():
                raise RolloutError(
                    f"{path}, line {reader.line_num}: should have {len(names)} values, as the first line"
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise RolloutError(f"{path}, line {reader.line_num}: not CSV: {error}") from None


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise RolloutError(f"{path}, line {number}: not a JSON object")
        yield number, row


def _outcome(arm: str, run: str, status: str, value: Callable[[str], float | None], wanted: Iterable[str]) -> Outcome:
    if status == "pruned":
        raise RolloutError(f"run {run} of {arm} was pruned: it says nothing of how it would have ended")
    if status != "finished":
        return Outcome(arm, run, {}, True)
    values = {}
    for metric in wanted:
        if metric == DIVERGED:
            continue
        found = value(metric)
        if found is None or not math.isfinite(found):
            raise RolloutError(f"run {run} of {arm} has no {metric}, which the stage needs")
        values[metric] = found
    return Outcome(arm, run, values)
