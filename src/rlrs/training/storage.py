"""Checkpoints on disk, as safetensors and JSON.

Tensors are safetensors files, one per rank that has something to write, and `checkpoint.json` says where each piece
of each tensor is, how long every file is and what it hashes to. Any number of ranks reads what any other number has
written (`rlrs.training.planned`).

A folder is filled under a temporary name and renamed when everything in it is on disk: it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlrs.extras import install
from rlrs.files import sync_folder, write_atomic

MANIFEST = "checkpoint.json"
FORMAT = 2
"""Of checkpoint.json; 1 was a single file."""


def write_alone(folder: Path, tensors: Mapping[str, Tensor], facts: Callable[[], Mapping[str, Any]]) -> None:
    """Write a checkpoint from one process: what `planned.Writer` would write under DCP, without its planning.

    For a small model the planning takes longer than the writing.

    Args:
        folder: where to; replaced if it is there.
        tensors: by name, none of them sharing memory.
        facts: other state, plain data, asked for when the tensors are on disk.
    """
    temporary = begin(folder)
    file = write_tensors(temporary, 0, tensors)
    pieces = {name: [piece(file["name"], [0] * tensor.ndim, tensor.shape)] for name, tensor in tensors.items()}
    descriptions = {name: description(tensor.dtype, tensor.shape, pieces[name]) for name, tensor in tensors.items()}
    commit(folder, descriptions, [file], facts())


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a checkpoint says of itself, when all its files are as it says, to the last bit.

    Raises:
        ValueError: the folder is no checkpoint, or a file of it is missing, cut or changed; the message goes on from
            the folder's name.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"has no {MANIFEST}, so it is not a checkpoint of rlrs") from None
    except ValueError:
        raise ValueError(f"{MANIFEST} is truncated or damaged") from None
    version = manifest.get("format") if isinstance(manifest, dict) else None
    if type(version) is int and version > 0 and version != FORMAT:
        when = "a later" if version > FORMAT else "an earlier"
        raise ValueError(f"{MANIFEST} is of {when} rlrs (format {version}; this one reads {FORMAT})")
    if not isinstance(manifest, dict) or version != FORMAT:
        raise ValueError(f"{MANIFEST} is not of this version of rlrs")
    try:
        sealed = manifest.pop("seal")
        if sealed != _seal(manifest):
            raise ValueError(f"{MANIFEST} is damaged")
        files = [(entry["name"], entry["bytes"], entry["sha256"]) for entry in manifest["files"]]
    except (KeyError, TypeError):
        raise ValueError(f"{MANIFEST} is damaged") from None
    for name, size, digest in files:
        path = folder / name
        if path.name != name or not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != size or _digest(path) != digest:
            raise ValueError(f"{name} is truncated or damaged")
    return manifest


def temporary_folder(folder: Path) -> Path:
    """Where a checkpoint is until it is whole."""
    return folder.with_name(f".{folder.name}.writing")


def begin(folder: Path) -> Path:
    """An empty folder under the temporary name, whatever a process that was killed has left there."""
    temporary = temporary_folder(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def commit(folder: Path, tensors: Mapping[str, Any], files: list[dict[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write the manifest and give the folder its name: the moment from which the checkpoint exists."""
    temporary = temporary_folder(folder)
    manifest = {**facts, "format": FORMAT, "files": files, "tensors": dict(tensors)}
    write_atomic(temporary / MANIFEST, json.dumps({**manifest, "seal": _seal(manifest)}))
    if folder.exists():  # one that was refused: there was no use in it
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    sync_folder(folder.parent)


def write_tensors(folder: Path, rank: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a rank's tensors; the file's name, length and hash."""
    needed_safetensors()
    from safetensors.torch import save

    data = save(dict(tensors))
    name = f"rank-{rank}.safetensors"
    folder.mkdir(exist_ok=True)  # another machine without a shared disk gets as far as the coordinator's check
    write_atomic(folder / name, data)
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def needed_safetensors() -> Any:
    """The library, or an ImportError that says how to have it."""
    try:
        import safetensors
    except ImportError:
        raise ImportError(f"checkpoints need safetensors: {install('training')}") from None
    return safetensors


def piece(file: str, offsets: list[int], sizes: torch.Size) -> dict[str, Any]:
    """A part of a tensor, as the manifest names it."""
    return {"file": file, "offsets": list(offsets), "sizes": list(sizes)}


def description(dtype: torch.dtype, shape: torch.Size, pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole tensor, as the manifest describes it."""
    return {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape), "pieces": pieces}


def _seal(manifest: Mapping[str, Any]) -> str:
    """Hash of the manifest itself."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
