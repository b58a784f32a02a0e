"""What `data.source` names: a list of parts, each a file or a shard of a data set, in a fixed order."""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlrs.data.chat import MESSAGES, read_chat
from rlrs.data.reading import (
    BadRecord,
    Format,
    guess_format,
    read_json,
    read_jsonl,
    read_parquet,
    read_text,
    why_no_text,
    why_not_read,
)
from rlrs.data.unpacking import DamagedError, Hash
from rlrs.messages import printable
from rlrs.settings import ConfigError, DataConfig

STDLIB = "stdlib"
FILES = "files:"
HUB = "hf:"
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
"""Parts of the standard library's folder that are tests, or not the standard library."""


class Part(Protocol):
    """Some of the corpus that is read from its beginning to its end."""

    @property
    def name(self) -> str:
        """Unique in the source, the same wherever the files are."""
        ...

    @property
    def where(self) -> str:
        """Where it is, for messages."""
        ...

    @property
    def one_document(self) -> bool:
        """Whether all of it is one document, whose pieces `texts` gives; else each text is a document."""
        ...

    @property
    def valid(self) -> bool | None:
        """Whether it is for validation; None if that is still to be decided."""
        ...

    def stamp(self) -> tuple[int, int] | None:
        """Size in bytes and time of last change in nanoseconds; None of what is no file."""
        ...

    def texts(self, bad_record: BadRecord, digest: Hash | None = None) -> Iterator[str]:
        """Its texts, in order.

        Raises:
            DamagedError: it cannot be read to the end, or by `bad_record`.
        """
        ...


@dataclass(frozen=True)
class FilePart:
    """A file.

    Args:
        name: path relative to the corpus, with `/`.
        path: where it is.
        text_field: field of a document's text, if there are fields.
        format: of the file; None for what the end of its name says.
    """

    name: str
    path: Path
    text_field: str
    format: Format | None = None
    valid: bool | None = None

    @property
    def where(self) -> str:
        """Its path."""
        return printable(self.path)

    @property
    def one_document(self) -> bool:
        """Text files are; the others hold many."""
        return (self.format or guess_format(self.path)) == "text"

    def stamp(self) -> tuple[int, int] | None:
        """Size and time of last change."""
        status = self.path.stat()
        return status.st_size, status.st_mtime_ns

    def texts(self, bad_record: BadRecord, digest: Hash | None = None) -> Iterator[str]:
        """Pieces of a text file; documents of the others."""
        if not _is_unicode(self.path.name):
            raise DamagedError("its name is not UTF-8")
        if self.format is None and (why := why_not_read(self.path)) is not None:
            raise DamagedError(why)
        match self.format or guess_format(self.path):
            case "text":
                yield from read_text(self.path, digest)
            case "jsonl":
                yield from read_jsonl(self.path, self.text_field, bad_record, digest)
            case "chat":
                field = MESSAGES if self.text_field == "text" else self.text_field
                yield from read_chat(self.path, field, bad_record, digest)
            case "json":
                yield from read_json(self.path, self.text_field, bad_record, digest)
            case "parquet":
                yield from read_parquet(self.path, self.text_field)
                if digest is not None:  # it is not read from front to back
                    with open(self.path, "rb") as file:
                        digest.update(hashlib.file_digest(file, "sha256").digest())


def find_files(config: DataConfig) -> list[FilePart]:
    """Files of the source `stdlib` or of globs, in order of name.

    Raises:
        ConfigError: a glob that matches no file.
    """
    if config.source == STDLIB:
        files = _find_stdlib()
    else:
        files = _find([config.source] if isinstance(config.source, str) else config.source)
    return [FilePart(name, path, config.text_field, config.format) for name, path in files.items()]


def hash_order(name: str) -> bytes:
    """A key that sorts names in an order that has nothing to do with them."""
    return hashlib.sha256(name.encode()).digest()


def _find(patterns: Sequence[str]) -> dict[str, Path]:
    paths: set[Path] = set()
    for pattern in patterns:
        asked = os.path.expanduser(pattern.removeprefix(FILES))
        matches = glob.glob(_as_it_stands(asked), recursive=True)
        found = {Path(os.path.abspath(match)) for match in matches if os.path.isfile(match)}
        if not found:
            if os.path.isdir(asked):
                example = FILES + os.path.join(asked, "**", "*.txt")
                hint = f"is a folder; name its files, such as {example!r}"
            else:
                hint = f"matches no file, looked for from {printable(Path.cwd())}"
                hint += "; [...] is a class of characters there, [[] a bracket" if "[" in asked else ""
            raise ConfigError(f"data.source={pattern!r} {hint}")
        paths |= found
    # Names relative to what the files share: the same folder elsewhere is the same corpus.
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return _named(paths, root)


def _as_it_stands(pattern: str) -> str:
    """A glob in which what is there by that name, such as a folder `[D] 1` or `what?x=1`, is that and no pattern."""
    literal, asked = "", []
    for name in pattern.split("/"):
        here = literal + name
        literal = here + "/"
        asked.append(glob.escape(name) if os.path.lexists(here) else name)
    return "/".join(asked)


def _find_stdlib() -> dict[str, Path]:
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in root.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(root).parts)]
    if not paths:
        raise ConfigError(f"data.source='stdlib': this Python has no source in {root}; use 'files:GLOB'")
    return _named(paths, root)


def _named(paths: Iterable[Path], root: Path) -> dict[str, Path]:
    named = ((path.relative_to(root).as_posix(), path) for path in paths)
    return dict(sorted((name if _is_unicode(name) else printable(name), path) for name, path in named))


def _is_unicode(name: str) -> bool:
    """Whether a file's name is UTF-8: Python stands in for other bytes with halves of surrogate pairs."""
    return why_no_text(name) is None
