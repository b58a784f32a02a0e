"""What rlrs writes down of runs and searches: typed, validated, one shape for each thing, one reader and one writer."""

from rlrs.records.base import Record, RecordError, read_record, write_record
from rlrs.records.run import Pruning, RunResult
from rlrs.records.trial import Prediction, Proposal, SearchResult, Trial

__all__ = [
    "Prediction",
    "Proposal",
    "Pruning",
    "Record",
    "RecordError",
    "RunResult",
    "SearchResult",
    "Trial",
    "read_record",
    "write_record",
]
