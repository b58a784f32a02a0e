"""Text files: which they are, what they say, and which of them are kept for validation."""

from __future__ import annotations

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrs.config import ConfigError, DataConfig

STDLIB = "stdlib"
FILES = "files:"
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})
"""Parts of the standard library's folder that are tests, or not the standard library."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One file's text, or a part of it.

    Args:
        name: path of the file relative to the corpus, with `/`.
        text: what it says.
    """

    name: str
    text: str

    @property
    def size(self) -> int:
        """Bytes in UTF-8."""
        return len(self.text.encode())


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents, split into those to train on and those to validate on.

    Args:
        train: in order of name.
        valid: in order of name.
        files: how many files they come from.
        bytes: their size in UTF-8.
        hash: of all names and texts and of the split, 16 hex digits.
    """

    train: tuple[Document, ...]
    valid: tuple[Document, ...]
    files: int
    bytes: int
    hash: str


def read_corpus(config: DataConfig) -> Corpus:
    """Read the text that `config.source` names and split it.

    Raises:
        ConfigError: an unknown source, a glob that matches no file, a file that cannot be read or is not UTF-8
            text, or no text at all.
    """
    files = _find(config.source)
    if config.max_bytes is not None:
        files = _limit(files, config.max_bytes)
    documents = _read(files)
    total = sum(document.size for document in documents)
    if total == 0:
        raise ConfigError(f"data.source={_shown(config.source)}: the corpus is empty: {len(files)} files without text")
    train, valid = split(documents, config.valid_fraction)
    digest = hashlib.sha256()
    for part in (train, valid):
        for document in part:
            for field in (document.name.encode(), document.text.encode()):
                digest.update(len(field).to_bytes(8, "little") + field)
        digest.update(b"\xff" * 8)  # no length: ends a part
    return Corpus(train=tuple(train), valid=tuple(valid), files=len(files), bytes=total, hash=digest.hexdigest()[:16])


def split(documents: Sequence[Document], valid_fraction: float) -> tuple[list[Document], list[Document]]:
    """Documents for training and for validation, whole files, chosen by the hash of their names.

    In hash order, each file that still fits into the validation share of the bytes goes there, so that a file more
    or less moves few others. Where that fills less than half of the share (a corpus of few, large files), the end
    of the largest file, from the start of a line on, fills the rest.
    """
    share = valid_fraction * sum(document.size for document in documents)
    chosen: set[str] = set()
    filled = 0
    for document in sorted(documents, key=lambda document: _order(document.name)):
        if filled + document.size <= share:
            chosen.add(document.name)
            filled += document.size
    train = [document for document in documents if document.name not in chosen]
    valid = [document for document in documents if document.name in chosen]
    if filled < share / 2:
        largest = max(train, key=lambda document: document.size)
        # Characters for bytes: the share is approximate, but it never cuts a character.
        cut = largest.text.rfind("\n", 0, len(largest.text) - int(share - filled)) + 1
        if cut > 0:
            train[train.index(largest)] = Document(name=largest.name, text=largest.text[:cut])
            valid.append(Document(name=largest.name, text=largest.text[cut:]))
    return train, sorted(valid, key=lambda document: document.name)


def _find(source: str | Sequence[str]) -> dict[str, Path]:
    """Files of a source by name, sorted."""
    if source == STDLIB:
        return _find_stdlib()
    patterns = [source] if isinstance(source, str) else list(source)
    if not patterns:
        raise ConfigError("data.source is an empty list; it should be 'stdlib' or 'files:GLOB', or a list of globs")
    paths: set[Path] = set()
    for pattern in patterns:
        if not pattern.startswith(FILES) or pattern == FILES:
            raise ConfigError(f"data.source={pattern!r} should be 'stdlib' or 'files:GLOB', or a list of such globs")
        matches = glob.glob(os.path.expanduser(pattern.removeprefix(FILES)), recursive=True)
        found = {Path(os.path.abspath(match)) for match in matches if os.path.isfile(match)}
        if not found:
            raise ConfigError(f"data.source={pattern!r} matches no file, looked for from {Path.cwd()}")
        paths |= found
    # Names relative to what the files share: the same folder elsewhere is the same corpus.
    root = Path(os.path.commonpath([path.parent for path in paths]))
    return _named(paths, root)


def _find_stdlib() -> dict[str, Path]:
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in root.rglob("*.py") if not SKIPPED_FOLDERS & set(path.relative_to(root).parts)]
    if not paths:
        raise ConfigError(f"data.source='stdlib': this Python has no source in {root}; use 'files:GLOB'")
    return _named(paths, root)


def _named(paths: Iterable[Path], root: Path) -> dict[str, Path]:
    return dict(sorted((path.relative_to(root).as_posix(), path) for path in paths))


def _limit(files: dict[str, Path], max_bytes: int) -> dict[str, Path]:
    """Files that together fit into a number of bytes, taken in hash order; in order of name."""
    kept, filled = set(), 0
    for name in sorted(files, key=_order):
        size = files[name].stat().st_size
        if filled + size <= max_bytes:
            kept.add(name)
            filled += size
    if not filled:
        raise ConfigError(f"data.max_bytes={max_bytes} is less than any file of data.source")
    return {name: path for name, path in files.items() if name in kept}


def _read(files: dict[str, Path]) -> list[Document]:
    documents, wrong = [], []
    for name, path in files.items():
        try:
            text = path.read_bytes().decode()
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            wrong.append(path)
            continue
        if "\0" in text:  # decodes, but is no text
            wrong.append(path)
        documents.append(Document(name=name, text=text))
    if wrong:
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        raise ConfigError(f"{wrong[0]}: not UTF-8 text{more}; data.source should match text files only")
    return documents


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _shown(source: str | Sequence[str]) -> str:
    return repr(source if isinstance(source, str) else list(source))
