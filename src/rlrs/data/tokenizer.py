"""Byte-level byte-pair encoding (Sennrich et al., 2016, arXiv:1508.07909), by the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
"""Stands after every document. In a document's text these characters are ordinary ones."""

BATCH = 256
"""Documents encoded at once, on all cores. Chosen here, not studied."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` entries: end of text, the 256 bytes, and merges.

    It is smaller when the texts have no more pairs to merge. The same texts give the same vocabulary.

    Raises:
        ImportError: the extra `data` is not installed.
    """
    tokenizers = _library()
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Tokens of each text, end of text included, in order."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert end is not None, "train_tokenizer gives every vocabulary an end of text"
    tokenizer.encode_special_tokens = True  # what looks like the mark in a text is text
    for start in range(0, len(texts), BATCH):
        for encoding in tokenizer.encode_batch_fast(list(texts[start : start + BATCH])):
            yield [*encoding.ids, end]


def _library():
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise ImportError("preparing data needs the library tokenizers: pip install 'rlrs[data]'") from None
    return tokenizers
