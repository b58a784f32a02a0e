"""What a study will cost, before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from rlrs.data import vocabulary_size
from rlrs.inspection import meta_model
from rlrs.models import concrete, count_parameters, training_flops
from rlrs.settings import ScaleConfig, StudyConfig
from rlrs.study.ladder import plan_ladder
from rlrs.study.own_trainer import own_size


@dataclass(frozen=True)
class PlanRow:
    """What a stage may cost at most; tokens and FLOPs are of all its runs together, 0 if not known."""

    stage: str
    runs: int
    steps: int
    tokens: int
    flops: float


def plan(study: StudyConfig) -> list[PlanRow]:
    """The runs of a study, stage by stage, without training any; `resolve` says whether they can be."""
    arms, seeds = len(study.comparison.arms), study.comparison.most_seeds
    steps = study.target.steps
    lengths = [steps] * arms + [max(1, round(horizon * steps)) for horizon in study.comparison.horizons]
    return [
        _plan_row("search", study, study.proxy, arms * study.search.trials, [study.proxy.steps]),
        *([] if study.ladder is None else [_ladder_row(study)]),
        _plan_row("transfer", study, study.target, arms * study.transfer.trials, [steps]),
        _plan_row("comparison", study, study.target, seeds, lengths),
    ]


def growth(study: StudyConfig) -> float | None:
    """The target's parameters over the proxy's, both without embeddings; None where they are not known."""
    if study.trainer is not None:
        sizes = [own_size(study.trainer, scale, "set")["parameters"] for scale in (study.proxy, study.target)]
        proxy, target = (size and size["non_embedding"] for size in sizes)
        return target / proxy if proxy and target else None
    size = vocabulary_size(study.data)
    proxy, target = (count_parameters(meta_model(concrete(scale).model, size)) for scale in (study.proxy, study.target))
    return target.non_embedding / proxy.non_embedding


def _ladder_row(study: StudyConfig) -> PlanRow:
    """All rungs together; the proxy's search is the one of the study, and only measured here."""
    found, arms = plan_ladder(study), len(study.comparison.arms)
    assert study.ladder is not None
    rows = []
    for rung in found.rungs:
        times = arms * (study.ladder.seeds + (0 if rung.is_proxy else found.trials))
        rows.append(_plan_row("ladder", study, rung.scale, times, [rung.scale.steps]))
    runs, tokens, flops = (sum(getattr(row, name) for row in rows) for name in ("runs", "tokens", "flops"))
    return PlanRow("ladder", runs, max(row.steps for row in rows), tokens, flops)


def _plan_row(stage: str, study: StudyConfig, scale: ScaleConfig, times: int, lengths: list[int]) -> PlanRow:
    if study.trainer is not None:
        tokens = times * sum(lengths) * (scale.tokens or 0)
        return PlanRow(stage, times * len(lengths), max(lengths), tokens, 0.0)
    tokens = times * sum(lengths) * scale.batch_size * study.data.sequence_length
    model = meta_model(concrete(scale).model, vocabulary_size(study.data))
    flops = float(training_flops(model, study.data.sequence_length)) * tokens
    return PlanRow(stage, times * len(lengths), max(lengths), tokens, flops)
