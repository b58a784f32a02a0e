"""Relative learning rates in other people's trainers; one module per trainer, none imported until it is asked for."""

from __future__ import annotations

import importlib
from types import ModuleType

from rlrs.extras import install

__all__ = ["require"]


def require(module: str, extra: str) -> ModuleType:
    """Import a module that comes with an extra.

    Args:
        module: its import name, dotted or not.
        extra: the extra of `rlrs` that installs it.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the extra. One that is there but lacks a
            module of its own keeps its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        top = module.partition(".")[0]
        raise ModuleNotFoundError(f"{top} is not installed: {install(extra)}", name=top) from None
