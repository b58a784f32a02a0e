"""Joint moves to the minimum of a quadratic that is fitted to all trials so far, each verified by a run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from rlrs.search.methods.method import EndedError, Feedback, Method, Proposal, Stop
from rlrs.search.space import Space
from rlrs.search.surface import Array, Rates, Surface, fit

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


@dataclass(frozen=True)
class Cheap:
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


def response_surface(
    space: Space, *, budget: int, seed: int, cheap: Cheap | None = None, first_move: float = FIRST_MOVE
) -> Method:
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
        seed: of the random draws.
        cheap: cheap runs to begin with; none if None.
        first_move: size of the first moves, natural log; half of the trust region's first half-width.
    """
    search = _Search(space, np.random.default_rng(seed), cheap, first_move, 2 * first_move)
    try:
        return (yield from _course(search, budget))
    except EndedError as early:
        if not search.rounds:
            raise
        return search.stop(str(early))


def _course(search: _Search, budget: int) -> Method:
    cheap = search.cheap
    told = yield (batch := search.opening(budget))
    search.learn(batch, told)
    while cheap is not None:
        left = math.floor((cheap.budget - search.spent) / cheap.cost + 1e-9)
        batch = search.moves(min(BATCH, left), cheap=True)
        if not batch:
            break
        told = yield batch
        search.learn(batch, told)
    if cheap is not None:
        told = yield (batch := search.verification())
        search.learn(batch, told)
    while (left := math.floor(budget - search.spent + 1e-9)) > 0:
        batch = search.moves(min(BATCH, left), cheap=False)
        if not batch:
            return search.stop(search.reason)
        told = yield batch
        search.learn(batch, told)
    return search.stop(f"the budget of {budget} runs is spent")


@dataclass
class _Trial:
    point: dict[str, float]
    offset: Array
    cheap: bool
    score: float
    error: float
    measured: bool


@dataclass
class _Search:
    space: Space
    generator: np.random.Generator
    cheap: Cheap | None
    first_move: float
    radius: float
    rounds: int = 0
    reason: str = ""
    trials: list[_Trial] = field(default_factory=list)
    spent: float = 0.0
    quiet: int = 0
    fits: dict[tuple[int, bool], Surface] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coordinates = Rates(self.space.names, self.space.start().get("final_fraction", 1.0))
        self.low, self.high = map(np.array, zip(*self.space.limits(), strict=True))

    def point(self, v: Array) -> dict[str, float]:
        return self.space.point(np.clip(self.coordinates.back(v), self.low, self.high).tolist())

    def proposal(self, point: dict[str, float], move: str, *, cheap: bool) -> Proposal:
        if cheap and self.cheap is not None:
            return Proposal(point, f"{move}, cheap", steps=self.cheap.steps, width=self.cheap.width)
        return Proposal(point, move)

    def opening(self, budget: int) -> list[Proposal]:
        """The start, and pairs of opposite moves of all parameters together."""
        start = self.space.start()
        centre = self.coordinates.of(np.array(self.space.coordinates(start)))
        proposals = [Proposal(start, "start")]
        cheap = self.cheap is not None
        if cheap:
            proposals.append(self.proposal(start, "start", cheap=True))
        signs: set[tuple[float, ...]] = set()
        while len(signs) < 2 * min(PAIRS, 2 ** (len(self.space) - 1)):  # of few parameters, few moves differ
            sign_D = self.generator.choice([-1.0, 1.0], len(self.space))
            if tuple(sign_D) not in signs:
                pair = [sign_D, -sign_D]
                signs.update(map(tuple, pair))
                points = (self.point(centre + self.first_move * one_D) for one_D in pair)
                proposals += [self.proposal(point, "joint move", cheap=cheap) for point in points]
        return proposals[: 1 + math.floor((self.cheap.budget - 1) / self.cheap.cost) if self.cheap else budget]

    def learn(self, batch: list[Proposal], told: list[Feedback]) -> None:
        """Note what came of a batch; the trust region follows."""
        first = len(self.trials)
        self.fits.clear()
        for proposal, feedback in zip(batch, told, strict=True):
            offset = self.coordinates.of(np.array(self.space.coordinates(proposal.params)))
            measured = feedback.status == "finished"
            trial = _Trial(proposal.params, offset, not proposal.whole, feedback.score, feedback.error, measured)
            self.trials.append(trial)
            self.spent += self.cheap.cost if trial.cheap and self.cheap else 1.0
        self.rounds += 1
        if first:  # the opening says nothing of the region
            best = self.best(cheap=self.trials[-1].cheap)
            # The first of a batch is the surface's own minimum: where that is best, the surface may be trusted further.
            factor = GROW if best == first else 1.0 if best > first else SHRINK
            self.radius = min(max(self.radius * factor, RADIUS[0]), RADIUS[1])

    def best(self, *, cheap: bool) -> int:
        """Of the cheap or the whole trials, the index of the best by the fit: the lowest score may be a lucky one."""
        kind = [i for i, trial in enumerate(self.trials) if trial.cheap == cheap]
        lowest = min(kind, key=lambda i: (not self.trials[i].measured, self.trials[i].score, i))
        if self.rounds < 2 or not self.trials[lowest].measured:
            return lowest
        surface, at = self.surface(lowest, of_cheap=cheap), self.trials[lowest]
        near = at.score + LUCK * surface.noise
        like = [i for i in kind if self.trials[i].measured and self.trials[i].score <= near]
        return min(like, key=lambda i: (surface.value(self.trials[i].offset - at.offset), i))

    def surface(self, centre: int, *, of_cheap: bool) -> Surface:
        """The quadratic around a trial, fitted once per batch."""
        if (centre, of_cheap) in self.fits:
            return self.fits[centre, of_cheap]
        trials = self.trials
        x = np.array([trial.offset for trial in trials]) - trials[centre].offset
        # Cheap and whole runs each count from their own run of the start, or the first that did not diverge.
        start = {trial.cheap: trial.score for trial in reversed(trials) if math.isfinite(trial.score)}
        y = np.array([trial.score - start.get(trial.cheap, 0.0) for trial in trials])
        y -= y[centre] if math.isfinite(y[centre]) else 0.0
        # A run that diverged is as bad as the worst that did not, more or less.
        worst = max(float(np.max(y[np.isfinite(y)], initial=0.0)), 0.5)
        error = np.where(np.isfinite(y), [trial.error for trial in trials], worst / 2)
        cheap = np.array([trial.cheap for trial in trials])
        near = np.sort(np.argsort((x**2).sum(1), kind="stable")[:NEAREST])
        surface = fit(x[near], np.where(np.isfinite(y), y, worst)[near], error[near], cheap[near], of_cheap=of_cheap)
        self.fits[centre, of_cheap] = surface
        return surface

    def moves(self, count: int, *, cheap: bool) -> list[Proposal]:
        """The minimum of the fitted quadratic, and minima of drawn ones; none when nothing more is to be expected."""
        if count < 1:
            return []
        best = self.best(cheap=cheap)
        surface, centre = self.surface(best, of_cheap=cheap), self.trials[best].offset
        box = np.full(len(self.space), self.radius)
        x = surface.minimum(-box, box)
        expected = surface.value(0 * x) - surface.value(x)
        inner = DRAWN * box
        minima = [surface.minimum(-inner, inner, surface.sample(self.generator)) for _ in range(count - 1)]
        gain = max(surface.expected_gain(y) for y in (x, *minima))
        at_end = self.radius <= RADIUS[0]
        self.quiet = self.quiet + 1 if gain < WORTH * surface.noise or at_end else 0
        if self.quiet >= PATIENCE:
            self.reason = (
                f"nothing better was found within a factor of {math.exp(RADIUS[0]):.2g} of the best point"
                if at_end
                else f"the surface expects {gain:.4f} nats more, little beside a trial's noise of {surface.noise:.4f}"
            )
            return []
        words = f"minimum of the surface, {expected:.4f} nats lower expected"
        return [
            self.proposal(self.point(centre + x), words, cheap=cheap),
            *(self.proposal(self.point(centre + y), "minimum of a drawn surface", cheap=cheap) for y in minima),
        ]

    def verification(self) -> list[Proposal]:
        """The surface's minimum for whole runs, and the best points of the cheap ones, to be trained whole."""
        assert self.cheap is not None
        self.quiet = 0
        whole = [t.point for t in self.trials if not t.cheap]
        ranked = sorted(
            (t for t in self.trials if t.cheap and t.measured and t.point not in whole), key=lambda t: t.score
        )
        best = self.best(cheap=True)
        surface, box = self.surface(best, of_cheap=False), np.full(len(self.space), self.radius)
        x = surface.minimum(-box, box)
        self.radius = max(self.radius, self.first_move)
        chosen = [self.proposal(self.point(self.trials[best].offset + x), "minimum of the surface", cheap=False)]
        chosen += [Proposal(t.point, f"best {n} of the cheap runs") for n, t in enumerate(ranked, 1)]
        return chosen[: self.cheap.verify]

    def stop(self, reason: str) -> Stop:
        best = self.trials[self.best(cheap=False)]
        return Stop(best.point, best.score, self.rounds, reason)
