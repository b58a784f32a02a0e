"""Audit trail: who did what to a study or a run, with which code, data and ratios, in a file that shows tampering.

The names below are imported when they are first used, so that the command line starts without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlrs.audit.anchors import Anchor, Signature
    from rlrs.audit.card import recipe_card
    from rlrs.audit.changes import TrailDifference, differences
    from rlrs.audit.entries import AuditEntry, AuditError
    from rlrs.audit.signing import sign
    from rlrs.audit.tampering import Tampering, TrailReport
    from rlrs.audit.trail import Trail, digests, note

__all__ = [
    "Anchor",
    "AuditEntry",
    "AuditError",
    "Signature",
    "Tampering",
    "Trail",
    "TrailDifference",
    "TrailReport",
    "differences",
    "digests",
    "note",
    "recipe_card",
    "sign",
]

_MODULES = {
    "anchors": ("Anchor", "Signature"),
    "card": ("recipe_card",),
    "changes": ("TrailDifference", "differences"),
    "entries": ("AuditEntry", "AuditError"),
    "signing": ("sign",),
    "tampering": ("Tampering", "TrailReport"),
    "trail": ("Trail", "digests", "note"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"rlrs.audit.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
