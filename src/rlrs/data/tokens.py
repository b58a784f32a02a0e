"""Tokens on disk, mapped into memory, and batches of them in an order that only seed, step and rank decide.

Shape suffixes: B sequences, T tokens per sequence, W windows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlrs.config import ConfigError, DataConfig
from rlrs.data.corpus import Corpus, Document, read_corpus
from rlrs.data.order import window_order
from rlrs.data.tokenizer import encode, train_tokenizer
from rlrs.files import open_atomic, write_atomic

FORMAT = 1
"""Version of the files that this code writes; others are made anew."""

FILES = ("tokenizer.json", "train.bin", "valid.bin")


class TokenData:
    """Training and validation tokens, cut into windows of `sequence_length` inputs and the token after each.

    Windows do not overlap in their inputs; the rest of a stream that fills no window is not used.

    Args:
        train: tokens to train on, end of text after each document.
        valid: tokens to validate on.
        sequence_length: tokens T per sequence.
        vocab_size: entries of the vocabulary.
        hash: of tokenizer, tokens and sequence length.
        summary: source, files, bytes and so on, as in data.json.

    Raises:
        ConfigError: too few tokens for one sequence.
    """

    def __init__(
        self,
        *,
        train: NDArray[Any],
        valid: NDArray[Any],
        sequence_length: int,
        vocab_size: int,
        hash: str,
        summary: dict[str, Any] | None = None,
    ) -> None:
        # Plain arrays over the mapped file: numpy's memmap class costs more per indexing than the copy itself.
        self._train, self._valid = np.asarray(train), np.asarray(valid)
        self.sequence_length = sequence_length
        self.vocab_size = vocab_size
        self.hash = hash
        self.summary = dict(summary or {})
        self._offsets = np.arange(sequence_length + 1)
        for name, tokens in (("training", self._train), ("validation", self._valid)):
            if self._windows(tokens) < 1:
                raise ConfigError(
                    f"{len(tokens)} {name} tokens are too few for one sequence of "
                    f"data.sequence_length={sequence_length}; use more text or shorter sequences"
                )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open what `prepare` has written, without reading the text again.

        Raises:
            ConfigError: the folder holds no prepared data, or a file of it is damaged.
        """
        folder = Path(folder)
        facts = _read_facts(folder)
        if facts is None:
            raise ConfigError(f"{folder}: no whole prepared data; prepare it (again) with rlrs.data.prepare")
        train, valid = (np.memmap(folder / name, dtype=facts["dtype"], mode="r") for name in ("train.bin", "valid.bin"))
        return cls(
            train=train,
            valid=valid,
            sequence_length=facts["settings"]["sequence_length"],
            vocab_size=facts["summary"]["vocab_size"],
            hash=facts["summary"]["hash"],
            summary=facts["summary"],
        )

    @property
    def train_tokens(self) -> int:
        """Tokens of the training split."""
        return len(self._train)

    @property
    def valid_tokens(self) -> int:
        """Tokens of the validation split."""
        return len(self._valid)

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
        return self._gather(self._train, window_order(self._windows(self._train), seed, first, share))

    def valid_batches(self, batch_size: int, tokens: int) -> list[tuple[Tensor, Tensor]]:
        """A fixed sample of the validation split: whole batches of windows spread evenly over it.

        Args:
            batch_size: sequences per batch.
            tokens: size of the sample, rounded down to whole batches; all of the split if it has fewer.

        Raises:
            ConfigError: less than one batch.
        """
        windows = self._windows(self._valid)
        per_batch = batch_size * self.sequence_length
        batches = min(tokens // per_batch, windows // batch_size)
        if batches < 1:
            raise ConfigError(
                f"one validation batch of {batch_size} x {self.sequence_length} = {per_batch} tokens does not fit "
                f"into training.eval_tokens={tokens} or the {len(self._valid)} tokens of the validation split; "
                "use smaller batches, more eval_tokens, more text or a larger data.valid_fraction"
            )
        sample_W = np.linspace(0, windows - 1, batches * batch_size).round().astype(np.int64)
        return [self._gather(self._valid, chosen_B) for chosen_B in np.split(sample_W, batches)]

    def _windows(self, tokens: NDArray[Any]) -> int:
        return (len(tokens) - 1) // self.sequence_length

    def _gather(self, tokens: NDArray[Any], window_B: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        positions = window_B[:, None] * self.sequence_length + self._offsets
        rows = torch.from_numpy(tokens[positions].astype(np.int64))
        return rows[:, :-1], rows[:, 1:]


def prepare(config: DataConfig, folder: str | Path) -> TokenData:
    """Read, split, tokenize and write a corpus; or take what the folder already holds, if it is just that.

    Writes tokenizer.json, train.bin, valid.bin and, when these are whole, data.json. They are used again only if the
    settings, the text and every file are as data.json says; otherwise they are made anew. The vocabulary is learnt
    from the training split alone.

    Raises:
        ConfigError: see `rlrs.data.corpus.read_corpus`; or too little text for one sequence.
        ImportError: the extra `data` is not installed.
    """
    folder = Path(folder)
    corpus = read_corpus(config)
    settings = {
        "text": corpus.hash,
        "vocab_size": config.vocab_size,
        "sequence_length": config.sequence_length,
    }
    facts = _read_facts(folder)
    if facts is None or facts["settings"] != settings or facts["sha256"] != _digests(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "data.json").unlink(missing_ok=True)  # it must never describe files of other settings
        _build(config, corpus, settings, folder)
    elif facts["summary"]["source"] != _plain(config.source):  # the same text by another name
        facts["summary"]["source"] = _plain(config.source)
        _write_facts(folder, facts)
    return TokenData.load(folder)


def _build(config: DataConfig, corpus: Corpus, settings: dict[str, Any], folder: Path) -> None:
    tokenizer = train_tokenizer((document.text for document in corpus.train), config.vocab_size)
    write_atomic(folder / "tokenizer.json", tokenizer.to_str())
    dtype = np.dtype("<u2" if tokenizer.get_vocab_size() <= 2**16 else "<u4")
    train_tokens, valid_tokens = (
        _write_tokens(folder / name, encode(tokenizer, _texts(documents)), dtype)
        for name, documents in (("train.bin", corpus.train), ("valid.bin", corpus.valid))
    )
    digests = _digests(folder)
    identity = json.dumps([FORMAT, digests, config.sequence_length], sort_keys=True)
    summary = {
        "source": _plain(config.source),
        "files": corpus.files,
        "bytes": corpus.bytes,
        "hash": hashlib.sha256(identity.encode()).hexdigest()[:12],
        "vocab_size": tokenizer.get_vocab_size(),
        "train_tokens": train_tokens,
        "valid_tokens": valid_tokens,
        "bytes_per_token": corpus.bytes / (train_tokens + valid_tokens),
    }
    sizes = {name: (folder / name).stat().st_size for name in FILES}
    _write_facts(
        folder,
        {
            "format": FORMAT,
            "settings": settings,
            "summary": summary,
            "dtype": dtype.str,
            "sizes": sizes,
            "sha256": digests,
        },
    )


def _write_tokens(path: Path, texts: Iterable[list[int]], dtype: np.dtype[Any]) -> int:
    """Write token lists one after another; returns how many tokens."""
    count = 0
    with open_atomic(path) as file:
        for tokens in texts:
            file.write(np.array(tokens, dtype=dtype).tobytes())
            count += len(tokens)
    return count


def _write_facts(folder: Path, facts: dict[str, Any]) -> None:
    write_atomic(folder / "data.json", json.dumps(facts, indent=1) + "\n")


def _read_facts(folder: Path) -> dict[str, Any] | None:
    """What data.json says; None if it is not there, not readable, or the files do not have the sizes it says."""
    try:
        facts = json.loads((folder / "data.json").read_text(encoding="utf-8"))
        whole = facts["format"] == FORMAT and all(
            (folder / name).stat().st_size == facts["sizes"][name] for name in FILES
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts if whole else None


def _digests(folder: Path) -> dict[str, str]:
    digests = {}
    for name in FILES:
        with open(folder / name, "rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.text for document in documents]


def _plain(source: str | Sequence[str]) -> str | list[str]:
    return source if isinstance(source, str) else list(source)
