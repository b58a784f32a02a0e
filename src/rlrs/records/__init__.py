"""What rlrs writes down of runs, searches and studies: typed, validated, one shape, reader and writer for each."""

from rlrs.records.arm import ArmResult, ArmSearch, AtBound, bounds_note
from rlrs.records.certificate import Certificate, Estimate, PredictionCheck, read_certificate, write_certificate
from rlrs.records.frozen import Record, RecordError, read_record, write_record
from rlrs.records.measured import (
    ArmLosses,
    Comparison,
    ComparisonRun,
    Decision,
    GeneralText,
    Interval,
    Reason,
    SpeedUp,
    Standing,
    Stopping,
)
from rlrs.records.metrics_line import ComponentMetrics, MetricsLine, RouterMetrics, read_metrics
from rlrs.records.provenance import Provenance
from rlrs.records.recipe import Recipe
from rlrs.records.results import Cost, Models, ModelSize, Results, Spent, StudyIdentity, write_results
from rlrs.records.run import Learned, Learning, Pruning, RunResult
from rlrs.records.trial import Prediction, Proposal, SearchResult, Trial

__all__ = [
    "ArmLosses",
    "ArmResult",
    "ArmSearch",
    "AtBound",
    "Certificate",
    "Comparison",
    "ComparisonRun",
    "ComponentMetrics",
    "Cost",
    "Decision",
    "Estimate",
    "GeneralText",
    "Interval",
    "Learned",
    "Learning",
    "MetricsLine",
    "ModelSize",
    "Models",
    "Prediction",
    "PredictionCheck",
    "Proposal",
    "Provenance",
    "Pruning",
    "Reason",
    "Recipe",
    "Record",
    "RecordError",
    "Results",
    "RouterMetrics",
    "RunResult",
    "SearchResult",
    "SpeedUp",
    "Spent",
    "Standing",
    "Stopping",
    "StudyIdentity",
    "Trial",
    "bounds_note",
    "read_certificate",
    "read_metrics",
    "read_record",
    "write_certificate",
    "write_record",
    "write_results",
]
