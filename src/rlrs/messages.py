"""What a user gave, as a message repeats it: on one line, not too long, and with nothing that a terminal acts on."""

from __future__ import annotations

import os
from typing import Any

LENGTH = 80
"""Characters of a value that a message repeats at most. Chosen here, not studied."""


def shown(value: Any, length: int = LENGTH) -> str:
    r"""A value in quotes where it is text, as `repr` writes it; a long one without its middle.

    `repr` escapes control characters, direction marks, line ends and halves of characters. Only as much of a long text
    or collection is formatted as is shown.

    >>> shown("a\tb"), shown(0.5)
    ("'a\\tb'", '0.5')
    >>> shown("x" * 100_000, 20)
    "'xxxxxxx'... (100,000 characters)"
    """
    if isinstance(value, str) and len(value) > length:
        return f"{value[: max(1, length // 2 - 3)]!r}... ({len(value):,} characters)"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 4 * length:
        return f"a whole number of {value.bit_length():,} bits"  # Python refuses to write out the longest ones
    if isinstance(value, list | tuple | set | dict) and len(value) > length:
        return f"a {type(value).__name__} of {len(value):,}"
    return shortened(repr(value), length)


def shortened(text: str, length: int) -> str:
    """Text without its middle where it is longer than `length`: both ends say more than one."""
    if len(text) <= length:
        return text
    kept = max(2, length - 5)
    return f"{text[: kept - kept // 3]} ... {text[-(kept // 3) :]}"


def printable(text: str | os.PathLike[str], length: int | None = None) -> str:
    r"""Text as it stands, but for what a terminal would act on or cannot write: that is escaped as `repr` does.

    For paths and names that stand in a message without quotes, and for whole messages. Bytes of a path that are not
    UTF-8 are shown as `\xe9`.

    >>> printable("a\nb \u202e c"), printable("モデル")
    ('a\\nb \\u202e c', 'モデル')
    """
    text = os.fspath(text)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escaped(c) for c in text)
    return text if length is None else shortened(text, length)


def plural(n: int, word: str) -> str:
    """A count with its noun.

    >>> plural(1, "run"), plural(1200, "run")
    ('1 run', '1,200 runs')
    """
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # what Python reads a byte as that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return repr(character)[1:-1]
