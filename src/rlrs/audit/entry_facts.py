"""What the entries of an audit trail say: kinds, what each must hold, and how values become JSON without secrets."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
from collections.abc import Mapping, Sequence, Set
from datetime import date
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from rlrs.audit.entries import AuditError
from rlrs.environment import environment
from rlrs.records import Record
from rlrs.records.frozen import first_problem

_DEEPEST = 40
_LARGEST = 2**53 - 1  # RFC 8785: numbers are doubles

# A name that says that its value is a secret. `tokens`, `end_token` and the like are none.
_SECRET_NAME = re.compile(
    r"(^|[_.-])(password|passwd|pwd|secret|credentials?|authorization|cookie|webhook([_-]?url)?"
    r"|(api|access|private|secret)[_-]?key"
    r"|(access|api|auth|bearer|hf|refresh|session)[_-]?token)$|^token$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|(^|_)(KEY|DSN|PAT)($|_)", re.IGNORECASE)
_IN_TEXT = (
    (re.compile(r"(://[^\s/:@]*:)\S*@"), r"\1***@"),  # user:password@
    (re.compile(r"(https?://)[^\s/:@]+@", re.IGNORECASE), r"\1***@"),  # token@
    (
        re.compile(
            r"\b((?:[a-z]+[_-])?(?:password|passwd|pwd|secret|token|api_?key|access_?key)=)[^\s&;\"']+", re.IGNORECASE
        ),
        r"\1***",
    ),
    (  # in a command
        re.compile(
            r"(--(?:(?:[a-z]+-)?(?:password|secret|(?:api|access)-?key)|(?:(?:access|api|auth|hf)-)?token)(?:\s+|=))"
            r"[^\s;\"']+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)


class EntryFacts(Record):
    """Facts of one kind of entry: what is listed must be there; anything else may be."""

    model_config = ConfigDict(extra="allow")


class BegunFacts(EntryFacts):
    """A study or a run begins, or goes on after it was stopped."""

    environment: dict[str, Any] = Field(default_factory=environment)
    """Versions, commit, processor: `rlrs.environment.environment()` if not given."""


class DataFacts(EntryFacts):
    """The tokens that are trained on."""

    hash: str


class RatiosFacts(EntryFacts):
    """Relative rates that were found, or that a run uses."""

    ratios: dict[str, Any]
    """Component -> ratio, as in ratios.yaml."""
    provenance: dict[str, Any] = Field(default_factory=dict)


class CertificateFacts(EntryFacts):
    """What a ladder below the target says about it, before it is trained."""

    mode: str
    """Of the transfer."""
    sentence: str


class RefutationFacts(EntryFacts):
    """A claim of the report that was run again on fresh seeds."""

    claim: str
    """`ARM:CONTROL`."""
    upheld: str
    sentence: str


class AblationFacts(EntryFacts):
    """Runs of a finished study with one thing changed."""

    ablation: str
    """Its kind."""
    sentence: str


class AlarmFacts(EntryFacts):
    """A check that went off."""

    check: str
    """Its name."""
    message: str


class DecisionFacts(EntryFacts):
    """What was decided, by the program or by a person."""

    decision: str
    reason: str


class OverrideFacts(EntryFacts):
    """Something that the program proposed, or refused, and a person set."""

    what: str
    value: Any
    reason: str


class SignOffFacts(EntryFacts):
    """A person answers for the trail up to here; `rlrs audit sign` writes it."""

    statement: str


class EndedFacts(EntryFacts):
    """A study or a run has ended."""

    status: str
    files: dict[str, str] = Field(default_factory=dict)
    """File -> SHA-256 of what it holds, from `digests`; `verify` compares them."""


class FailedFacts(EntryFacts):
    """A study or a run has stopped with an error."""

    error: str


class TornFacts(EntryFacts):
    """A write that was cut off was found at the end and set aside; written by `Trail.append` alone."""

    file: str
    """Beside the trail: what was there."""
    bytes: int
    sha256: str


KINDS: dict[str, type[EntryFacts]] = {
    "begun": BegunFacts,
    "resumed": BegunFacts,
    "data": DataFacts,
    "ratios": RatiosFacts,
    "certificate": CertificateFacts,
    "refutation": RefutationFacts,
    "ablation": AblationFacts,
    "alarm": AlarmFacts,
    "decision": DecisionFacts,
    "override": OverrideFacts,
    "sign_off": SignOffFacts,
    "ended": EndedFacts,
    "failed": FailedFacts,
    "torn": TornFacts,
}
"""Kind of an entry -> what its facts must hold. A kind of your own begins with `x-` and may hold anything."""


def check_kind(kind: str) -> None:
    """See that an entry may be of this kind.

    Raises:
        AuditError: no such kind.
    """
    if kind not in KINDS and not re.fullmatch(r"x-[a-z0-9][a-z0-9_-]{0,38}", kind):
        near = difflib.get_close_matches(kind, KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it is one of {', '.join(KINDS)}, or begins with x-"
        raise AuditError(f"no kind of audit entry: {_short(kind)}; {hint}")


def checked(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts as JSON, without secrets, with everything that their kind asks for.

    Raises:
        AuditError: no such kind, a fact is missing or of the wrong type, or a value that cannot be JSON.
    """
    check_kind(kind)
    plain: dict[str, Any] = to_json(facts, "facts")
    if kind not in KINDS:
        return plain
    try:
        return to_json(KINDS[kind].model_validate(plain).model_dump(), "facts")
    except ValidationError as error:
        raise AuditError(f"audit entry {kind!r}: {first_problem(error)}") from None


def to_json(value: Any, where: str, depth: int = 0) -> Any:
    """A value as JSON without secrets: what the canonical form takes.

    Whole numbers past 2**53 - 1 and numbers that are not finite become text, since JSON has neither; so do paths, dates
    and errors. Scalars of numpy and torch become numbers.

    Raises:
        AuditError: anything else; it names the fact.
    """
    if depth > _DEEPEST:
        raise AuditError(f"audit: {_short(where)}: nested more than {_DEEPEST} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return to_json(value.value, where, depth + 1)
    if isinstance(value, int):
        return int(value) if abs(value) <= _LARGEST else f"{value:d}"
    if isinstance(value, float):
        number = float(value)
        if not math.isfinite(number):
            return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
        return int(number) if number.is_integer() and abs(number) <= _LARGEST else number
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, PurePath):
        return without_secrets(str(value))
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, BaseException):
        return without_secrets(f"{type(value).__name__}: {value}")
    return _structure(value, where, depth)


def _structure(value: Any, where: str, depth: int) -> Any:
    if callable(getattr(value, "to_plain", None)):
        return to_json(value.to_plain(), where, depth + 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        plain = {}
        for key, item in value.items():
            name = without_secrets(str(key))
            if name in plain:
                raise AuditError(f"audit: {_short(where)}: two keys that are {_short(name)} as text")
            hidden = isinstance(item, str) and item and _SECRET_NAME.search(name)
            plain[name] = "***" if hidden else to_json(item, f"{where}.{name}", depth + 1)
        return plain
    if isinstance(value, Set):
        return sorted((to_json(item, where, depth + 1) for item in value), key=repr)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [to_json(item, f"{where}.{position}", depth + 1) for position, item in enumerate(value)]
    scalar = getattr(value, "item", None)
    if callable(scalar) and getattr(value, "ndim", 1) == 0:
        return to_json(scalar(), where, depth + 1)
    raise AuditError(
        f"audit: {_short(where)}: a {type(value).__name__} cannot be kept; give text, numbers, lists or mappings"
    )


def without_secrets(text: str) -> str:
    """Text without the passwords of its URLs, and without the values of environment variables that hold secrets.

    >>> without_secrets("postgresql://ann:pa55@db/rlrs?sslmode=require")
    'postgresql://ann:***@db/rlrs?sslmode=require'
    """
    for name, secret in os.environ.items():
        if len(secret) >= 8 and secret in text and _SECRET_VARIABLE.search(name) and name != ACTOR:
            text = text.replace(secret, f"${name}")
    for pattern, replacement in _IN_TEXT:
        text = pattern.sub(replacement, text)
    return text.encode("utf-8", "backslashreplace").decode()  # a file's name may be no UTF-8


ACTOR = "RLRS_AUDIT_ACTOR"
"""Environment variable: who acts, where that is not the system's user."""


def _short(text: str) -> str:
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return repr(shown)
