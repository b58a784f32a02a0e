"""Search for ratios and base rates: methods, engines, and the driver between them."""

from rlrs.search.driver import Budget, Interrupted, OnTrial, SearchTask, tune
from rlrs.search.engines import Commands, Engine, EngineError, Processes, Ray
from rlrs.search.importance import importance
from rlrs.search.making import METHODS, make_method
from rlrs.search.method import History, Method
from rlrs.search.methods import Bracket, LocalSearch, ResponseSurface
from rlrs.search.space import SEARCHED, Parameter, Point, Space, ratios_at, run_at, run_for, start_point
from rlrs.search.space_settings import held_constant, read_space, with_frozen
from rlrs.search.store import StorageError, TrialStore, first_difference

__all__ = [
    "METHODS",
    "SEARCHED",
    "Bracket",
    "Budget",
    "Commands",
    "Engine",
    "EngineError",
    "History",
    "Interrupted",
    "LocalSearch",
    "Method",
    "OnTrial",
    "Parameter",
    "Point",
    "Processes",
    "Ray",
    "ResponseSurface",
    "SearchTask",
    "Space",
    "StorageError",
    "TrialStore",
    "first_difference",
    "held_constant",
    "importance",
    "make_method",
    "ratios_at",
    "read_space",
    "run_at",
    "run_for",
    "start_point",
    "tune",
    "with_frozen",
]
