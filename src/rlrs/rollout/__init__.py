"""Staged rollout: criteria that are locked before a stage begins, A/B results judged at any time, sign-off by people.

The names below are imported when they are first used, so that the command line starts without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlrs.rollout.declared import GuardrailConfig, RolloutConfig, RolloutError, StageConfig, load_rollout
    from rlrs.rollout.judgement import Judgement, Outcome, judge
    from rlrs.rollout.rollout import Rollout

__all__ = [
    "GuardrailConfig",
    "Judgement",
    "Outcome",
    "Rollout",
    "RolloutConfig",
    "RolloutError",
    "StageConfig",
    "judge",
    "load_rollout",
]

_MODULES = {
    "declared": ("GuardrailConfig", "RolloutConfig", "RolloutError", "StageConfig", "load_rollout"),
    "judgement": ("Judgement", "Outcome", "judge"),
    "rollout": ("Rollout",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"rlrs.rollout.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
