"""What a study will cost, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from rlrs.comparison import searched_components
from rlrs.data import vocabulary_size
from rlrs.inspection import meta_model
from rlrs.models import count_parameters, training_flops
from rlrs.settings import ScaleConfig, StudyConfig


@dataclass(frozen=True)
class PlanRow:
    """What a stage may cost at most; tokens and FLOPs are of all its runs together."""

    stage: str
    runs: int
    steps: int
    tokens: int
    flops: float


def plan(study: StudyConfig) -> list[PlanRow]:
    """The runs of a study, stage by stage, without training any."""
    searches = sum(searched_components(arm, ()) is not None for arm in study.comparison.arms)
    arms, seeds, horizons = len(study.comparison.arms), study.comparison.seeds, study.comparison.horizons
    lengths = [study.target.steps] * arms + [max(1, round(h * study.target.steps)) for h in horizons]
    return [
        _plan_row("search", study, study.proxy, [study.proxy.steps] * (searches * study.search.trials)),
        _plan_row("transfer", study, study.target, [study.target.steps] * (arms * study.transfer.trials)),
        _plan_row("comparison", study, study.target, lengths * seeds),
    ]


def growth(study: StudyConfig) -> float:
    """The target's parameters over the proxy's, both without embeddings."""
    size = vocabulary_size(study.data)
    proxy, target = (count_parameters(meta_model(scale.model, size)) for scale in (study.proxy, study.target))
    return target.non_embedding / proxy.non_embedding


def _plan_row(stage: str, study: StudyConfig, scale: ScaleConfig, lengths: list[int]) -> PlanRow:
    tokens = sum(lengths) * scale.batch_size * study.data.sequence_length
    flops = training_flops(meta_model(scale.model, vocabulary_size(study.data)), study.data.sequence_length)
    return PlanRow(stage, len(lengths), max(lengths), tokens, float(flops) * tokens)
