"""Search for ratios and base rates: methods, engines, and the driver between them."""

from rlrs.search.driver import Budget, Interrupted, Outcome, Search, Tried, tune
from rlrs.search.engines import Engine, EngineError, Processes, Ray
from rlrs.search.importance import importance
from rlrs.search.methods import METHODS, Feedback, Method, Proposal, Stop, bracket, local_search, method_of
from rlrs.search.space import SEARCHED, Parameter, Point, Space, ratios_of, run_of, start_point
from rlrs.search.space_settings import read_space
from rlrs.search.store import StorageError, Trials, first_difference

__all__ = [
    "METHODS",
    "SEARCHED",
    "Budget",
    "Engine",
    "EngineError",
    "Feedback",
    "Interrupted",
    "Method",
    "Outcome",
    "Parameter",
    "Point",
    "Processes",
    "Proposal",
    "Ray",
    "Search",
    "Space",
    "Stop",
    "StorageError",
    "Trials",
    "Tried",
    "bracket",
    "first_difference",
    "importance",
    "local_search",
    "method_of",
    "ratios_of",
    "read_space",
    "run_of",
    "start_point",
    "tune",
]
