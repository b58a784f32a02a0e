"""Ratios learned in one run of any trainer, to be replayed fixed, searched from or transferred afterwards.

scheduler = LearnedLR(optimizer, total_steps=10_240, warmup_steps=102)  # in the place of RelativeLR
...                                                                     # scheduler.step() after each optimizer.step()
scheduler.learned().save("ratios.yaml")

And what a run's gradients and updates are like, tensor by tensor (`StatisticsProbe`).
"""

from rlrs.discovery.learned_lr import FOLLOW_BASE, LearnedLR
from rlrs.discovery.learning_rules import EqualUpdates, Hypergradient, LearningRule, StepFigures
from rlrs.discovery.replicas import Replicas
from rlrs.discovery.run_statistics import FIGURES, Row, RunStatistics, StatisticsError
from rlrs.discovery.statistics_probe import StatisticsProbe
from rlrs.discovery.trajectory import FittedCourse, fit_course

__all__ = [
    "FIGURES",
    "FOLLOW_BASE",
    "EqualUpdates",
    "FittedCourse",
    "Hypergradient",
    "LearnedLR",
    "LearningRule",
    "Replicas",
    "Row",
    "RunStatistics",
    "StatisticsError",
    "StatisticsProbe",
    "StepFigures",
    "fit_course",
]
