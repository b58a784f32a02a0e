"""The checkpoints of a run: `checkpoints/step-N/`, written behind the training, the last few kept."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from rlrs.training.distributed import World
from rlrs.training.storage import read_manifest, write_alone

PREFIX = "step-"
FACTS = frozenset({"id", "step", "valid_losses", "metrics_bytes", "seconds"})
"""What every checkpoint holds beside tensors; from 0.2 on also losses on general text, and a guard's state."""
LATER = frozenset({"general_losses", "guard"})


class CheckpointError(ValueError):
    """A run's file that cannot be used; one line: which, what is wrong with it, and what to do."""


class CheckpointWarning(UserWarning):
    """A checkpoint that cannot be used where the one before it is used instead."""


class Checkpoints:
    """Saves and finds the checkpoints of one run; every rank has one.

    A save copies the state and returns; files are written in a thread while training goes on. Saves do not overtake
    each other, and `wait` makes the last one certain.

    Args:
        folder: of the run.
        run_id: of the run's spec: a checkpoint of another run is refused.
        keep: how many of the last ones stay, 1 or more.
        world: the ranks that save and load together.
    """

    def __init__(self, folder: Path, run_id: str, keep: int, world: World) -> None:
        self.folder, self.run_id, self.keep, self.world = folder / "checkpoints", run_id, keep, world
        self.saved_step: int | None = None
        self.back: tuple[int, int] | None = None
        """Steps between two checkpoints and steps that a guard may go back: what that takes stays, too."""
        self._pending: Future[Any] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], lasting: Callable[[], object]) -> None:
        """Begin to write a checkpoint, when the one before is written.

        Args:
            tensors: by name, the same names on every rank; copied before this returns.
            facts: `FACTS` but `id`, and `LATER`; plain data; rank 0's are written.
            lasting: called on rank 0 before the checkpoint counts: what it must not speak of without it being on disk.

        Raises:
            OSError: the checkpoint before could not be written.
        """
        self.wait()
        facts = {"id": self.run_id, **facts}
        assert facts.keys() == FACTS | LATER, facts.keys() ^ FACTS
        target = self.folder / f"{PREFIX}{facts['step']:010d}"

        def last() -> Mapping[str, Any]:
            lasting()
            return facts

        if self.world.size == 1:
            copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
            self._pending = self._thread.submit(write_alone, target, copies, last)
        else:
            from rlrs.training.planned import save_planned

            self._pending = save_planned(target, tensors, last, self.world)
        self.saved_step = facts["step"]

    def wait(self) -> None:
        """Return when no save is under way.

        Raises:
            OSError: the last one could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
        if self.world.rank == 0:
            removed = self.folder / ".removed"
            shutil.rmtree(removed, ignore_errors=True)
            for old in self._there()[: -self.keep]:
                if self._needed(old):
                    continue
                # By another name first: a process that is killed half-way leaves no half of a checkpoint.
                os.replace(old, removed)
                shutil.rmtree(removed, ignore_errors=True)

    def _needed(self, folder: Path) -> bool:
        """Whether a guard may still go back to it: to regular ones alone, which a resumed run has too."""
        if self.back is None:
            return False
        every, steps = self.back
        newest = _step(self._there()[-1])
        return _step(folder) % every == 0 and _step(folder) >= max(0, newest - steps) // every * every

    def go_back(self, step: int) -> tuple[Path, dict[str, Any]] | None:
        """The newest regular checkpoint of at most this step, as `latest` gives it; later ones are removed.

        None if there is none. A kill in the middle leaves checkpoints from which the run comes to the same place.
        """
        self.wait()
        assert self.back is not None
        every = self.back[0]
        found = self.world.from_first(lambda: self._latest(lambda at: at <= step and at % every == 0))
        if found is not None:
            self.world.from_first(lambda: self._remove_after(_step(found[0])))
            self.saved_step = _step(found[0])
        return found

    def _remove_after(self, step: int) -> None:
        removed = self.folder / ".removed"
        for later in reversed(self._there()):
            if _step(later) > step:
                os.replace(later, removed)
                shutil.rmtree(removed, ignore_errors=True)

    def close(self) -> None:
        """End the thread; a save that is under way is not waited for if training has failed."""
        if self._thread is not None:
            self._thread.shutdown(wait=self._pending is not None)

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The last checkpoint that is whole, as its folder and its manifest; None if the run has none yet.

        One that is torn or foreign is named in a `CheckpointWarning`, and the one before it is taken.

        Raises:
            CheckpointError: there are checkpoints, but none that can be used, or they are of another run.
        """
        found = self.world.from_first(self._latest)
        assert found is None or isinstance(found[0], Path)
        return found

    def _latest(self, wanted: Callable[[int], bool] | None = None) -> tuple[Path, dict[str, Any]] | None:
        refused: list[tuple[Path, str]] = []
        for folder in (folder for folder in reversed(self._there()) if wanted is None or wanted(_step(folder))):
            try:
                manifest = read_manifest(folder)
                if not manifest.keys() >= FACTS:
                    raise ValueError("is not a checkpoint of this version of rlrs")
            except OSError as error:
                refused.append((folder, f"cannot be read: {error.strerror}"))
            except ValueError as error:
                refused.append((folder, str(error)))
            else:
                if manifest["id"] != self.run_id:
                    raise CheckpointError(
                        f"{folder}: belongs to another run ({manifest['id']}, not {self.run_id}); use another folder, "
                        f"or delete {self.folder} to start the run again"
                    )
                for other, reason in refused:
                    aside = _put_aside(other)
                    message = f"{other}: {reason}; kept as {aside.name}, going on from {folder.name}"
                    warnings.warn(message, CheckpointWarning, stacklevel=2)
                return folder, manifest
        if refused:
            raise CheckpointError("{}: {}".format(*refused[0]) + f"; delete {self.folder} to start the run again")
        return None

    def _there(self) -> list[Path]:
        """Folders of checkpoints, oldest first; those under a temporary name are none."""
        return sorted(self.folder.glob(f"{PREFIX}*"))

    def load(self, found: tuple[Path, dict[str, Any]], tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors from a checkpoint, each rank what it holds of them, whatever the ranks were that saved.

        Raises:
            CheckpointError: the checkpoint has other tensors, or of another shape.
        """
        folder, manifest = found
        stored = {name: list(tensor["shape"]) for name, tensor in manifest["tensors"].items()}
        here = {name: list(tensor.shape) for name, tensor in tensors.items()}
        if stored != here:
            name = min(name for name in {*stored, *here} if stored.get(name) != here.get(name))
            raise CheckpointError(
                f"{folder}: {name} has the shape {stored.get(name, 'of nothing')} there and "
                f"{here.get(name, 'of nothing')} here; delete {self.folder} to start the run again"
            )
        from rlrs.training.planned import load_planned  # slow to import, and most runs load nothing

        load_planned(folder, manifest, tensors, self.world)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix(PREFIX))


def _put_aside(folder: Path) -> Path:
    """Rename a checkpoint that was refused, so that it is not counted among those to keep."""
    aside = folder.with_name(f"refused-{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(folder, aside)
    return aside
