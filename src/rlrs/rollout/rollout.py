"""A rollout: declare, look, decide, sign, stage by stage, every one of them an entry of its audit trail."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrs.audit import Trail, digests, sign
from rlrs.files import locked, write_atomic
from rlrs.messages import shown
from rlrs.rollout.declared import RolloutConfig, RolloutError, changed, load_rollout
from rlrs.rollout.judgement import Judgement
from rlrs.rollout.outcomes import read_outcomes
from rlrs.rollout.standing import (
    DECLARED,
    SETTINGS,
    THRESHOLDS,
    Stage,
    State,
    outcome_to_plain,
    read_state,
    unseen,
)
from rlrs.yaml_files import dump_yaml

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Rollout:
    """A rollout in its folder: `rollout.yaml`, `audit.jsonl` and `audit.sig`.

    Args:
        folder: of the rollout; `Rollout.begin` makes it.

    Raises:
        RolloutError: no rollout there, or one that was changed; AuditError where its trail is not intact.

    >>> Rollout("none")
    Traceback (most recent call last):
    rlrs.rollout.declared.RolloutError: none: no rollout there; `rlrs rollout init ROLLOUT.yaml --out none` begins one
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        read_state(self.folder)

    @classmethod
    def begin(cls, declaration: str | Path, folder: str | Path) -> Rollout:
        """Lock what a rollout.yaml declares, and begin its first stage.

        In a folder that has a rollout already, stages that have not begun are declared anew.

        Args:
            declaration: the rollout.yaml.
            folder: for the rollout; made if missing.

        Raises:
            RolloutError: the file is none, or changes what is locked.
        """
        config = load_rollout(declaration)
        folder = Path(folder)
        thresholds = _thresholds(config, Path(declaration))
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            trail = Trail(folder)
            state = read_state(folder, settings=False) if trail.path.exists() else None
            if state is not None:
                _may_follow(state, config, thresholds)
            if thresholds is not None:
                write_atomic(folder / THRESHOLDS, thresholds)
                config = config.model_copy(update={"thresholds": THRESHOLDS})
            write_atomic(folder / SETTINGS, dump_yaml(config.model_dump(mode="json"), width=110))
            if state is None or state.config.to_plain() != config.to_plain():
                files = {} if thresholds is None else digests(folder, THRESHOLDS)
                trail.append(DECLARED, {"rollout": config.to_plain(), "files": files})
        return cls(folder)

    def state(self) -> State:
        """Where it stands."""
        return read_state(self.folder)

    def decide(self, paths: Sequence[str | Path] = (), runs: Sequence[tuple[str, str | Path]] = ()) -> Judgement:
        """Look at the results of the current stage, all of them so far; write down what they say.

        A stage that has failed stays so, whatever comes.

        Args:
            paths: `results.json` of studies, or their folders; tables (`.csv`, `.jsonl`).
            runs: arm and folder of a run, or of runs.

        Raises:
            RolloutError: all stages are signed, or results that cannot be used or that are not those of an earlier
                look.
        """
        with _alone(self.folder):
            state = self.state()
            stage = _current(state)
            if stage.failed and stage.judgement is not None:
                return stage.judgement  # another try at 5 % would be 10 %
            thresholds = self.folder / THRESHOLDS if state.config.thresholds else None
            found, sources = read_outcomes(
                stage.config,
                state.arms,
                [Path(path) for path in paths],
                [(arm, Path(folder)) for arm, folder in runs],
                thresholds,
            )
            new = unseen(stage, found)
            judgement = stage.look(state.arms, new)
            if stage.judgement is not None and not new:
                return judgement  # nothing that the trail does not have
            facts: dict[str, Any] = {
                "decision": judgement.verdict,
                "reason": judgement.reason,
                "stage": stage.name,
                **judgement.to_plain(),
                "results": [outcome_to_plain(outcome) for outcome in new],
                "sources": sources,
            }
            Trail(self.folder).append("decision", facts)
        return judgement

    def sign(
        self, by: str, key: Ed25519PrivateKey, *, statement: str | None = None, override: str | None = None
    ) -> Stage:
        """Sign the current stage off, which begins the next.

        Args:
            by: a signer of the rollout.yaml.
            key: private; its public key must be the one declared for the signer.
            statement: what the signer answers for; kept in the trail.
            override: why to go on although the stage has not passed.

        Returns:
            The stage that was signed.

        Raises:
            RolloutError: no such signer, another key, or a stage that has not passed and no reason to override that.
        """
        import base64

        with _alone(self.folder):
            state = self.state()
            stage = _current(state)
            declared = state.config.signers.get(by)
            if declared is None:
                raise RolloutError(f"no signer {shown(by)}; the rollout declares {', '.join(state.config.signers)}")
            if base64.b64encode(key.public_key().public_bytes_raw()).decode() != declared:
                raise RolloutError(f"the key is not the one that the rollout declares for {by}")
            following = self._following(state, stage)
            if override is not None and len(override.split()) < 3:
                raise RolloutError(f"a reason to override should be a sentence, not {shown(override)}")
            if stage.passed and override is not None:
                raise RolloutError(f"stage {stage.name} has passed: there is nothing to override")
            if not stage.passed and override is None:
                raise RolloutError(_not_passed(stage))
            if override is not None:
                facts = {"what": f"stage {stage.name}", "value": following, "reason": override, "stage": stage.name}
                Trail(self.folder).append("override", {**facts, "by": by}, actor=by)
            words = statement or f"stage {stage.name} {'passed' if override is None else 'overridden'}: {following}"
            sign(self.folder, key, statement=words, by=by, stage=stage.name)
        return stage

    @staticmethod
    def _following(state: State, stage: Stage) -> str:
        place = state.stages.index(stage) + 1
        return f"enter {state.stages[place].name}" if place < len(state.stages) else "the rollout is done"


def _current(state: State) -> Stage:
    if state.current is None:
        raise RolloutError(f"{state.folder}: all stages are signed: the rollout is done")
    return state.current


def _not_passed(stage: Stage) -> str:
    if stage.judgement is None:
        why = "no look at its results yet (`rlrs rollout decide`)"
    else:
        why = f"{stage.judgement.verdict.replace('_', ' ')}: {stage.judgement.reason}"
    return f"stage {stage.name} has not passed: {why}; to go on all the same, give --override and a reason"


def _may_follow(state: State, config: RolloutConfig, thresholds: bytes | None) -> None:
    """Refuse a declaration that changes what is locked."""
    folder = state.folder
    compared = config.model_copy(update={"thresholds": state.config.thresholds})
    if difference := changed(state.config, compared, state.begun):
        raise RolloutError(
            f"{folder}: {difference}, and was locked when its stage began; begin another rollout in another folder"
        )
    if thresholds != ((folder / THRESHOLDS).read_bytes() if state.config.thresholds else None):
        raise RolloutError(f"{folder}: thresholds are others, and were locked when the rollout began")
    if state.current is None:
        raise RolloutError(f"{folder}: all stages are signed: the rollout is done; take another folder")


def _thresholds(config: RolloutConfig, declaration: Path) -> bytes | None:
    if config.thresholds is None:
        return None
    from rlrs.monitoring.thresholds import Thresholds

    path = declaration.parent / config.thresholds
    Thresholds.load(path)
    return path.read_bytes()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One command at a time: two that decide side by side would count new results twice."""
    if not folder.is_dir():
        raise RolloutError(f"{folder}: no rollout there; `rlrs rollout init ROLLOUT.yaml --out {folder}` begins one")
    with locked(folder / ".lock"):
        yield
