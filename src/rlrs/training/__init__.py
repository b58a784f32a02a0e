"""Training of one run: from a spec to a result, resumable bit for bit, on one process or many."""

from rlrs.training.checkpoint import CheckpointError, CheckpointWarning
from rlrs.training.distributed import World, world
from rlrs.training.evaluate import evaluate
from rlrs.training.precision import faster_dtype
from rlrs.training.spec import RunSpec
from rlrs.training.stopping import EXIT_CODE, StopFlag, Stopped, stop_on_signals
from rlrs.training.trainer import train

__all__ = [
    "EXIT_CODE",
    "CheckpointError",
    "CheckpointWarning",
    "RunSpec",
    "StopFlag",
    "Stopped",
    "World",
    "evaluate",
    "faster_dtype",
    "stop_on_signals",
    "train",
    "world",
]
