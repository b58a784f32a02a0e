"""A worker's data and run folders, on whichever machine it is: the driver's own by path, or copies in a private folder.

Nothing that another user of the machine could have written is trusted: copies are in a folder that only this user can
enter, and tokens that are not on the driver's own file system are hashed before they are used.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlrs.data import TokenData
from rlrs.data.facts import FILE, GENERAL, read_facts
from rlrs.files import write_atomic
from rlrs.search.engines.engine import EngineError
from rlrs.settings import ConfigError

MARK = ".ray-driver"
"""A file beside the data by which a worker knows that it writes to the driver's own file system."""


@dataclass(frozen=True)
class Source:
    """Where a worker finds the data: by path, or else in the object store.

    Args:
        folder: on the driver's machine.
        summary: of the data, as `TokenData.summary`, with its hash.
        mark: what the file `MARK` holds: a secret of the driver's.
        files: references into the object store, by name; None before a worker asked for them.
    """

    folder: str
    summary: dict[str, Any]
    mark: str
    files: dict[str, Any] | None = None

    @property
    def hash(self) -> str:
        """Of tokenizer, tokens and sequence length."""
        return self.summary["hash"]

    @property
    def is_here(self) -> bool:
        """Whether this process sees the driver's own folder."""
        try:
            return (Path(self.folder) / MARK).read_text() == self.mark
        except (OSError, ValueError):
            return False


_opened: dict[str, tuple[Path, TokenData]] = {}
"""In a worker, which trains many runs: data by its hash, and where it is."""


def pack(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The files of prepared data, as bytes by name; also where studies share their tokens.

    Raises:
        RecordError: data.json is damaged.
        OSError: a file cannot be read.
    """
    facts = read_facts(folder)
    assert facts is not None, "the driver has opened it"
    files = {name: np.fromfile(facts.place(folder) / name, dtype=np.uint8) for name in facts.sizes}
    text = facts.model_copy(update={"home": None}).sealed().model_dump_json(indent=1)
    files |= {FILE: np.frombuffer(text.encode(), dtype=np.uint8)}
    if (folder / GENERAL / FILE).exists():
        files |= {f"{GENERAL}/{name}": content for name, content in pack(folder / GENERAL).items()}
    return files


def open_data(source: Source) -> tuple[Path, TokenData] | None:
    """The data of a run, and where it is; None if it is neither at its path nor in the object store.

    Raises:
        EngineError: the folder for copies is not private.
    """
    if source.hash not in _opened:
        found = _load(Path(source.folder), source, check=not source.is_here)
        if found is None:
            local = private_folder() / f"data-{source.hash}"
            found = _load(local, source, check=True)
            if found is None and source.files is not None:
                _fetch(source.files, local)
                found = _load(local, source, check=True)
        if found is None:
            return None
        _opened.clear()
        _opened[source.hash] = found
    return _opened[source.hash]


def run_folder(source: Source, folder: str | None) -> Path | None:
    """Where a run's files go: the driver's folder where this node has it, else a place of the node's own."""
    if folder is None:
        return None
    return Path(folder) if source.is_here else private_folder() / "runs" / source.mark / Path(folder).name


def private_folder() -> Path:
    """A folder for temporary files that no other user can enter, the same for all of this user's workers.

    Raises:
        EngineError: what has its name is a link, another user's, or open to others.
    """
    path = Path(tempfile.gettempdir()) / f"rlrs-{os.getuid()}"
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise EngineError(
                f"{path}: should be a folder of this user that no other can enter (mode 700), for data and runs of "
                "Ray workers; remove it, or name another place by TMPDIR"
            ) from None
    return path


def _load(folder: Path, source: Source, *, check: bool) -> tuple[Path, TokenData] | None:
    try:
        data = TokenData.load(folder, check=check)
    except (ConfigError, OSError):
        return None
    return (folder, data) if data.summary == source.summary else None


def _fetch(files: Mapping[str, Any], folder: Path) -> None:
    import ray

    folder.mkdir(exist_ok=True)
    if any(name.startswith(f"{GENERAL}/") for name in files):
        (folder / GENERAL).mkdir(exist_ok=True)
    # data.json last: with it the folder counts as whole.
    for name in sorted(files, key=lambda name: (name == FILE, name)):
        write_atomic(folder / name, np.asarray(ray.get(files[name])).tobytes())
