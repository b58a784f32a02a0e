"""The one reader and the one writer of YAML: YAML 1.2's core schema, no key twice, nothing without a limit.

PyYAML scans and composes; what a plain word means, and what a mapping may hold, is decided here:

| written | is |
| --- | --- |
| `true`, `True`, `TRUE`; `false` and so on | booleans; `yes`, `no`, `on`, `off` are text |
| `12`, `010`, `-3` | whole numbers to the base 10; `0o17` and `0x1F` to 8 and 16; `1:30`, `0b1` and `1_000` are text |
| `1e-3`, `.5`, `2.`, `.inf`, `.nan` | numbers |
| `null`, `~`, nothing | none |
| anything else (dates too) | text |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.scanner import Scanner

from rlrs.messages import printable, shown

# Chosen here, not studied: far beyond any file that a person or this library writes.
DEPTH = 40
"""Levels of lists and mappings."""
VALUES = 200_000
"""Values in a file, with aliases counted as often as they are used."""
DIGITS = 60
"""Characters of a number."""

_CORE = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_NULL = re.compile(r"null|Null|NULL|~|")
_PLAIN = ((_NULL, "null"), (_BOOL, "bool"), (_INT, "int"), (_FLOAT, "float"))


class YAMLError(ValueError):
    """A YAML file that cannot be used; one line: which, at what line, and what is wrong."""


class _Refused(yaml.MarkedYAMLError):
    """What YAML would allow, and this reader does not."""

    def __init__(self, problem: str, node: Any) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


def load_yaml(path: str | Path) -> Any:
    """What a YAML file holds: mappings, lists, text, numbers, booleans and None.

    Raises:
        YAMLError: the file cannot be read, is not UTF-8 or not YAML, has a key twice, or is beyond the limits above.
    """
    where = printable(str(path))
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise YAMLError(f"{where}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise YAMLError(f"{where}: cannot be read: not UTF-8 text (byte {error.start})") from None
    except ValueError:  # a NUL in the path
        raise YAMLError(f"{where}: cannot be read: no path") from None
    try:
        return parse_yaml(text)
    except YAMLError as error:
        raise YAMLError(f"{where}{error}") from None


def parse_yaml(text: str) -> Any:
    """What a text in YAML says; see `load_yaml`.

    Raises:
        YAMLError: as there; the message begins with the line, `, line N: ...`, for a file's name to go before it.
    """
    try:
        node = _Loader(text).get_single_node()
        return None if node is None else _Reader().value(node)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YAMLError(f", line {line}: not valid YAML: there is the character {chr(error.character)!r}") from None
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        what = "" if isinstance(error, _Refused) else "not valid YAML: "
        raise YAMLError(f"{line}: {what}{printable(str(problem or error), 300)}") from None
    except (ValueError, OverflowError):  # PyYAML makes a character of "\\UFFFFFFFF" without a look at the number
        raise YAMLError(": not valid YAML: an escape (\\U........) stands for no character") from None


def dump_yaml(data: Any, **options: Any) -> str:
    """Plain data as YAML, keys in their order. Text that YAML 1.1 or 1.2 would read as something else is quoted.

    Args:
        data: mappings, lists, text, numbers, booleans and None.
        options: of `yaml.dump`, such as `width`.
    """
    return yaml.dump(data, Dumper=_Dumper, **{"sort_keys": False, "allow_unicode": True, **options})


class _Loader(Reader, Scanner, Parser, Composer):
    """PyYAML's composer, with a limit on depth; plain words have the tag None until `_Reader` reads them."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless it is too deep for any use: the composer would run out of stack."""
        self._depth += 1
        if self._depth > DEPTH:
            raise _Refused(f"more than {DEPTH} levels of lists and mappings", self.peek_event())
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def descend_resolver(self, *_: Any) -> None:
        """Nothing here depends on the way to a node."""

    def ascend_resolver(self) -> None:
        """See above."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """The tag of a node that has none of its own."""
        if kind is not yaml.ScalarNode:
            return _CORE + ("seq" if kind is yaml.SequenceNode else "map")
        if implicit[0]:
            return next((_CORE + name for pattern, name in _PLAIN if pattern.fullmatch(value)), _CORE + "str")
        return _CORE + "str"


class _Reader:
    """Makes plain data of nodes, each alias anew."""

    def __init__(self) -> None:
        self._left = VALUES
        self._open: list[yaml.Node] = []

    def value(self, node: yaml.Node) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _Refused(f"more than {VALUES:,} values, aliases counted as often as they are used", node)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if len(self._open) >= DEPTH:  # through aliases
            raise _Refused(f"more than {DEPTH} levels of lists and mappings", node)
        if any(node is above for above in self._open):
            raise _Refused("an alias within what it stands for", node)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == f"{_CORE}map":
                return self._mapping(node)
            if isinstance(node, yaml.SequenceNode) and node.tag == f"{_CORE}seq":
                return [self.value(part) for part in node.value]
        finally:
            self._open.pop()
        raise _Refused(f"the tag {shown(node.tag)}, where plain data should be", node)

    def _mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value == "<<" and not key_node.style:
                merged = self._merged(value_node) | merged
                continue
            key = self.value(key_node)
            if not isinstance(key, Hashable):
                raise _Refused("a list or a mapping as a key", key_node)
            if key in lines:
                raise _Refused(f"the key {shown(key)} is there twice: first at line {lines[key]}", key_node)
            lines[key] = key_node.start_mark.line + 1
            own[key] = self.value(value_node)
        return {**merged, **own} if merged else own

    def _merged(self, node: yaml.Node) -> dict[Any, Any]:
        """What `<<: *name` takes over (of YAML 1.1, and in wide use); of several, the first has precedence."""
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        found: dict[Any, Any] = {}
        for part in nodes:
            value = self.value(part)
            if not isinstance(value, dict):
                raise _Refused("<< should take over a mapping, or a list of mappings", part)
            found = value | found
        return found


def _scalar(node: yaml.ScalarNode) -> Any:
    kind = node.tag.removeprefix(_CORE)
    read = _SCALARS.get(kind)
    if read is None or kind == node.tag:
        raise _Refused(f"the tag {shown(node.tag)}, where plain data should be", node)
    if kind in ("int", "float") and len(node.value) > DIGITS:
        raise _Refused(f"a number of {len(node.value):,} characters; should be at most {DIGITS}", node)
    if not node.value.isascii() and any("\ud800" <= character <= "\udfff" for character in node.value):
        raise _Refused(f"{shown(node.value)} has half of a surrogate pair", node)
    try:
        return read(node.value)
    except (ValueError, OverflowError):
        raise _Refused(f"{shown(node.value)} is no {kind} that can be held", node) from None


def _whole(text: str) -> int:
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(text: str) -> float:
    special = text.lstrip("+-").lower()
    if special in (".inf", ".nan"):
        return float(text.replace(".", ""))
    value = float(text)
    if math.isinf(value):
        raise OverflowError
    return value


def _boolean(text: str) -> bool:
    if not _BOOL.fullmatch(text):
        raise ValueError
    return text.lower() == "true"


_SCALARS: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": _boolean,
    "int": _whole,
    "float": _number,
    "str": str,
}


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which quotes what YAML 1.1 would not read as text; and what 1.2 would not."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """Text; escaped where it has line ends of Unicode, which PyYAML would write as they are and read as others."""
    style = '"' if any(character in value for character in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(f"{_CORE}str", value, style=style)


_Dumper.add_representer(str, _text)
_Dumper.add_implicit_resolver(f"{_CORE}int", _INT, list("-+0123456789"))
_Dumper.add_implicit_resolver(f"{_CORE}float", _FLOAT, list("-+.0123456789"))
