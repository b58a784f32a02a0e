"""What a study, or a single run, writes into its audit trail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlrs import audit
from rlrs.environment import environment
from rlrs.messages import printable
from rlrs.ratios import Ratios
from rlrs.records import Certificate, Results, RunResult, StudyIdentity
from rlrs.settings import StudyConfig
from rlrs.training import RunSpec, Stopped

_FILES = ("ratios.yaml", "results.json", "certificate.json")
"""What a study ends with; the last where it has a ladder."""
_BEGUN = ("trials.db", "ratios.yaml", "results.json")
"""What there is only of a study that has written to its trail."""
log = logging.getLogger("rlrs.study")


def begun(
    folder: Path, study: StudyConfig, identity: StudyIdentity, environment: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """A study begins, or goes on: with which settings, environment and data; a warning of a trail that is damaged."""
    lost = _lost(folder)
    audit.note(
        folder,
        "begun",
        study=identity.name,
        settings=identity.config_hash,
        environment=dict(environment),
        storage=study.storage,
        **({"trail": lost} if lost is not None else {}),
    )
    if data:  # those of a trainer of the user's own are not known
        audit.note(folder, "data", **{name: data[name] for name in ("hash", "source", "train_tokens") if name in data})


def _lost(folder: Path) -> str | None:
    """Says what is wrong with the trail so far; for the next entry, where it is the first of a study that had begun."""
    trail = audit.Trail(folder)
    entries, found = 0, None
    try:
        report = trail.verify()
        # Files that a kill left newer than the last end are no damage of the trail.
        found = next((str(one) for one in report.found if one.kind != "file"), None)
        entries = report.entries
    except FileNotFoundError:
        pass
    except audit.AuditError as error:
        found = str(error)
    if found is not None:
        log.warning("%s: the audit trail is damaged: %s (`rlrs audit verify` says more)", trail.path, printable(found))
    if entries or not any((folder / name).exists() for name in _BEGUN):
        return None
    if found is None:
        log.warning("%s: the audit trail of this study is gone: it begins anew, and says so", trail.path)
    return "begins anew: the study had begun before, and its entries are gone"


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """Note an error that ends a study, Ctrl-C among them, and raise it on."""
    try:
        yield
    except BaseException as error:
        with suppress(audit.AuditError, OSError):  # the error itself is what has to be said
            audit.note(folder, "failed", error=error, files=audit.digests(folder, "ratios.yaml"))
        raise


@contextmanager
def one_run(folder: Path, spec: RunSpec, ratios: Ratios, *, first: bool) -> Iterator[Callable[[RunResult], None]]:
    """Note that a run begins or goes on, and how it ends; nothing of one that has ended before.

    Args:
        folder: of the run.
        spec: the run.
        ratios: with their provenance.
        first: whether this is rank 0, which writes.
    """
    if not first or (folder / "result.json").exists():
        yield lambda result: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    guard = None if spec.guard is None else spec.guard.model_dump(mode="json")
    plain = {"run": spec.id, "steps": spec.steps, "seed": spec.seed, "lr": spec.lr, "guard": guard}
    entry = audit.note(folder, "begun", environment=environment(), **plain)
    if entry.kind == "begun":
        audit.note(folder, "data", hash=spec.data_hash)
        audit.note(folder, "ratios", ratios=ratios, **({"provenance": p} if (p := ratios.provenance) else {}))

    def ended(result: RunResult) -> None:
        files = audit.digests(folder, "result.json")
        audit.note(folder, "ended", status=result.status, steps=result.steps, reason=result.reason, files=files)

    try:
        yield ended
    except Stopped:  # it is to go on
        raise
    except BaseException as error:
        with suppress(audit.AuditError, OSError):  # the error itself is what has to be said
            audit.note(folder, "failed", error=error)
        raise


def searched(folder: Path, results: Results, *, last: bool) -> None:
    """Ratios were found on the proxy; where `last`, the study ends with that."""
    ratios = results.winner.recipe.relative_rates()
    audit.note(folder, "ratios", arm=results.winner.arm, ratios=ratios, files=audit.digests(folder, "ratios.yaml"))
    if last:
        audit.note(folder, "ended", status="searched")


def certified(folder: Path, certificate: Certificate) -> None:
    """What a ladder says about the target, before it is trained."""
    audit.note(
        folder,
        "certificate",
        mode=certificate.mode,
        sentence=certificate.sentence,
        files=audit.digests(folder, "certificate.json"),
    )


def ended_with(folder: Path) -> bool:
    """Whether the trail says that the study ended with the ratios.yaml and results.json that are there."""
    files = audit.digests(folder, *_FILES)
    try:
        ends = [entry.facts for entry in audit.Trail(folder) if entry.kind == "ended"]
    except (audit.AuditError, OSError):
        return False
    return {"ratios.yaml", "results.json"} <= set(files) and bool(ends) and ends[-1].get("files") == files


def decided(folder: Path, results: Results) -> None:
    """The arms were compared, and one of them is handed out."""
    assert results.comparison is not None
    decision = results.comparison.decision
    audit.note(folder, "decision", decision=decision.winner, reason=decision.sentence, by="rlrs")
    files = audit.digests(folder, *_FILES)
    audit.note(folder, "ended", status="finished", files=files)
