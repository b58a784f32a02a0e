"""Search methods, one file each."""

from rlrs.search.methods.bracket import bracket
from rlrs.search.methods.local import local_search
from rlrs.search.methods.method import Feedback, Method, Proposal, Stop

__all__ = ["Feedback", "Method", "Proposal", "Stop", "bracket", "local_search"]
