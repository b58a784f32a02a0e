"""Checkpoints on disk: what `torch.distributed.checkpoint` plans, as safetensors and JSON.

DCP's own file format has a pickle in it, and reading one can run code. Here tensors are safetensors files, one per
rank that has something to write, and `checkpoint.json` says where each piece of each tensor is, how long every file
is and what it hashes to. Any number of ranks reads what any other number has written.

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
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from rlrs.files import sync_folder, write_atomic

MANIFEST = "checkpoint.json"
FORMAT = 2
"""Of checkpoint.json; 1 was a single file."""


def write_alone(folder: Path, tensors: Mapping[str, Tensor], facts: Callable[[], Mapping[str, Any]]) -> None:
    """Write a checkpoint from one process: what `Writer` would write under DCP, without its planning.

    For a small model the planning takes longer than the writing.

    Args:
        folder: where to; replaced if it is there.
        tensors: by name, none of them sharing memory.
        facts: other state, plain data, asked for when the tensors are on disk.
    """
    temporary = _begin(folder)
    file = _write_tensors(temporary, 0, tensors)
    pieces = {name: [_piece(file["name"], [0] * tensor.ndim, tensor.shape)] for name, tensor in tensors.items()}
    described = {name: _described(tensor.dtype, tensor.shape, pieces[name]) for name, tensor in tensors.items()}
    _commit(folder, described, [file], facts())


class Writer(StorageWriter):
    """Writes one checkpoint of all ranks; see `write_alone` for the arguments."""

    def __init__(self, folder: Path, facts: Callable[[], Mapping[str, Any]]) -> None:
        self.folder, self.facts = folder, facts
        self.rank = 0

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        """A writer is used once."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """The folder under its temporary name; the other ranks wait for the plan, which comes after it."""
        self.rank = kwargs.get("rank", 0)
        if is_coordinator:
            _begin(self.folder)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As planned."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """This rank's pieces, in one file; a rank that has none writes none."""
        done: Future[list[WriteResult]] = Future()
        tensors = {}
        for item in plan.items:
            tensor = planner.resolve_data(item)
            assert isinstance(tensor, Tensor), f"{item.index.fqn}: only tensors are planned"
            assert item.index.fqn not in tensors, f"{item.index.fqn}: one piece per rank"
            tensors[item.index.fqn] = tensor.contiguous()
        if not tensors:
            done.set_result([])
            return done
        file = _write_tensors(_temporary(self.folder), self.rank, tensors)
        done.set_result([WriteResult(item.index, tensors[item.index.fqn].nbytes, file) for item in plan.items])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """The coordinator, when all ranks have written: `checkpoint.json`, and the folder's own name."""
        files: dict[str, dict[str, Any]] = {}
        pieces: dict[str, list[dict[str, Any]]] = {}
        for result in (result for of_rank in results for result in of_rank):
            files[result.storage_data["name"]] = result.storage_data
            stored = metadata.state_dict_metadata[result.index.fqn]
            assert isinstance(stored, TensorStorageMetadata)
            offsets = list(result.index.offset or [0] * len(stored.size))
            sizes = next(chunk.sizes for chunk in stored.chunks if list(chunk.offsets) == offsets)
            pieces.setdefault(result.index.fqn, []).append(_piece(result.storage_data["name"], offsets, sizes))
        described = {}
        for name, stored in metadata.state_dict_metadata.items():
            assert isinstance(stored, TensorStorageMetadata)
            described[name] = _described(stored.properties.dtype, stored.size, pieces[name])
        _commit(self.folder, described, list(files.values()), self.facts())

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        """Folders only."""
        return "://" not in str(checkpoint_id)

    def storage_meta(self) -> StorageMeta | None:
        """Nothing that a checkpoint of plain tensors needs."""
        return None


class Reader(StorageReader):
    """Reads a checkpoint whose manifest `read_manifest` has accepted."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.metadata = _metadata(manifest["tensors"])

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        """A reader is of one folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """From the manifest."""
        return self.metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to set up."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Every planned part of a tensor, from the file that holds it; files are mapped, so only that is read."""
        safe_open = _safetensors().safe_open
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self.metadata.storage_data[item.storage_index], []).append(item)
        for name, items in by_file.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for item in items:
                    where = tuple(
                        slice(offset, offset + length)
                        for offset, length in zip(item.storage_offsets, item.lengths, strict=True)
                    )
                    fqn = item.storage_index.fqn
                    part = file.get_slice(fqn)[where] if where else file.get_tensor(fqn)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(part)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        """Folders only."""
        return "://" not in str(checkpoint_id)


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
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
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


def _temporary(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.writing")


def _begin(folder: Path) -> Path:
    """An empty folder under the temporary name, whatever a process that was killed has left there."""
    temporary = _temporary(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def _commit(folder: Path, tensors: Mapping[str, Any], files: list[dict[str, Any]], facts: Mapping[str, Any]) -> None:
    """Write the manifest and give the folder its name: the moment from which the checkpoint exists."""
    temporary = _temporary(folder)
    manifest = {**facts, "format": FORMAT, "files": files, "tensors": dict(tensors)}
    write_atomic(temporary / MANIFEST, json.dumps({**manifest, "seal": _seal(manifest)}))
    if folder.exists():  # one that was refused: there was no use in it
        shutil.rmtree(folder)
    os.replace(temporary, folder)
    sync_folder(folder.parent)


def _write_tensors(folder: Path, rank: int, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a rank's tensors; the file's name, length and hash."""
    _safetensors()
    from safetensors.torch import save

    data = save(dict(tensors))
    name = f"rank-{rank}.safetensors"
    folder.mkdir(exist_ok=True)  # another machine without a shared disk gets as far as the coordinator's check
    write_atomic(folder / name, data)
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError:
        raise ImportError("checkpoints need safetensors: pip install 'rlrs[training]'") from None
    return safetensors


def _piece(file: str, offsets: list[int], sizes: torch.Size) -> dict[str, Any]:
    return {"file": file, "offsets": list(offsets), "sizes": list(sizes)}


def _described(dtype: torch.dtype, shape: torch.Size, pieces: list[dict[str, Any]]) -> dict[str, Any]:
    return {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape), "pieces": pieces}


def _metadata(tensors: Mapping[str, Any]) -> Metadata:
    """DCP's own description of the stored tensors; `storage_data` says in which file a piece is."""
    stored: dict[str, Any] = {}
    files = {}
    for name, tensor in tensors.items():
        stored[name] = TensorStorageMetadata(
            TensorProperties(dtype=getattr(torch, tensor["dtype"])),
            torch.Size(tensor["shape"]),
            [ChunkStorageMetadata(torch.Size(p["offsets"]), torch.Size(p["sizes"])) for p in tensor["pieces"]],
        )
        for piece in tensor["pieces"]:
            files[MetadataIndex(name, piece["offsets"])] = piece["file"]
    return Metadata(stored, storage_data=files)


def _seal(manifest: Mapping[str, Any]) -> str:
    """Hash of the manifest itself."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
