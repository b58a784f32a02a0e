"""What the examples train: a small language model, and sequences in which a token all but decides the next one.

Lines of an example that end in `# +` are what relative learning rates add to the script or change in it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

VOCAB, WIDTH, LENGTH, BATCH = 64, 32, 16, 8


class Toy(nn.Module):
    """Embedding, one causal Transformer block, unembedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.block = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        """Logits of the next token, (B, T, V)."""
        mask_TT = nn.Transformer.generate_square_subsequent_mask(tokens_BT.shape[1])
        return self.head(self.block(self.embedding(tokens_BT), src_mask=mask_TT, is_causal=True))


def next_token_loss(logits_BTV: torch.Tensor, tokens_BT: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy, in nats per token."""
    return nn.functional.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten())


def sequences(count: int, seed: int = 0) -> torch.Tensor:
    """Tokens, int64, of shape (count, LENGTH): each is 5 times the one before plus 0 or 1, modulo the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    noise_NT = torch.randint(2, (count, LENGTH), generator=generator)
    tokens_NT = torch.randint(VOCAB, (count, LENGTH), generator=generator)
    for t in range(1, LENGTH):
        tokens_NT[:, t] = (5 * tokens_NT[:, t - 1] + noise_NT[:, t]) % VOCAB
    return tokens_NT


def batch(step: int, rank: int = 0, ranks: int = 1) -> torch.Tensor:
    """This rank's share of the batch of a step; all shares together are the same batch on any number of ranks."""
    return sequences(BATCH, seed=step)[rank::ranks]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What every example is called with; it saves a checkpoint after `middle` steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--folder", type=Path, default=Path("runs/example"), help="for checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in the folder")
    parser.add_argument("--record", type=Path, help="file of JSON lines, one per step, with the rate of every group")
    args = parser.parse_args(argv)
    args.middle = args.steps // 2
    args.folder.mkdir(parents=True, exist_ok=True)
    return args


def record(file: Path | None, step: int, loss: float, optimizer: torch.optim.Optimizer, rank: int = 0) -> None:
    """One line per step and rank, written before the scheduler goes on: the rates are those that the step used."""
    write(file, step, loss, {group["name"]: float(group["lr"]) for group in optimizer.param_groups}, rank)


def write(file: Path | None, step: int, loss: float, rates: dict[str, float], rank: int = 0) -> None:
    """Append a line to the rank's file, or print it."""
    if file is not None:
        with Path(f"{file}.{rank}").open("a") as lines:
            lines.write(json.dumps({"step": step, "loss": loss, "rates": rates}) + "\n")
    elif rank == 0:
        print(f"step {step}: loss {loss:.3f}, rates " + ", ".join(f"{name} {rate:.2e}" for name, rate in rates.items()))
