"""Text to tokens: a corpus, a byte-pair vocabulary learnt from it, and batches in a reproducible order."""

from rlrs.data.tokens import TokenData, prepare

__all__ = ["TokenData", "prepare"]
