"""`training.dtype: auto` settled once for all runs of a run directory."""

from __future__ import annotations

import json
from pathlib import Path

from rlrs.data import TokenData
from rlrs.files import write_atomic
from rlrs.messages import printable, shown
from rlrs.settings import StudyConfig
from rlrs.study.directory import StudyError
from rlrs.training import faster_dtype


def settled(study: StudyConfig, folder: Path, data: TokenData) -> StudyConfig:
    """A study whose dtype is one: as set, as dtype.json says, or as measured now on the target, and written there.

    Runs of one study never decide by timings of their own: they would differ from each other, and from themselves
    when they are resumed.

    Raises:
        StudyError: dtype.json is damaged.
    """
    if study.training.dtype != "auto":
        return study
    path = folder / "dtype.json"
    if not path.exists():
        target = study.target
        part = target.batch_size // study.training.accumulate or 1
        measured = faster_dtype(target.model, data.vocab_size, part, data.sequence_length)
        write_atomic(path, json.dumps(measured, indent=1) + "\n")
    try:
        dtype = json.loads(path.read_text(encoding="utf-8"))["dtype"]
    except (ValueError, KeyError, TypeError, RecursionError):
        dtype = None
    if dtype not in ("float32", "bfloat16"):
        raise StudyError(
            f"{printable(str(path))}: damaged: its dtype is {shown(dtype)}; remove it to measure again, together with "
            "the runs beside it"
        )
    return study.model_copy(update={"training": study.training.model_copy(update={"dtype": dtype})})
