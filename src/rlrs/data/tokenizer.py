"""Text to token numbers, by the `tokenizers` library: a vocabulary learnt here, bytes, or a tokenizer from a file.

Byte-level byte-pair encoding is that of Sennrich et al., 2016 (arXiv:1508.07909).
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlrs.data.unpacking import first_line
from rlrs.extras import install
from rlrs.models.hub_weights import fetched, is_hub_name
from rlrs.settings import ConfigError, DataConfig

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Stands after every document. In a document's text these characters are ordinary ones."""

BPE = "bpe"
BYTES = "bytes"
BYTES_SIZE = 257
"""Entries of the vocabulary `bytes`: byte b is token b, the end of text is 256."""

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
)
"""Files of a folder that decide what its tokenizer does."""


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and its end-of-text mark.

    Args:
        tokenizer: of the `tokenizers` library.
        end: number of the token after every document.
        plain_bytes: tokens are the bytes of the text, for which no library is needed.
    """

    tokenizer: Tokenizer
    end: int
    plain_bytes: bool = False

    @property
    def size(self) -> int:
        """Entries of the vocabulary: one more than the largest token number."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def stored(self) -> int:
        """Numbers that may stand on disk."""
        return self.size

    def ending(self) -> NDArray[Any]:
        """What stands after a document, [1]."""
        return np.array([self.end], dtype=np.uint32)

    def encode(self, texts: Sequence[str]) -> list[NDArray[Any]]:
        """Tokens of each text, in order, without an end; on all cores. What looks like a mark in a text is text."""
        if self.plain_bytes:
            return [np.frombuffer(text.encode(), dtype=np.uint8) for text in texts]
        self.tokenizer.encode_special_tokens = True
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        # By way of `array`: twice as fast from a list as numpy itself.
        return [np.frombuffer(array("I", encoding.ids), dtype=np.uint32) for encoding in encodings]


def learn(texts: Iterable[str], vocab_size: int) -> Encoder:
    """Learn a vocabulary of at most `vocab_size` entries: end of text, the 256 bytes, and merges.

    It is smaller when the texts have no more pairs to merge. The same texts give the same vocabulary.

    Raises:
        ImportError: the extra `data` is not installed.
    """
    tokenizers = _library()
    tokenizer = _byte_level({})
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return make_encoder(tokenizer)


def of_bytes() -> Encoder:
    """Byte b is token b; nothing is learnt."""
    alphabet = {letter: byte for byte, letter in enumerate(_letters())}
    tokenizer = _byte_level({**alphabet, END_OF_TEXT: 256})
    tokenizer.add_special_tokens([END_OF_TEXT])
    return Encoder(tokenizer, 256, plain_bytes=True)


def make_encoder(tokenizer: Tokenizer, end: int | None = None) -> Encoder:
    """A tokenizer with its end-of-text mark: a number, or ours."""
    if end is None:
        end = tokenizer.token_to_id(END_OF_TEXT)
        assert end is not None, "every vocabulary that is learnt here has an end of text"
    return Encoder(tokenizer, end)


def from_path(path: str, end_token: str | None) -> Encoder:
    """A tokenizer from a tokenizer.json, or from a folder with one or with a transformers tokenizer.

    Padding and truncation are switched off; nothing is added at the beginning or the end of a text but the mark.

    Raises:
        ConfigError: there is none, it cannot be read, or it does not say what ends a text.
        ImportError: the folder has no tokenizer.json and the extra `transformers` is not installed.
    """
    place = _place(path)
    file = place / "tokenizer.json" if place.is_dir() else place
    tokenizer = _from_file(path, file) if file.is_file() else _from_transformers(path, place)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end = end_token or _end_token(file.parent)
    number = tokenizer.token_to_id(END_OF_TEXT if end is None else end)
    if number is None:
        marks = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        problem = "it does not say which token ends a text" if end is None else f"it has no token {end!r}"
        raise ConfigError(
            f"data.tokenizer={path!r}: {problem}; name one with data.end_token"
            + (f", such as {', '.join(marks[:8])}" if marks else "")
        )
    return Encoder(tokenizer, number)


def identity(config: DataConfig) -> list[Any]:
    """What decides the tokenizer, as plain data; the files of one that is given by path are hashed.

    Raises:
        ConfigError: there is nothing at the path.
    """
    if config.tokenizer == BPE:
        return [BPE, config.vocab_size, config.vocab_sample]
    if config.tokenizer == BYTES:
        return [BYTES]
    place, folder = _place(config.tokenizer), tokenizer_folder(config.tokenizer)
    files = {folder / name for name in TOKENIZER_FILES} | {place}
    digests = [[file.name, hashlib.sha256(file.read_bytes()).hexdigest()] for file in sorted(files) if file.is_file()]
    return ["path", digests, config.end_token]


def vocabulary_size(config: DataConfig) -> int:
    """Entries of the vocabulary before any text is read; a `bpe` vocabulary may turn out smaller on little text.

    Raises:
        ConfigError, ImportError: see `from_path`.

    >>> vocabulary_size(DataConfig(tokenizer="bytes")), vocabulary_size(DataConfig(vocab_size=512))
    (257, 512)
    """
    if config.tokenizer == BPE:
        return config.vocab_size
    return BYTES_SIZE if config.tokenizer == BYTES else from_path(config.tokenizer, config.end_token).size


def tokenizer_folder(path: str) -> Path:
    """The folder of a tokenizer that is given by path.

    Raises:
        ConfigError: there is nothing at the path.
    """
    place = _place(path)
    return place if place.is_dir() else place.parent


def _place(path: str) -> Path:
    if is_hub_name(path):
        return fetched(path)
    place = Path(path).expanduser()
    if not place.exists():
        raise ConfigError(
            f"data.tokenizer={path!r} should be 'bpe', 'bytes', or a tokenizer.json or a folder with one; "
            f"there is nothing of that name, looked for from {Path.cwd()}"
        )
    return place


def _from_file(path: str, file: Path) -> Tokenizer:
    try:
        return _library().Tokenizer.from_str(file.read_text(encoding="utf-8-sig"))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"data.tokenizer={path!r}: not a tokenizer.json: {first_line(error)}") from None


def _from_transformers(path: str, folder: Path) -> Tokenizer:
    try:
        import transformers
    except ImportError:
        raise ImportError(f"{folder}: has no tokenizer.json; others need: {install('transformers')}") from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return _library().Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    except Exception as error:  # of many kinds, by what is missing
        raise ConfigError(f"data.tokenizer={path!r}: no tokenizer in it: {first_line(error)}") from None


def _end_token(folder: Path) -> str | None:
    """What a transformers folder says ends a text."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        try:
            token = json.loads((folder / name).read_text(encoding="utf-8-sig")).get("eos_token")
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            return token
    return None


def _byte_level(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizers = _library()
    model = tokenizers.models.BPE(vocab=vocabulary, merges=[]) if vocabulary else tokenizers.models.BPE()
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _letters() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


def _library():
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise ImportError(f"preparing data needs the library tokenizers: {install('data')}") from None
    return tokenizers
