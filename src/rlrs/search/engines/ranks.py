"""Several processes that train one run together, as `torchrun` would start them: a worker, rank 0, leads the others.

The leader starts the other ranks on its own machine with `torchrun`'s variables and sends them every run; all of them
call `rlrs.training.train`. A rank that dies breaks the leader's collectives, so the attempt is lost and tried again
as any other; ranks whose leader is gone end.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlrs.data import TokenData
from rlrs.records import RunResult
from rlrs.training import World, train, world

FOLLOW = "import sys; from rlrs.search.engines.ranks import follow; follow(sys.argv[1])"


class Ranks:
    """The ranks of a worker's runs; use as a context manager, inside which every run is theirs.

    Args:
        size: how many, this process among them; 1 starts none.
        data_folder: what `rlrs.data.prepare` wrote.
    """

    def __init__(self, size: int, data_folder: Path) -> None:
        self._size, self._data_folder = size, data_folder
        self._others: list[subprocess.Popen[bytes]] = []
        self._stack = contextlib.ExitStack()
        self._world: World | None = None
        self._before: dict[str, str | None] = {}

    def __enter__(self) -> Self:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(self._size)}
        for rank in range(1, self._size):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-c", FOLLOW, str(self._data_folder)]
            self._others.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=environment))
        mine = {**shared, "RANK": "0", "LOCAL_RANK": "0"}
        self._before = {name: os.environ.get(name) for name in mine}
        os.environ.update(mine)
        self._world = self._stack.enter_context(world())  # waits for the others
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for other in self._others:
            other.kill()
            other.wait()
        with contextlib.suppress(RuntimeError):  # a group whose other ranks are gone
            self._stack.close()
        for name, value in self._before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        self._others, self._world = [], None

    def train(self, *arguments: Any, **options: Any) -> RunResult:
        """`rlrs.training.train` on all ranks; `progress` is told on this one.

        Raises:
            RuntimeError: another rank is gone; besides what training raises. The ranks are of no use after either.
        """
        spec, data, folder = arguments
        job = pickle.dumps((spec, folder, {name: what for name, what in options.items() if name != "progress"}))
        for rank, other in enumerate(self._others, start=1):
            assert other.stdin is not None
            try:
                other.stdin.write(len(job).to_bytes(8, "big") + job)
                other.stdin.flush()
            except OSError:
                raise RuntimeError(f"rank {rank} of the worker is gone") from None
        return train(spec, data, folder, **options, world=self._world)


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def follow(data_folder: str) -> None:
    """The life of a rank other than the first: train what the leader sends, until it is gone; does not return."""
    import torch

    # What goes wrong here goes wrong for the leader too, which says it; or it is gone.
    with contextlib.suppress(Exception):
        torch.set_num_threads(1)
        data = TokenData.load(data_folder)
        with world() as ranks:
            while len(size := sys.stdin.buffer.read(8)) == 8:
                spec, folder, options = pickle.loads(sys.stdin.buffer.read(int.from_bytes(size, "big")))
                train(spec, data, folder, **options, world=ranks)
    os._exit(0)  # a group that lost its leader may hang while it is taken down
