"""A study, stage by stage, each resumable."""

from rlrs.study.directory import StudyError, StudyProgress, prepared
from rlrs.study.ladder import ladder_lines
from rlrs.study.plan import PlanRow, growth, plan
from rlrs.study.rates_check import verify_study
from rlrs.study.resolve import check_places, check_sources, resolve
from rlrs.study.runner import run, train_one

__all__ = [
    "PlanRow",
    "StudyError",
    "StudyProgress",
    "check_places",
    "check_sources",
    "growth",
    "ladder_lines",
    "plan",
    "prepared",
    "resolve",
    "run",
    "train_one",
    "verify_study",
]
