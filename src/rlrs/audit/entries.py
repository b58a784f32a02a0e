"""One entry of an audit trail, and the line that holds it.

    line   {"entry":BODY,"hash":"HASH"}
    BODY   the entry as JSON in the canonical form of RFC 8785 (JCS), UTF-8
    HASH   SHA-256 of the bytes of BODY, in hex

BODY names the hash of the entry before it (`previous`), so the entries form a chain. The bytes are hashed as they stand
in the file: checking a trail needs no JSON library, and every byte of a line counts.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import Field, ValidationError

from rlrs.extras import install
from rlrs.messages import shown
from rlrs.records import Record
from rlrs.records.frozen import first_problem

FORMAT = 1
"""Version of the entries that this code writes and reads."""
NOTHING = "0" * 64
"""What the first entry has for the hash of the entry before it."""
LONGEST = 16 * 2**20
"""Bytes of a line, at most (chosen here, not studied): what a reader takes into memory."""

_OPEN, _MIDDLE, _CLOSE = b'{"entry":', b',"hash":"', b'"}'
_TAIL = len(_MIDDLE) + 64 + len(_CLOSE)
_HEX = frozenset(b"0123456789abcdef")


class AuditError(ValueError):
    """An audit trail that cannot be read or written; one line: which file, what is wrong."""


class LaterFormatError(AuditError):
    """An entry that a later version of rlrs wrote."""


class AuditEntry(Record):
    """One entry, as it was written."""

    actor: str
    """Who: `RLRS_AUDIT_ACTOR`, or else the system's name of the user."""
    at: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")
    """When, UTC."""
    facts: dict[str, Any]
    """What, as JSON; see `rlrs.audit.entry_facts.KINDS`."""
    format: Literal[1] = FORMAT
    index: int = Field(ge=0)
    """Place in the trail, from 0."""
    kind: str
    """Of what happened."""
    previous: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the entry before this one; zeros for the first."""
    hash: str = Field(pattern="^[0-9a-f]{64}$")
    """Of this entry; no part of what is hashed."""


def entry_line(
    *, actor: str, at: str, facts: dict[str, Any], index: int, kind: str, previous: str
) -> tuple[AuditEntry, bytes]:
    """A new entry with its hash, and its line (with the line break).

    Raises:
        AuditError: the line would be longer than `LONGEST`.
        ImportError: `rfc8785` is missing; it names the extra.
    """
    try:
        import rfc8785
    except ImportError:
        raise ImportError(f"rfc8785 is missing; the audit trail is an extra: {install('audit')}") from None
    plain = {"actor": actor, "at": at, "facts": facts, "format": FORMAT, "index": index, "kind": kind}
    body = rfc8785.dumps({**plain, "previous": previous})
    digest = hashlib.sha256(body).hexdigest()
    line = _OPEN + body + _MIDDLE + digest.encode() + _CLOSE + b"\n"
    if len(line) > LONGEST:
        raise AuditError(f"an audit entry of {len(line):,} bytes; it may have {LONGEST:,}: keep a hash and a path")
    return AuditEntry(**json.loads(body), hash=digest), line


def split_line(line: bytes) -> tuple[bytes, str] | None:
    """Body and stated hash of a line without its line break; None if it does not have the form of one."""
    digest = line[-len(_CLOSE) - 64 : -len(_CLOSE)]
    whole = line.startswith(_OPEN) and line.endswith(_CLOSE) and line[-_TAIL : -_TAIL + len(_MIDDLE)] == _MIDDLE
    if not whole or len(line) < len(_OPEN) + _TAIL or not _HEX.issuperset(digest):
        return None
    return line[len(_OPEN) : -_TAIL], digest.decode()


def read_line(line: bytes, where: str) -> AuditEntry:
    """The entry of a line without its line break.

    Args:
        line: of the file.
        where: file and line, for messages.

    Raises:
        AuditError: it is no entry, its hash is not its content's, or a later version of rlrs wrote it.
    """
    if (parts := split_line(line)) is None:
        raise AuditError(f"{where}: not an audit entry; `rlrs audit verify` says what is wrong")
    body, digest = parts
    if hashlib.sha256(body).hexdigest() != digest:
        raise AuditError(f"{where}: changed after it was written; `rlrs audit verify` says what is wrong")
    try:
        plain = json.loads(body)
        written = plain.get("format")
        if isinstance(written, int) and written > FORMAT:
            raise LaterFormatError(f"{where}: format {shown(written)} of a later rlrs; this one reads {FORMAT}")
        return AuditEntry(**{**plain, "hash": digest})
    except ValidationError as error:
        raise AuditError(f"{where}: not an audit entry: {first_problem(error)}") from None
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        if isinstance(error, AuditError):
            raise
        raise AuditError(f"{where}: not an audit entry, though its hash is right") from None


def may_be_torn(tail: bytes) -> bool:
    """Whether a last line without a line break is what a write leaves that was cut off: the beginning of an entry."""
    written = tail.rstrip(b"\0")  # a power cut may leave the length, and not the bytes
    beginning = _OPEN + b'{"actor":"'
    if not (written.startswith(beginning) or beginning.startswith(written)):
        return False
    try:
        json.JSONDecoder().raw_decode(written.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return True
    return split_line(written) is not None  # a whole entry is; one with something behind it is not
