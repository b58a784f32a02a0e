"""Engines: where runs are trained."""

from rlrs.search.engines.processes import EngineError, Processes

__all__ = ["EngineError", "Processes"]
