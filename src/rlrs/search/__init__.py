"""Search for ratios and base rates: methods, engines, and the driver between them."""

from rlrs.search.engines import EngineError, Processes
from rlrs.search.methods import METHODS, Feedback, Method, Proposal, Stop, bracket, local_search, method_of
from rlrs.search.settings import read_space
from rlrs.search.space import SEARCHED, Parameter, Point, Space, ratios_of, run_of, start_point
from rlrs.search.study import Outcome, Search, StorageError, Trials, Tried, tune

__all__ = [
    "METHODS",
    "SEARCHED",
    "EngineError",
    "Feedback",
    "Method",
    "Outcome",
    "Parameter",
    "Point",
    "Processes",
    "Proposal",
    "Search",
    "Space",
    "Stop",
    "StorageError",
    "Trials",
    "Tried",
    "bracket",
    "local_search",
    "method_of",
    "ratios_of",
    "read_space",
    "run_of",
    "start_point",
    "tune",
]
