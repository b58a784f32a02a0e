"""A study, stage by stage, each resumable."""

from rlrs.pipeline.directory import Progress, StudyError, prepared
from rlrs.pipeline.plan import PlanRow, growth, plan
from rlrs.pipeline.study import run, train_one

__all__ = ["PlanRow", "Progress", "StudyError", "growth", "plan", "prepared", "run", "train_one"]
