"""Checkpoints of several ranks, and of any number read by any other: planned by `torch.distributed.checkpoint`.

DCP's own file format has a pickle in it, and reading one can run code; these are its storage over the files of
`rlrs.training.storage`. Apart from it, since DCP is slow to import.
"""

from __future__ import annotations

import concurrent.futures
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from rlrs.training.distributed import World
from rlrs.training.storage import begin, commit, description, needed_safetensors, piece, temporary_folder, write_tensors


def save_planned(
    folder: Path, tensors: Mapping[str, Tensor], facts: Callable[[], Mapping[str, Any]], world: World
) -> concurrent.futures.Future[Any]:
    """Begin to write a checkpoint of all ranks; for the arguments see `rlrs.training.storage.write_alone`."""
    pending = async_save(
        dict(tensors),
        storage_writer=Writer(folder, facts),
        planner=DefaultSavePlanner(flatten_state_dict=False),
        process_group=world.background,
    )
    assert isinstance(pending, concurrent.futures.Future)
    return pending


def load_planned(folder: Path, manifest: Mapping[str, Any], tensors: Mapping[str, Tensor], world: World) -> None:
    """Fill tensors from a checkpoint whose manifest `read_manifest` has accepted; they have the shapes that it says."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process: no ranks to ask
        load(
            {name: tensor.detach() for name, tensor in tensors.items()},
            storage_reader=Reader(folder, manifest),
            planner=DefaultLoadPlanner(flatten_state_dict=False, flatten_sharded_tensors=False),
            process_group=world.background,
            no_dist=world.size == 1,
        )


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
            begin(self.folder)

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
        file = write_tensors(temporary_folder(self.folder), self.rank, tensors)
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
            pieces.setdefault(result.index.fqn, []).append(piece(result.storage_data["name"], offsets, sizes))
        descriptions = {}
        for name, stored in metadata.state_dict_metadata.items():
            assert isinstance(stored, TensorStorageMetadata)
            descriptions[name] = description(stored.properties.dtype, stored.size, pieces[name])
        commit(self.folder, descriptions, list(files.values()), self.facts())

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
        safe_open = needed_safetensors().safe_open
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


def _metadata(tensors: Mapping[str, Any]) -> Metadata:
    """DCP's own description of the stored tensors; `storage_data` says in which file a piece is."""
    stored: dict[str, Any] = {}
    files: dict[MetadataIndex, str] = {}
    for name, tensor in tensors.items():
        stored[name] = TensorStorageMetadata(
            TensorProperties(dtype=getattr(torch, tensor["dtype"])),
            torch.Size(tensor["shape"]),
            [ChunkStorageMetadata(torch.Size(p["offsets"]), torch.Size(p["sizes"])) for p in tensor["pieces"]],
        )
        files |= {MetadataIndex(name, p["offsets"]): p["file"] for p in tensor["pieces"]}
    return Metadata(stored, storage_data=files)
