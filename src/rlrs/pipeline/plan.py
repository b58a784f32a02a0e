"""What a study will cost, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from rlrs.comparison import searched_components
from rlrs.config import ScaleConfig, StudyConfig
from rlrs.inspection import describe


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


def _plan_row(stage: str, study: StudyConfig, scale: ScaleConfig, lengths: list[int]) -> PlanRow:
    counts = describe(scale.model, study.data.vocab_size)["parameters"]
    tokens = sum(lengths) * scale.batch_size * study.data.sequence_length
    # 6 FLOPs per active weight and token, forward and backward (Kaplan et al., 2020); a look-up is no product.
    products = counts["active"] - (0 if scale.model.tie_embeddings else counts["embedding"])
    return PlanRow(stage, len(lengths), max(lengths), tokens, 6.0 * products * tokens)
