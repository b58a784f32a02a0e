"""A run of any trainer: what it is asked to be, and what it says of itself."""

from rlrs.runs.asked import RUN_FILE, RUN_VARIABLE, AnyRun, AskedRun, OwnRun, ReportedResult, RunError
from rlrs.runs.current import Run, current_run

__all__ = [
    "RUN_FILE",
    "RUN_VARIABLE",
    "AnyRun",
    "AskedRun",
    "OwnRun",
    "ReportedResult",
    "Run",
    "RunError",
    "current_run",
]
