"""Search for ratios and base rates: methods, engines, and the driver between them."""

from rlrs.search.engines import EngineError, Processes
from rlrs.search.methods import Feedback, Method, Proposal, Stop, bracket, local_search
from rlrs.search.space import SEARCHED, Point, ratios_of, start_point
from rlrs.search.study import Outcome, Search, StorageError, Trials, Tried, tune

__all__ = [
    "SEARCHED",
    "EngineError",
    "Feedback",
    "Method",
    "Outcome",
    "Point",
    "Processes",
    "Proposal",
    "Search",
    "Stop",
    "StorageError",
    "Trials",
    "Tried",
    "bracket",
    "local_search",
    "ratios_of",
    "start_point",
    "tune",
]
