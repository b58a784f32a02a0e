"""Training of one run: from a spec to a result, resumable bit for bit."""

from rlrs.training.checkpoint import CheckpointError
from rlrs.training.evaluate import evaluate
from rlrs.training.spec import Pruning, RunResult, RunSpec
from rlrs.training.trainer import train

__all__ = ["CheckpointError", "Pruning", "RunResult", "RunSpec", "evaluate", "train"]
