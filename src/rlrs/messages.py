"""What a user gave, as a message repeats it: on one line, not too long, and with nothing that a terminal acts on."""

from __future__ import annotations

import os
from collections.abc import Mapping
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


_KINDS = {
    **dict.fromkeys(("model_type", "dict_type", "mapping_type", "model_attributes_type"), "a mapping"),
    **dict.fromkeys(("tuple_type", "list_type"), "a list"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a finite number",
    "string_type": "text",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def should_be(problem: Mapping[str, Any]) -> str | None:
    """What a value should be, and what it is, from an entry of pydantic's `ValidationError.errors()`.

    Returns:
        None if pydantic's own sentence is needed.

    >>> should_be({"type": "greater_than_equal", "input": 0, "ctx": {"ge": 1}})
    'should be at least 1, not 0'
    """
    context = problem.get("ctx") or {}
    bounds = [f"{words} {_bound(context[name])}" for name, words in _BOUNDS.items() if name in context]
    if problem["type"] == "literal_error":
        bounds = [context["expected"]]
    wanted = _KINDS.get(problem["type"]) or next(iter(bounds), None)
    return None if wanted is None else f"should be {wanted}, not {shown(problem['input'])}"


def _bound(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1 and float(value).is_integer() else f"{value:g}"


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
