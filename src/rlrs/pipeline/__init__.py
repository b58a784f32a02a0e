"""A study, stage by stage, each resumable."""

from rlrs.pipeline.directory import Progress, StudyError
from rlrs.pipeline.plan import PlanRow, plan
from rlrs.pipeline.study import run, train_one

__all__ = ["PlanRow", "Progress", "StudyError", "plan", "run", "train_one"]
