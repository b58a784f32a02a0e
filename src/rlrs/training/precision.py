"""Which dtype of matrix products trains a model faster on this machine."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from rlrs.models import build_model
from rlrs.settings import HubConfig, ModelConfig

ROUNDS, STEPS = 5, 2
MARGIN = 0.95
"""bfloat16 is chosen below this share of float32's time: for less, its rounding buys nothing. Chosen here."""


def faster_dtype(
    model: ModelConfig | HubConfig, vocab_size: int, batch_size: int, sequence_length: int
) -> dict[str, Any]:
    """Time forward and backward passes in both dtypes, in turn.

    Timing varies, so this is asked once for all runs that are to be compared, and the answer is kept.

    Args:
        model: settings of the model.
        vocab_size: entries of the vocabulary.
        batch_size: sequences of one pass.
        sequence_length: tokens per sequence.

    Returns:
        `dtype`, the one to use; `ratios`, times of bfloat16 over float32, round by round.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        network = build_model(model, vocab_size).to(device)
        tokens_BT = torch.randint(vocab_size, (batch_size, sequence_length + 1), device=device)

    def seconds(bfloat16: bool) -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            network.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
                output = network(tokens_BT[:, :-1], tokens_BT[:, 1:])
            output.objective.backward()
            output.objective.item()
        return time.perf_counter() - start

    for bfloat16 in (False, True):  # first passes allocate
        seconds(bfloat16)
    ratios = [seconds(True) / seconds(False) for _ in range(ROUNDS)]
    dtype = "bfloat16" if statistics.median(ratios) < MARGIN else "float32"
    return {"dtype": dtype, "ratios": ratios}
