"""How much of a search's scores each parameter explains."""

from __future__ import annotations

from collections.abc import Sequence

from rlrs.records import Trial

FEWEST = 20
"""Whole trials with a score below which an importance says nothing. Chosen here, on quadratics with noise."""


def importance(trials: Sequence[Trial]) -> dict[str, float]:
    """Share of the variation of the scores that each moved parameter explains, the largest first; they add up to 1.

    fANOVA (Hutter et al., 2014) by Optuna: a forest of trees fitted to the whole trials, marginals over the region
    that they cover, in logarithms. Empty where there are fewer than 20 of those, or where nothing varies.
    """
    whole = [(trial.params, trial.score) for trial in trials if trial.whole and trial.measured]
    if len(whole) < FEWEST:
        return {}
    import optuna
    from optuna.distributions import FloatDistribution

    ranges = {}
    for name in whole[0][0]:
        values = [params[name] for params, _ in whole if name in params]
        if len(values) == len(whole) and min(values) < max(values):
            ranges[name] = FloatDistribution(min(values), max(values), log=min(values) > 0)
    scores = [score for _, score in whole]
    if len(ranges) < 2 or min(scores) == max(scores):
        return dict.fromkeys(ranges, 1.0)
    # A few far misses would take all the variation: the worst quarter counts as the best of it.
    cap = sorted(scores)[3 * len(scores) // 4]
    study = optuna.create_study()
    study.add_trials(
        [
            optuna.create_trial(
                params={name: params[name] for name in ranges}, distributions=dict(ranges), value=min(score, cap)
            )
            for params, score in whole
        ]
    )
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(f"{share:.4g}") for name, share in shares.items()}
