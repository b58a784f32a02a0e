"""A study, stage by stage, each resumable."""

from rlrs.study.ablate import AblationPlan, ablate, plan_ablation
from rlrs.study.directory import StudyError, StudyProgress, prepared
from rlrs.study.ladder import ladder_lines
from rlrs.study.plan import PlanRow, growth, plan
from rlrs.study.rates_check import verify_study
from rlrs.study.refute import RefutationPlan, plan_refutation, refute
from rlrs.study.reopened import FurtherCost, compared, study_folder
from rlrs.study.resolve import check_places, check_sources, resolve
from rlrs.study.runner import run, train_one

__all__ = [
    "AblationPlan",
    "FurtherCost",
    "PlanRow",
    "RefutationPlan",
    "StudyError",
    "StudyProgress",
    "ablate",
    "check_places",
    "check_sources",
    "compared",
    "growth",
    "ladder_lines",
    "plan",
    "plan_ablation",
    "plan_refutation",
    "prepared",
    "refute",
    "resolve",
    "run",
    "study_folder",
    "train_one",
    "verify_study",
]
