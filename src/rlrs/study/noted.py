"""What a study writes into its audit trail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlrs import audit
from rlrs.records import Results, StudyIdentity
from rlrs.settings import StudyConfig


def begun(
    folder: Path, study: StudyConfig, identity: StudyIdentity, environment: Mapping[str, Any], data: Mapping[str, Any]
) -> None:
    """A study begins, or goes on: with which settings, environment and data."""
    audit.note(
        folder,
        "begun",
        study=identity.name,
        settings=identity.config_hash,
        environment=dict(environment),
        storage=study.storage,
    )
    if data:  # those of a trainer of the user's own are not known
        audit.note(folder, "data", **{name: data[name] for name in ("hash", "source", "train_tokens") if name in data})


@contextmanager
def failures(folder: Path) -> Iterator[None]:
    """Note an error that ends a study, Ctrl-C among them, and raise it on."""
    try:
        yield
    except BaseException as error:
        with suppress(audit.AuditError, OSError):  # the error itself is what has to be said
            audit.note(folder, "failed", error=error, files=audit.digests(folder, "ratios.yaml"))
        raise


def searched(folder: Path, results: Results, *, last: bool) -> None:
    """Ratios were found on the proxy; where `last`, the study ends with that."""
    ratios = results.winner.recipe.relative_rates()
    audit.note(folder, "ratios", arm=results.winner.arm, ratios=ratios, files=audit.digests(folder, "ratios.yaml"))
    if last:
        audit.note(folder, "ended", status="searched")


def ended_with(folder: Path) -> bool:
    """Whether the trail says that the study ended with the ratios.yaml and results.json that are there."""
    files = audit.digests(folder, "ratios.yaml", "results.json")
    try:
        ends = [entry.facts for entry in audit.Trail(folder) if entry.kind == "ended"]
    except (audit.AuditError, OSError):
        return False
    return len(files) == 2 and bool(ends) and ends[-1].get("files") == files


def decided(folder: Path, results: Results) -> None:
    """The arms were compared, and one of them is handed out."""
    assert results.comparison is not None
    decision = results.comparison.decision
    audit.note(folder, "decision", decision=decision.winner, reason=decision.sentence, by="rlrs")
    files = audit.digests(folder, "ratios.yaml", "results.json")
    audit.note(folder, "ended", status="finished", files=files)
