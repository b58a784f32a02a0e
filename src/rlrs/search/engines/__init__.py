"""Engines: where runs are trained."""

from rlrs.search.engines.commands import Commands
from rlrs.search.engines.engine import Engine, EngineError
from rlrs.search.engines.processes import Processes
from rlrs.search.engines.ray import Ray

__all__ = ["Commands", "Engine", "EngineError", "Processes", "Ray"]
