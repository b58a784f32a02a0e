"""Where a number of the page comes from: file, line and place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


class Sources:
    """The places of a results.json.

    A place is written as `jq` takes it, without the first dot: `comparison.losses.rlrs.per_seed[0]`.

    Args:
        path: of the file.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.json"
        >>> _ = path.write_text(json.dumps({"a": {"b": [1, 2]}}, indent=1))
        >>> Sources(path)("a.b[1]")
        'results.json:5 a.b[1]'
    """

    def __init__(self, path: Path) -> None:
        self._file, text = path.name, path.read_text(encoding="utf-8")
        self._lines: dict[str, int] = {}
        plain = json.loads(text)
        if json.dumps(plain, indent=1) == text.rstrip("\n"):  # as we write it; schema 1 was written on one line
            _number(plain, "", 1, self._lines)

    def __call__(self, place: str) -> str:
        """File, line and place; without a line where the file has no lines, or not that place."""
        line = self._lines.get(place)
        return f"{self._file} {place}" if line is None else f"{self._file}:{line} {place}"


def _number(value: Any, place: str, line: int, found: dict[str, int]) -> int:
    """Note down the line of a value and of all within it; the line after it."""
    found[place] = line
    if not isinstance(value, dict | list) or not value:
        return line + 1
    line += 1
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        inner = f"{place}[{key}]" if isinstance(value, list) else f"{place}.{key}" if place else str(key)
        line = _number(part, inner, line, found)
    return line + 1


def look_up(plain: Any, place: str) -> Any:
    """What stands at a place.

    Raises:
        LookupError: nothing does.

    >>> look_up({"a": {"b": [1, 2]}}, "a.b[1]")
    2
    """
    for name, number in re.findall(r"([^.\[\]]+)|\[(\d+)\]", place):
        plain = plain[int(number)] if number else plain[name]
    return plain
