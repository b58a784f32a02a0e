"""Tokens on disk, mapped into memory, and batches of them in an order that only seed, step and rank decide.

Shape suffixes: B sequences, T tokens per sequence, W windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlrs.data.facts import FILE, GENERAL, read_facts
from rlrs.data.order import window_order
from rlrs.data.shards import digests, identity, open_shards
from rlrs.data.stock import Notes
from rlrs.models.loss import IGNORED
from rlrs.records import RecordError
from rlrs.settings import ConfigError


class TokenData:
    """Training and validation tokens, cut into windows of `sequence_length` inputs and the token after each.

    Windows do not overlap in their inputs; the rest of a stream that fills no window is not used.

    Args:
        train: tokens to train on, end of text after each document; or their shards, all but the last of one length.
        valid: tokens to validate on; or their shards.
        sequence_length: tokens T per sequence.
        vocab_size: entries of the vocabulary.
        hash: of tokenizer, tokens and sequence length.
        summary: source, files, bytes and so on, as in data.json.
        general: text whose loss fine-tuning should leave about as it was; None if that is not watched.
        masked: tokens that are only context, and not learnt, have `vocab_size` added to their number; as targets they
            are -100.

    Raises:
        ConfigError: too few tokens for one sequence.

    >>> import numpy as np
    >>> tokens = np.arange(100) % 7
    >>> data = TokenData(train=tokens, valid=tokens, sequence_length=8, vocab_size=7, hash="seven")
    >>> inputs_BT, targets_BT = data.batch(seed=0, step=0, batch_size=2)
    >>> inputs_BT.shape, bool((targets_BT[:, :-1] == inputs_BT[:, 1:]).all())
    (torch.Size([2, 8]), True)
    """

    def __init__(
        self,
        *,
        train: NDArray[Any] | Sequence[NDArray[Any]],
        valid: NDArray[Any] | Sequence[NDArray[Any]],
        sequence_length: int,
        vocab_size: int,
        hash: str,
        summary: dict[str, Any] | None = None,
        general: TokenData | None = None,
        masked: bool = False,
    ) -> None:
        self._train, self._valid = _shards(train), _shards(valid)
        self.sequence_length = sequence_length
        self.vocab_size = vocab_size
        self.hash = hash
        self.summary = dict(summary or {})
        self.general, self.masked = general, masked
        if general is not None:
            # A run measures on both: with another general text it is another run.
            self.hash = hashlib.sha256(f"{hash} {general.hash}".encode()).hexdigest()[:12]
            known = {"source": general.summary.get("source"), "hash": general.hash, "tokens": general.valid_tokens}
            self.summary |= {"hash": self.hash, **{f"general_{name}": value for name, value in known.items()}}
        for name, tokens in (("training", self.train_tokens), ("validation", self.valid_tokens)):
            if self._windows(tokens) < 1:
                raise ConfigError(
                    f"{tokens} {name} tokens are too few for one sequence of data.sequence_length={sequence_length}; "
                    "use more text, shorter sequences or another data.valid_fraction"
                )

    @classmethod
    def load(cls, folder: str | Path, *, check: bool = False) -> Self:
        """Open what `prepare` has written, without reading the text again.

        Args:
            folder: with a data.json.
            check: read every file and compare its hash with what data.json says, where others may write.

        Raises:
            ConfigError: the folder holds no prepared data, or a file of it is damaged.
        """
        folder = Path(folder)
        try:
            facts = read_facts(folder)
        except RecordError as error:
            raise ConfigError(str(error)) from None
        name = None if facts is None else facts.summary.hash
        if facts is None or facts.sequence_length is None or name is None:
            raise ConfigError(f"{folder}: no whole prepared data; prepare it (again) with rlrs.data.prepare")
        place, summary = facts.place(folder), facts.summary
        general = cls.load(folder / GENERAL, check=check) if (folder / GENERAL / FILE).exists() else None
        if check:
            found = digests(place, facts.sha256, Notes())
            bad = [file for file, digest in found.items() if digest != facts.sha256[file]]
            if bad or identity(found, facts.sequence_length) != name:
                what = place / bad[0] if bad else folder / FILE
                raise ConfigError(f"{what}: is not what was prepared: its hash is another")
        return cls(
            train=open_shards(place, "train", summary.train_tokens, facts.shard_tokens, facts.dtype),
            valid=open_shards(place, "valid", summary.valid_tokens, facts.shard_tokens, facts.dtype),
            sequence_length=facts.sequence_length,
            vocab_size=summary.vocab_size,
            hash=name,
            summary=summary.to_plain(),
            general=general,
            masked=facts.settings.get("format") == "chat",
        )

    @property
    def train_tokens(self) -> int:
        """Tokens of the training split."""
        return sum(map(len, self._train))

    @property
    def valid_tokens(self) -> int:
        """Tokens of the validation split."""
        return sum(map(len, self._valid))

    def batch(self, seed: int, step: int, batch_size: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Inputs and targets [B / world, T], int64, of one training step on one of `world` processes.

        A pure function of its arguments: all windows come once per epoch, each epoch in another random order, and
        an epoch may end within a batch. The batches of ranks 0, 1, ... one after another are the batch of one process,
        so the data do not depend on how many processes share the step. It costs the same at every step.

        Args:
            seed: of the order, 0 or more.
            step: steps before this one.
            batch_size: sequences B of the step, on all processes together; a multiple of `world`.
            rank: which process, from 0.
            world: how many processes.

        Raises:
            ValueError: `batch_size` is no multiple of `world`, or there is no such rank.
        """
        if not 0 <= rank < world:
            raise ValueError(f"{rank=} should be from 0 to {world - 1}: there are {world} processes")
        if batch_size % world:
            raise ValueError(f"{batch_size=} sequences cannot be shared evenly by {world} processes")
        share = batch_size // world
        first = step * batch_size + rank * share
        return self._gather(self._train, window_order(self._windows(self.train_tokens), seed, first, share))

    def valid_batches(self, batch_size: int, tokens: int) -> list[tuple[Tensor, Tensor]]:
        """A fixed sample of the validation split: whole batches of windows spread evenly over it.

        Args:
            batch_size: sequences per batch.
            tokens: size of the sample, rounded down to whole batches; all of the split if it has fewer.

        Raises:
            ConfigError: less than one batch.
        """
        windows = self._windows(self.valid_tokens)
        per_batch = batch_size * self.sequence_length
        batches = min(tokens // per_batch, windows // batch_size)
        if batches < 1:
            raise ConfigError(
                f"one validation batch of {batch_size} x {self.sequence_length} = {per_batch} tokens does not fit "
                f"into training.eval_tokens={tokens} or the {self.valid_tokens} tokens of the validation split; "
                "use smaller batches, more eval_tokens, more text or a larger data.valid_fraction"
            )
        sample_W = np.linspace(0, windows - 1, batches * batch_size).round().astype(np.int64)
        return [self._gather(self._valid, chosen_B) for chosen_B in np.split(sample_W, batches)]

    def _windows(self, tokens: int) -> int:
        return max(tokens - 1, 0) // self.sequence_length

    def _gather(self, shards: Sequence[NDArray[Any]], window_B: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        length = self.sequence_length
        rows_BT = np.empty((len(window_B), length + 1), dtype=np.int64)
        size = len(shards[0])
        for row_T, start in zip(rows_BT, (window_B * length).tolist(), strict=True):
            shard, first = divmod(start, size)
            here = shards[shard][first : first + length + 1]
            row_T[: len(here)] = here
            while len(here) < len(row_T):  # the window goes on in the next shard
                shard, row_T = shard + 1, row_T[len(here) :]
                here = shards[shard][: len(row_T)]
                row_T[: len(here)] = here
        rows = torch.from_numpy(rows_BT)
        if not self.masked:
            return rows[:, :-1], rows[:, 1:]
        return rows[:, :-1] % self.vocab_size, rows[:, 1:].masked_fill(rows[:, 1:] >= self.vocab_size, IGNORED)


def _shards(tokens: NDArray[Any] | Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Plain arrays over the mapped files: numpy's memmap class costs more per indexing than the copy itself."""
    return [np.asarray(shard) for shard in ([tokens] if isinstance(tokens, np.ndarray) else tokens)]
