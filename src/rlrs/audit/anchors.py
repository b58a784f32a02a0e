"""What is kept outside of a trail to hold it to its length: an anchor, and an anchor that somebody signed."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from rlrs.audit.entries import AuditError
from rlrs.extras import install
from rlrs.messages import shown
from rlrs.records import Record
from rlrs.records.frozen import first_problem

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURES = "audit.sig"
"""Beside the trail: a signature a line."""
_ANCHOR = re.compile(r"rlrs-audit/1 entries=(\d{1,15}) head=([0-9a-f]{64})(?![0-9a-f])")


class Anchor(Record):
    """Length and head of a trail at some moment; as text, one line, to be kept where the trail's writers cannot write.

    >>> print(Anchor(length=2, head="ab" * 32))
    rlrs-audit/1 entries=2 head=abababababababababababababababababababababababababababababababab
    """

    length: int = Field(ge=0)
    """Entries."""
    head: str = Field(pattern="^[0-9a-f]{64}$")
    """Hash of the last of them; zeros if there is none."""

    def __str__(self) -> str:
        return f"rlrs-audit/1 entries={self.length} head={self.head}"

    @classmethod
    def parse(cls, text: str) -> Anchor:
        """The one anchor in a text: a file, a commit message, a line of a letter.

        Raises:
            AuditError: there is none, or more than one.

        >>> Anchor.parse("Trail of the pilot: rlrs-audit/1 entries=2 head=" + "ab" * 32).length
        2
        """
        found = sorted({(int(length), head) for length, head in _ANCHOR.findall(text)})
        if len(found) != 1:
            raise AuditError(
                f"{len(found) or 'no'} anchors found where one is expected; "
                "it looks like: rlrs-audit/1 entries=42 head=(64 hex digits)"
            )
        return cls(length=found[0][0], head=found[0][1])


class Signature(Record):
    """An anchor and an Ed25519 signature of its text: a line of `audit.sig`.

    >>> from rlrs.audit import sign, Trail
    >>> import tempfile
    >>> from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    >>> signature = sign(tempfile.mkdtemp(), Ed25519PrivateKey.generate(), statement="seen and agreed")
    >>> signature.anchor.length, signature.is_right()
    (1, True)
    """

    format: Literal[1] = 1
    anchor: Anchor
    key: str
    """The public key's 32 bytes, base64."""
    signature: str
    """The 64 bytes, base64."""

    def is_right(self) -> bool:
        """Whether the key signed the anchor.

        Raises:
            AuditError: the key is none.
            ImportError: `cryptography` is missing; it names the extra.
        """
        errors, ed25519, _ = _cryptography()
        try:
            public = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(self.key, validate=True))
            signed = base64.b64decode(self.signature, validate=True)
        except ValueError:
            raise AuditError(f"not an Ed25519 key and signature: {self.key[:50]!r}") from None
        try:
            public.verify(signed, str(self.anchor).encode())
        except errors.InvalidSignature:
            return False
        return True


def signatures(folder: Path) -> Iterator[Signature]:
    """The signatures beside a trail.

    Raises:
        AuditError: a line of `audit.sig` is none.
    """
    path = folder / SIGNATURES
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            yield Signature.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["loc"] == ("format",) and isinstance(first["input"], int) and first["input"] > 1:
                later = f"format {shown(first['input'])} of a later rlrs; this one reads 1"
                raise AuditError(f"{path}, line {number}: {later}") from None
            raise AuditError(f"{path}, line {number}: not a signature: {first_problem(error)}") from None


def private_key(path: str | Path, password: bytes | None = None) -> Ed25519PrivateKey:
    """An Ed25519 private key from a PEM file of OpenSSL or OpenSSH.

    Raises:
        AuditError: the file holds none. `needs a password`, at the end of the message, where that is all.
        OSError: it cannot be read.
        ImportError: `cryptography` is missing; it names the extra.

    >>> private_key("setup.py")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'setup.py'
    """
    _, ed25519, serialization = _cryptography()
    data = Path(path).read_bytes()
    openssh = b"OPENSSH PRIVATE KEY" in data
    load = serialization.load_ssh_private_key if openssh else serialization.load_pem_private_key
    try:
        key = load(data, password)
    except TypeError:
        raise AuditError(f"{path}: needs a password") from None
    except Exception as error:  # ValueError, UnsupportedAlgorithm, and others of the library
        if openssh and password is None and "password" in str(error).lower():
            raise AuditError(f"{path}: needs a password") from None
        raise AuditError(f"{path}: not a private key in PEM form, or a wrong password") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise AuditError(f"{path}: not an Ed25519 key; `openssl genpkey -algorithm ed25519 -out KEY.pem` makes one")
    return key


def public_key(path: str | Path) -> str:
    """An Ed25519 public key, base64, from a PEM file of OpenSSL, an OpenSSH `.pub`, or a text that is the base64.

    Raises:
        AuditError: the file holds none.
        OSError: it cannot be read.
    """
    _, ed25519, serialization = _cryptography()
    data = Path(path).read_bytes().strip()
    try:
        if data.startswith(b"ssh-"):
            key = serialization.load_ssh_public_key(data)
        elif data.startswith(b"-----"):
            key = serialization.load_pem_public_key(data)
        else:
            key = ed25519.Ed25519PublicKey.from_public_bytes(base64.b64decode(data, validate=True))
    except Exception:  # ValueError, UnsupportedAlgorithm, and others of the library
        raise AuditError(f"{path}: not a public key, PEM or OpenSSH") from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise AuditError(f"{path}: not an Ed25519 public key")
    return base64.b64encode(key.public_bytes_raw()).decode()


def _cryptography() -> tuple[Any, Any, Any]:
    try:
        from cryptography import exceptions
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ImportError(f"cryptography is missing; signatures are an extra: {install('audit')}") from None
    return exceptions, ed25519, serialization


def anchor_from(text: str) -> Anchor:
    """An anchor given as its text, or as the name of a file that holds it.

    Raises:
        AuditError: neither.
    """
    if "rlrs-audit/" in text:
        return Anchor.parse(text)
    path = Path(text)
    try:
        return Anchor.parse(path.read_text(encoding="utf-8", errors="replace"))
    except AuditError as error:
        raise AuditError(f"{path}: {error}") from None
