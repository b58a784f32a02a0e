"""Signing a trail off."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrs.audit.anchors import SIGNATURES, Anchor, Signature
from rlrs.audit.entries import AuditError
from rlrs.audit.trail import Trail
from rlrs.files import write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sign(folder: str | Path, key: Ed25519PrivateKey, *, statement: str, **facts: Any) -> Signature:
    """Sign a trail off: append what is stated, then sign the trail with it, into `audit.sig` beside it.

    Args:
        folder: of a study or a run.
        key: private; see `private_key`.
        statement: what the signer answers for; kept in the trail as an entry `sign_off`.
        facts: what is kept beside the statement.

    Raises:
        AuditError, OSError: the trail is not intact, or cannot be written.

    >>> import tempfile
    >>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    >>> trail = Trail(tempfile.mkdtemp())
    >>> _ = sign(trail.folder, Ed25519PrivateKey.generate(), statement="the ratios go into the large run")
    >>> [entry.kind for entry in trail], trail.verify().intact
    (['sign_off'], True)
    """
    trail = Trail(folder)
    if trail.path.exists() and (found := trail.verify().found):
        raise AuditError(f"{trail.path}: not signed, since it is not intact: {found[0]}")
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    entry = trail.append("sign_off", {**facts, "statement": statement, "key": public})
    anchor = Anchor(length=entry.index + 1, head=entry.hash)
    signed = base64.b64encode(key.sign(str(anchor).encode())).decode()
    signature = Signature(anchor=anchor, key=public, signature=signed)
    path = trail.folder / SIGNATURES
    before = path.read_bytes() if path.exists() else b""
    write_atomic(path, before + signature.model_dump_json().encode() + b"\n")
    return signature
