"""Where a rollout stands, from its audit trail alone: what was declared, seen, decided, overridden and signed.

Nothing is taken from an entry that follows from others: verdicts are judged again from the results that they were given
on, and a sign-off counts only with a right signature by the key that was declared for its signer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from rlrs.audit import AuditEntry, Trail
from rlrs.audit.anchors import signatures
from rlrs.messages import printable, shown
from rlrs.rollout.declared import RolloutConfig, RolloutError, StageConfig, changed
from rlrs.rollout.judgement import Judgement, Outcome, judge

DECLARED = "x-rollout"
"""Kind of the entries that hold what was declared."""
SETTINGS = "rollout.yaml"
THRESHOLDS = "monitor.yaml"
StageStatus = Literal["waiting", "open", "passed", "failed", "signed"]


@dataclass
class Stage:
    """One stage, as far as it has come."""

    name: str
    config: StageConfig
    outcomes: list[Outcome] = field(default_factory=list)
    """All results that were looked at, in the order in which they came."""
    judgement: Judgement | None = None
    """Of the last look."""
    looks: int = 0
    passed: bool = False
    """Whether a look has shown the gain and all guardrails; a guardrail that breaks later undoes it."""
    failed: bool = False
    override: str | None = None
    """Why somebody went on without a pass."""
    signed_by: str | None = None

    def status(self, current: bool) -> StageStatus:
        """In one word."""
        if self.signed_by:
            return "signed"
        if not current:
            return "waiting"
        return "failed" if self.failed else "passed" if self.passed else "open"

    def look(self, arms: tuple[str, str], new: Sequence[Outcome]) -> Judgement:
        """What these results and all before them say."""
        return judge(self.config, arms, [*self.outcomes, *new], passed=self.passed)

    def take(self, new: Sequence[Outcome], judgement: Judgement) -> None:
        """Keep a look. An override that nobody signed was of the look before."""
        self.override = None
        self.outcomes += new
        self.judgement, self.looks = judgement, self.looks + 1
        self.passed, self.failed = judgement.verdict == "pass", judgement.verdict == "fail"


@dataclass
class State:
    """A rollout as its trail has it."""

    folder: Path
    config: RolloutConfig
    stages: list[Stage]

    @property
    def arms(self) -> tuple[str, str]:
        """The one in use, and the one that would take its place."""
        return self.config.baseline, self.config.candidate

    @property
    def current(self) -> Stage | None:
        """The first stage that is not signed; None when all are."""
        return next((stage for stage in self.stages if stage.signed_by is None), None)

    @property
    def begun(self) -> list[str]:
        """Names of the stages whose criteria are locked: all up to the current one."""
        current = self.current
        last = len(self.stages) if current is None else self.stages.index(current) + 1
        return [stage.name for stage in self.stages[:last]]


def read_state(folder: Path, *, settings: bool = True) -> State:
    """Where a rollout stands.

    Args:
        folder: of the rollout.
        settings: whether rollout.yaml there must be what the trail holds.

    Raises:
        RolloutError: no rollout there, a criterion that was changed after its stage began, or an entry that does not
            follow from those before it.
        AuditError, OSError: the trail is not intact, or cannot be read.
    """
    trail = Trail(folder)
    if not trail.path.is_file():
        raise RolloutError(f"{folder}: no rollout there; `rlrs rollout init ROLLOUT.yaml --out {folder}` begins one")
    state: State | None = None
    signed = {(s.anchor.head, s.key): s for s in signatures(folder)}
    for entry in trail:
        where = f"{trail.path}, entry {entry.index}"
        if entry.kind == DECLARED:
            state = _declared(folder, state, entry, where)
        elif state is not None and "stage" in entry.facts and entry.kind in _READERS:
            current = state.current
            if current is None or entry.facts["stage"] != current.name:
                continue  # of a stage that is behind, or none: it counts for nothing
            _READERS[entry.kind](state, current, entry, signed, where)
    if state is None:
        raise RolloutError(f"{trail.path}: the trail has no rollout; give the folder of one")
    if settings:
        _same_settings(state)
    for found in trail.verify().found:
        raise RolloutError(f"{trail.path}: not intact: {printable(str(found), 300)}")
    return state


def _declared(folder: Path, state: State | None, entry: AuditEntry, where: str) -> State:
    try:
        config = RolloutConfig.from_plain(entry.facts["rollout"])
    except (ValidationError, KeyError, TypeError, AttributeError):
        raise RolloutError(f"{where}: not a rollout of this version of rlrs") from None
    if state is None:
        return State(folder, config, [Stage(name, stage) for name, stage in config.stages.items()])
    if difference := changed(state.config, config, state.begun):
        raise RolloutError(f"{where}: {difference}, declared anew after it was locked")
    done = state.stages[: len(state.begun)]
    later = [Stage(name, stage) for name, stage in list(config.stages.items())[len(done) :]]
    return State(folder, config, done + later)


def _decided(state: State, stage: Stage, entry: AuditEntry, _: Mapping[Any, Any], where: str) -> None:
    if stage.failed:
        raise RolloutError(f"{where}: decides stage {stage.name}, which had failed")
    try:
        new = [outcome_from(plain) for plain in entry.facts["results"]]
        told = entry.facts["decision"], entry.facts["pairs"]
    except (KeyError, TypeError, ValueError):
        raise RolloutError(f"{where}: not a decision of a rollout") from None
    found = stage.look(state.arms, new)
    if told != (found.verdict, found.pairs):
        raise RolloutError(
            f"{where}: says {shown(told[0])} of stage {stage.name}, on {told[1]} pairs; the results in the trail say "
            f"{found.verdict!r}, on {found.pairs}"
        )
    stage.take(new, found)


def _overridden(state: State, stage: Stage, entry: AuditEntry, _: Mapping[Any, Any], where: str) -> None:
    stage.override = str(entry.facts["reason"])


def _signed(state: State, stage: Stage, entry: AuditEntry, signed: Mapping[Any, Any], where: str) -> None:
    signer = str(entry.facts.get("by"))
    key = state.config.signers.get(signer)
    signature = signed.get((entry.hash, key))
    if signature is None or signature.anchor.length != entry.index + 1 or not signature.is_right():
        return  # written, and not signed: a kill between the two, or somebody without the key
    if stage.passed or stage.override is not None:
        stage.signed_by = signer


_READERS: dict[str, Callable[[State, Stage, AuditEntry, Mapping[Any, Any], str], None]] = {
    "decision": _decided,
    "override": _overridden,
    "sign_off": _signed,
}


def _same_settings(state: State) -> None:
    """Refuse a rollout.yaml that is not what the trail holds, by the first setting that differs."""
    from rlrs.rollout.declared import load_rollout

    path = state.folder / SETTINGS
    now = load_rollout(path)
    if difference := changed(state.config, now, state.begun):
        raise RolloutError(
            f"{path}: {difference}: it was locked when its stage began; put it back, or begin another rollout in "
            "another folder"
        )
    if difference := changed(state.config, now, [stage.name for stage in state.stages]) or (
        None if list(now.stages) == list(state.config.stages) else "a stage was added"
    ):
        raise RolloutError(f"{path}: {difference}; a stage that has not begun is declared anew by `rlrs rollout init`")


def outcome_to_plain(outcome: Outcome) -> dict[str, Any]:
    """A result as the trail keeps it."""
    return {"arm": outcome.arm, "run": outcome.run, "values": outcome.values, "diverged": outcome.diverged}


def outcome_from(plain: Mapping[str, Any]) -> Outcome:
    """A result from what the trail keeps."""
    values = {str(metric): float(value) for metric, value in plain["values"].items()}
    return Outcome(str(plain["arm"]), str(plain["run"]), values, bool(plain["diverged"]))


def unseen(stage: Stage, found: Sequence[Outcome]) -> list[Outcome]:
    """Results that no look has had yet.

    Raises:
        RolloutError: one that a look had is missing now, or is another: what was seen may not be taken back.
    """
    now = {(outcome.arm, outcome.run): outcome for outcome in found}
    for old in stage.outcomes:
        new = now.pop((old.arm, old.run), None)
        if new is None:
            raise RolloutError(
                f"run {shown(old.run)} of {old.arm}, which an earlier look at stage {stage.name} had, is missing now; "
                "give all results of the stage at every look"
            )
        if new.diverged != old.diverged or any(new.values.get(k) != value for k, value in old.values.items()):
            raise RolloutError(
                f"run {shown(old.run)} of {old.arm} is another than at an earlier look at stage {stage.name}: "
                f"{_words(old)} then, {_words(new)} now"
            )
    return list(now.values())


def _words(outcome: Outcome) -> str:
    return "diverged" if outcome.diverged else ", ".join(f"{k} {value!r}" for k, value in outcome.values.items())
