"""Search methods, one file each."""

from rlrs.search.methods.bracket import Bracket
from rlrs.search.methods.learned import LearnedInRuns
from rlrs.search.methods.local import LocalSearch
from rlrs.search.methods.response_surface import CheapRuns, ResponseSurface
from rlrs.search.methods.sampled import Sampled

__all__ = ["Bracket", "CheapRuns", "LearnedInRuns", "LocalSearch", "ResponseSurface", "Sampled"]
