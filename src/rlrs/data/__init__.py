"""Text to tokens: any amount of text, a tokenizer, and batches in a reproducible order (docs/data.md)."""

from rlrs.data.prepare import prepare
from rlrs.data.tokenizer import vocabulary_size
from rlrs.data.tokens import TokenData

__all__ = ["TokenData", "prepare", "vocabulary_size"]
