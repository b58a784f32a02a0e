"""checkpoint.pt: all of a run's state after a step, whole or not there."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from rlrs.files import open_atomic

FORMAT = 1
KEYS = frozenset(
    {
        "format",
        "id",
        "step",
        "model",
        "optimizer",
        "scheduler",
        "rng",
        "losses",
        "valid_losses",
        "metrics_bytes",
        "seconds",
    }
)


class CheckpointError(ValueError):
    """A run's file that cannot be used; one line: which, what is wrong with it, and what to do."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically: a kill at any moment leaves this one or the one before.

    Args:
        path: where to.
        state: exactly the keys of `KEYS` but `format`.
    """
    state = {"format": FORMAT, **state}
    assert state.keys() == KEYS, state.keys() ^ KEYS
    with open_atomic(path) as file:
        torch.save(state, file)


def load_checkpoint(path: Path, run_id: str) -> dict[str, Any] | None:
    """Read a run's checkpoint; None if there is none.

    Raises:
        CheckpointError: the file is damaged, is no checkpoint, or belongs to another run.
    """
    if not path.exists():
        return None
    remedy = "delete it to start the run again"
    try:
        _check_archive(path, remedy)
        # Tensors and plain data only: a foreign file cannot run code.
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (RuntimeError, EOFError, zipfile.BadZipFile):
        raise CheckpointError(f"{path}: is truncated or damaged; {remedy}") from None
    except (pickle.UnpicklingError, KeyError):
        raise CheckpointError(f"{path}: is not a checkpoint of rlrs; {remedy}") from None
    if not isinstance(state, dict) or state.keys() != KEYS or state["format"] != FORMAT:
        raise CheckpointError(f"{path}: is not a checkpoint of this version of rlrs; {remedy}")
    if state["id"] != run_id:
        raise CheckpointError(
            f"{path}: belongs to another run ({state['id']}, not {run_id}); use another folder, or {remedy}"
        )
    return state


def _check_archive(path: Path, remedy: str) -> None:
    """Check that a file is a whole zip archive, which torch's checkpoints are, down to its checksums."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
        return
    with open(path, "rb") as file:
        start = file.read(4)
    if b"PK\x03\x04".startswith(start):  # an archive's start without its end, or nothing at all
        raise zipfile.BadZipFile
    raise CheckpointError(f"{path}: is not a checkpoint of rlrs; {remedy}")
