"""Searches at a cheap fidelity, verified at the full one; and the best points tested again on seeds never used."""

from __future__ import annotations

import math
from dataclasses import replace

from rlrs.search.methods.method import EndedError, Method, Proposal, Stop, ended


def cheap(method: Method, *, steps: int | None, width: int | None, verify: int) -> Method:
    """The method on shorter or narrower runs, its best points then trained whole.

    Args:
        method: proposes whole runs.
        steps: of a cheap run, with its own full schedule; None for all.
        width: model width of a cheap run; None for the model's own.
        verify: points that are trained whole, the start among them; two at least.
    """
    points: dict[tuple[float, ...], tuple[float, int, dict[str, float]]] = {}
    batch = next(method)
    start = batch[0].params
    # The start is trained whole first: so a search that is stopped early has a whole run to answer with.
    first, *told = yield [Proposal(start, "start, whole"), *_cheaper(batch, steps, width)]
    while True:
        for proposal, feedback in zip(batch, told, strict=True):
            if feedback.status == "finished":
                key = tuple(proposal.params.values())
                points.setdefault(key, (feedback.score, len(points), proposal.params))
        try:
            batch = method.send(told)
        except StopIteration as end:
            stop: Stop = end.value
            break
        told = yield _cheaper(batch, steps, width)
    ranked = [params for _, _, params in sorted(points.values(), key=lambda p: p[:2])] or [stop.best]
    chosen = [params for params in ranked if params != start][: max(1, verify - 1)]
    scores = [first.score]
    if chosen:
        told = yield [Proposal(p, f"best {n} of the cheap runs, whole") for n, p in enumerate(chosen, 1)]
        scores += [feedback.score for feedback in told]
    winner = min(range(len(scores)), key=lambda i: (scores[i], i))
    reason = f"{stop.reason}; {len(scores)} trained whole"
    return replace(stop, best=[start, *chosen][winner], score=scores[winner], reason=reason)


def _cheaper(batch: list[Proposal], steps: int | None, width: int | None) -> list[Proposal]:
    return [replace(p, steps=steps, width=width) for p in batch]


def retested(method: Method, *, points: int, seeds: int, seed: int) -> Method:
    """The method, and then its best points on new seeds, so that a point that was lucky on one seed does not win.

    Args:
        method: any; its whole runs are what is tested again.
        points: how many are tested again: what the method ends with, and those with the lowest scores.
        seeds: new seeds for each.
        seed: the search's; new ones are far from it, and from those of a comparison.
    """
    scores: dict[tuple[float, ...], tuple[float, int, dict[str, float]]] = {}
    batch = next(method)
    while True:
        try:
            told = yield batch
        except EndedError as early:
            answer = ended(method, str(early))
            if answer is None:
                raise
            return answer
        for proposal, feedback in zip(batch, told, strict=True):
            if proposal.whole and feedback.status == "finished":
                key = tuple(proposal.params.values())
                scores.setdefault(key, (feedback.score, len(scores), proposal.params))
        try:
            batch = method.send(told)
        except StopIteration as end:
            stop: Stop = end.value
            break
    ranked = sorted(scores.values(), key=lambda s: (s[2] != stop.best, *s[:2]))[:points]
    if len(ranked) < 2 or seeds < 1:
        return stop
    new = [_FIRST_NEW_SEED + 1000 * seed + k for k in range(seeds)]
    try:
        told = yield [
            Proposal(p, f"best {n + 1} again, seed {s}", seed=s) for n, (_, _, p) in enumerate(ranked) for s in new
        ]
    except EndedError as early:
        return replace(stop, reason=f"{stop.reason}; not tested again: {early}")
    means = [
        math.fsum([ranked[n][0], *(f.score for f in told[n * seeds : (n + 1) * seeds])]) / (seeds + 1)
        for n in range(len(ranked))
    ]
    winner = min(range(len(ranked)), key=lambda n: (means[n], n))
    if math.isinf(means[winner]):
        return stop
    words = f"; best of {len(ranked)} points on {seeds + 1} seeds"
    if winner:
        words += f", {means[0] - means[winner]:.4f} nats below the search's own best"
    return replace(stop, best=ranked[winner][2], score=ranked[winner][0], reason=stop.reason + words)


_FIRST_NEW_SEED = 1_000_000
