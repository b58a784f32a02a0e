"""Joint moves to the minimum of a quadratic that is fitted to all trials so far, each verified by a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rlrs.messages import plural
from rlrs.records import Proposal, SearchResult
from rlrs.search.earlier import Known
from rlrs.search.method import History, batches, first_least, lowest
from rlrs.search.space import Space
from rlrs.search.surface import TOLERANCE, Array, Rates, Surface, fit

BATCH = 4
"""Proposals at a time, whatever the number of workers."""
PAIRS = 4
"""Opposite joint moves that it starts with."""
FIRST_MOVE = 0.6
"""Size of the first moves, natural log (a factor of 1.8). Chosen on proxies of seconds that start far from the best."""
RADIUS = (0.1, 2.0)
"""Least and largest half-width of the trust region, natural log."""
GROW, SHRINK = 1.25, 0.7
DRAWN = 0.6
"""Share of the trust region that minima of drawn quadratics stay in: most end in a corner, where the fit says least."""
PATIENCE = 3
"""Rounds in a row with little to gain, or with the least region, after which the search stops."""
NEAREST = 256
"""Trials that a quadratic is fitted to, at most: from further away it would learn next to nothing."""
LUCK = 4.0
"""How far above the lowest score the best trial may be, as a multiple of a trial's noise."""
WORTH = 0.5
"""Least gain worth going on for, as a multiple of a trial's noise, which the fit of few trials often takes too high."""

OPENING, CHEAP, VERIFICATION, WHOLE = range(4)
"""Stages of a search, as its batches note them down."""


@dataclass(frozen=True)
class CheapRuns:
    """Shorter or narrower runs that a search begins with.

    Args:
        steps: of one; None for those of a whole run.
        width: of its model; None for the model's own.
        cost: of one, in whole runs.
        budget: most that is spent on them, in whole runs.
        verify: of their best points, how many are trained whole when they end.
    """

    steps: int | None
    width: int | None
    cost: float
    budget: float
    verify: int


@dataclass(frozen=True)
class ResponseSurface:
    """Newton-like search: in the place of four runs per parameter and sweep, moves of all parameters at once.

    It starts with pairs of opposite joint moves, which tell all slopes. Then, batch by batch, a quadratic is fitted
    to all trials (`rlrs.search.surface`), and its minimum within a trust region around the best point is trained,
    beside minima of quadratics drawn from the posterior, nearer by, which explore where the fit is unsure. The
    region grows when the minimum is better than what was known, and shrinks when nothing is.

    With `cheap`, that is done on cheap runs first and then on whole ones, by one fit to both: a cheap run differs
    from a whole one by a value and slopes that are fitted as well.

    Args:
        space: what is searched.
        budget: most runs, in whole ones.
        seed: of the random draws; each batch has draws of its own.
        cheap: cheap runs to begin with; none if None.
        first_move: size of the first moves, natural log; half of the trust region's first half-width.
        known: trials of an earlier search, of this size or another, the lowest score first. They enter the fit as cheap
            runs do, which differ by a value and slopes that are fitted too; the search begins at the surface's minima,
            and not with pairs. Not together with `cheap`.
    """

    space: Space
    budget: int
    seed: int
    cheap: CheapRuns | None = None
    first_move: float = FIRST_MOVE
    known: Known = ()

    def ask(self, history: History) -> list[Proposal] | SearchResult:
        """The opening, or the minimum of the fitted quadratic and of drawn ones; see `Method.ask`."""
        if not history:
            return self._opening()
        seen = _Seen(self, history)
        if seen.stage in (OPENING, CHEAP) and self.cheap is not None:
            left = math.floor((self.cheap.budget - seen.spent) / self.cheap.cost + 1e-9)
            moves = seen.moves(left, CHEAP) if seen.has_cheap else []
            if isinstance(moves, list) and moves:
                return moves
            verification = seen.verification()
            if verification:
                return verification
        left = math.floor(self.budget - seen.spent + 1e-9)
        moves = seen.moves(left, WHOLE)
        if isinstance(moves, str):
            return self.result(history, moves)
        return moves or self.result(history, f"the budget of {plural(self.budget, 'run')} is spent")

    def result(self, history: History, reason: str) -> SearchResult:
        """The best whole trial by the fit: the lowest score may be a lucky one."""
        seen = _Seen(self, history)
        if not any(trial.whole and trial.measured for trial in history):
            return lowest(history, reason, seen.rounds)
        best = history[seen.best(cheap=False)]
        return SearchResult(best=best.params, score=best.score, reason=reason, rounds=seen.rounds)

    def _opening(self) -> list[Proposal]:
        """The start, and pairs of opposite moves of all parameters together; of known trials, minima of their fit."""
        if self.known:
            return self._from_known()
        generator, rates = np.random.default_rng([self.seed, 0]), self.rates
        start = self.space.start()
        centre = rates.coordinates(np.array(self.space.coordinates(start)))
        memo = {"stage": float(OPENING), "radius": 2 * self.first_move, "quiet": 0.0}
        proposals = [Proposal(params=start, move="start", memo=memo)]
        if self.cheap is not None:
            proposals.append(self.proposal(start, "start", memo, cheap=True))
        signs: set[tuple[float, ...]] = set()
        while len(signs) < 2 * min(PAIRS, 2 ** (len(self.space) - 1)):  # of few parameters, few moves differ
            sign_D = generator.choice([-1.0, 1.0], len(self.space))
            if tuple(sign_D) not in signs:
                pair = [sign_D, -sign_D]
                signs.update(map(tuple, pair))
                points = (self.point(centre + self.first_move * one_D) for one_D in pair)
                proposals += [
                    self.proposal(point, "joint move", memo, cheap=self.cheap is not None) for point in points
                ]
        if self.cheap is None:
            return proposals[: self.budget]
        return proposals[: 1 + max(0, math.floor((self.cheap.budget - 1) / self.cheap.cost + 1e-9))]

    def _from_known(self) -> list[Proposal]:
        """The start, the minimum of the surface that earlier trials give, and minima of drawn ones."""
        start = self.space.start()
        centre = self.rates.coordinates(np.array(self.space.coordinates(start)))
        x_nd, y_n = self.known_trials(centre)
        # Of another size, perhaps: how its slopes may differ is a part of what is drawn.
        surface = fit(x_nd, y_n, np.zeros(len(y_n)), np.full(len(y_n), True))
        box = np.full(len(self.space), self.first_move)
        generator = np.random.default_rng([self.seed, 0])
        offsets = [surface.minimum(-box, box)]
        offsets += [surface.minimum(-DRAWN * box, DRAWN * box, surface.sample(generator)) for _ in range(BATCH - 2)]
        memo = {"stage": float(OPENING), "radius": 2 * self.first_move, "quiet": 0.0}
        words = ["minimum of the earlier surface", *["minimum of a drawn surface"] * (BATCH - 2)]
        proposals = [Proposal(params=start, move="start", memo=memo)]
        for offset, move in zip(offsets, words, strict=True):
            point = self.point(centre + offset)
            if all(point != one.params for one in proposals):
                proposals.append(self.proposal(point, move, memo, cheap=False))
        return proposals[: self.budget]

    def known_trials(self, centre: Array) -> tuple[Array, Array]:
        """Earlier trials as offsets from a centre [n, d], and their scores above the lowest of them [n]."""
        points = [self.rates.coordinates(np.array(self.space.coordinates(point))) for point, _ in self.known]
        scores = np.array([score for _, score in self.known])
        return np.array(points).reshape(-1, len(self.space)) - centre, scores - scores.min(initial=math.inf)

    @cached_property
    def rates(self) -> Rates:
        """The coordinates in which the surface is fitted."""
        return Rates(self.space.names, self.space.start().get("final_fraction", 1.0))

    @cached_property
    def _box(self) -> tuple[Array, Array]:
        low, high = map(np.array, zip(*self.space.limits(), strict=True))
        return low, high

    def point(self, v: Array) -> dict[str, float]:
        """The point at the surface's coordinates, within bounds."""
        return self.space.point(np.clip(self.rates.logarithms(v), *self._box).tolist())

    def proposal(self, point: dict[str, float], move: str, memo: dict[str, float], *, cheap: bool) -> Proposal:
        """A proposal of a whole or of a cheap run."""
        whole = Proposal(params=point, move=move, memo=memo)
        if not cheap or self.cheap is None:
            return whole
        return whole.model_copy(update={"move": f"{move}, cheap", "steps": self.cheap.steps, "width": self.cheap.width})


class _Seen:
    """What a search knows from its history: trials as offsets, the trust region, fits; made anew for every question."""

    def __init__(self, method: ResponseSurface, history: History) -> None:
        self.method, self.trials = method, list(history)
        self.rounds, cost = len(batches(history)), 1.0 if method.cheap is None else method.cheap.cost
        self.offsets = [method.rates.coordinates(np.array(method.space.coordinates(t.params))) for t in history]
        self.spent = sum(1.0 if trial.whole else cost for trial in history)
        self.has_cheap = any(not trial.whole for trial in history)
        self.fits: dict[tuple[int, bool], Surface] = {}
        last = batches(history)[-1]
        memo = last[0].memo
        self.stage, self.quiet = int(memo.get("stage", WHOLE)), int(memo.get("quiet", 0))
        self.radius = memo.get("radius", 2 * method.first_move)
        if self.stage != OPENING:  # the opening says nothing of the region
            first = len(self.trials) - len(last)
            best = self.best(cheap=not self.trials[-1].whole)
            # The first of a batch is the surface's own minimum: where that is best, the surface may be trusted further.
            factor = GROW if best == first and memo.get("minimum") else 1.0 if best >= first else SHRINK
            self.radius = min(max(self.radius * factor, RADIUS[0]), RADIUS[1])

    def best(self, *, cheap: bool) -> int:
        """Of the cheap or the whole trials, the index of the best by the fit: the lowest score may be a lucky one."""
        kind = [i for i, trial in enumerate(self.trials) if trial.whole != cheap]
        ended = [i for i in kind if self.trials[i].measured]
        if not ended:
            return kind[first_least([self.trials[i].score for i in kind], 0.0)]
        lowest = ended[first_least([self.trials[i].score for i in ended], 0.0)]
        if self.rounds < 2:
            return lowest
        surface, at = self.surface(lowest, cheap=cheap), self.trials[lowest]
        like = [i for i in ended if self.trials[i].score <= at.score + LUCK * surface.noise]
        values = [surface.value(self.offsets[i] - self.offsets[lowest]) for i in like]
        return like[first_least(values, TOLERANCE)]

    def surface(self, centre: int, *, cheap: bool) -> Surface:
        """The quadratic around a trial, of cheap or of whole runs."""
        if (centre, cheap) in self.fits:
            return self.fits[centre, cheap]
        trials = self.trials
        x = np.array(self.offsets) - self.offsets[centre]
        # Cheap and whole runs each count from their own run of the start, or the first that did not diverge.
        start = {trial.whole: trial.score for trial in reversed(trials) if math.isfinite(trial.score)}
        y = np.array([trial.score - start.get(trial.whole, 0.0) for trial in trials])
        y -= y[centre] if math.isfinite(y[centre]) else 0.0
        # A run that diverged is as bad as the worst that did not, more or less.
        worst = max(float(np.max(y[np.isfinite(y)], initial=0.0)), 0.5)
        error = np.where(np.isfinite(y), [trial.error for trial in trials], worst / 2)
        y = np.where(np.isfinite(y), y, worst)
        kinds = np.array([not trial.whole for trial in trials])
        if self.method.known:
            x_known, y_known = self.method.known_trials(self.offsets[centre])
            x, y = np.vstack([x, x_known]), np.concatenate([y, y_known])
            error, kinds = np.concatenate([error, 0 * y_known]), np.concatenate([kinds, y_known >= 0])
        distance = np.round((x**2).sum(1), 9)  # of equally far ones the earlier, whatever the rounding
        near = np.sort(np.argsort(distance, kind="stable")[:NEAREST])
        self.fits[centre, cheap] = surface = fit(x[near], y[near], error[near], kinds[near], of_cheap=cheap)
        return surface

    def moves(self, left: int, stage: int) -> list[Proposal] | str:
        """The minimum of the fitted quadratic, and minima of drawn ones; why not, when nothing more is expected."""
        count, method = min(BATCH, left), self.method
        if count < 1:
            return []
        if self.stage != stage and stage == WHOLE and method.cheap is not None:
            self.quiet = 0
        cheap = stage == CHEAP
        best = self.best(cheap=cheap)
        surface, centre = self.surface(best, cheap=cheap), self.offsets[best]
        box = np.full(len(method.space), self.radius)
        x = surface.minimum(-box, box)
        expected = surface.value(0 * x) - surface.value(x)
        generator = np.random.default_rng([method.seed, self.rounds])
        minima = [surface.minimum(-DRAWN * box, DRAWN * box, surface.sample(generator)) for _ in range(count - 1)]
        gain = max(surface.expected_gain(y) for y in (x, *minima))
        at_end = self.radius <= RADIUS[0]
        quiet = self.quiet + 1 if gain < WORTH * surface.noise or at_end else 0
        if quiet >= PATIENCE:
            if at_end:
                return f"nothing better was found within a factor of {math.exp(RADIUS[0]):.2g} of the best point"
            return f"the surface expects {gain:.4f} nats more, little beside a trial's noise of {surface.noise:.4f}"
        words = [
            f"minimum of the surface, {expected:.4f} nats lower expected",
            *["minimum of a drawn surface"] * len(minima),
        ]
        known = [trial.params for trial in self.trials if trial.whole != cheap]
        new: dict[int, dict[str, float]] = {}
        for n, offset in enumerate((x, *minima)):
            point = method.point(centre + offset)
            if point not in known:  # the best point itself, where the fit has its minimum there
                known.append(point)
                new[n] = point
        if not new:
            return "the surface asks for nothing that was not tried"
        memo = {"stage": stage, "radius": self.radius, "quiet": quiet, "minimum": 0 in new}
        noted = {key: float(value) for key, value in memo.items()}
        return [method.proposal(point, words[n], noted, cheap=cheap) for n, point in new.items()]

    def verification(self) -> list[Proposal]:
        """The surface's minimum for whole runs, and the best points of the cheap ones, to be trained whole."""
        method, left = self.method, math.floor(self.method.budget - self.spent + 1e-9)
        assert method.cheap is not None
        count = min(method.cheap.verify, left)
        if count < 1 or not self.has_cheap:
            return []
        memo = {
            "stage": float(VERIFICATION),
            "radius": max(self.radius, method.first_move),
            "quiet": 0.0,
            "minimum": 1.0,
        }
        best = self.best(cheap=True)
        surface, box = self.surface(best, cheap=False), np.full(len(method.space), self.radius)
        point = method.point(self.offsets[best] + surface.minimum(-box, box))
        chosen = [method.proposal(point, "minimum of the surface", memo, cheap=False)]
        known = [point, *(t.params for t in self.trials if t.whole)]
        ranked = sorted((t for t in self.trials if not t.whole and t.measured), key=lambda t: (t.score, t.number))
        for trial in ranked:
            if trial.params not in known:
                known.append(trial.params)
                move = f"best {len(chosen)} of the cheap runs"
                chosen.append(method.proposal(trial.params, move, memo, cheap=False))
        return chosen[:count]
