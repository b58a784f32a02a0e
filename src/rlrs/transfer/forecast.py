"""What a ladder says about the target, arm by arm, and what came out there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlrs.records import Results, Trial
from rlrs.records.certificate import ArmForecast, ComponentVerdict, Estimate, LawTerm, PredictionCheck
from rlrs.search.space import Space
from rlrs.settings import Arm
from rlrs.transfer.axes import Array, Axes, Size, identified
from rlrs.transfer.carrying import MARGIN, ComponentFate, Transferred, band, judge
from rlrs.transfer.law import RatioLaw, RungTrials, fit_law
from rlrs.transfer.losses import LossForecast, fewest_rungs, forecast_gain, forecast_loss, saved_steps
from rlrs.transfer.modes import MATRICES

_CONTROLS: dict[Arm, str] = {
    "uniform": "one rate for all",
    "embedding_only": "a tuned embedding multiplier",
    "constant": "ratios that do not change",
}
MODES = ("unchanged", "law", "sqrt-width", "mup")


@dataclass(frozen=True)
class Climbed:
    """What one arm did on one rung.

    Args:
        trials: of its search.
        best: the point that the search found.
        losses: of that point on fresh seeds, validation, nats per token; infinite for a run that diverged.
    """

    trials: Sequence[Trial]
    best: Mapping[str, float]
    losses: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the losses."""
        return math.fsum(self.losses) / len(self.losses)


@dataclass(frozen=True)
class Ladder:
    """All that was measured below the target.

    Args:
        sizes: of the rungs.
        climbed: of each rung, by arm.
        target: what is asked for.
        proxy: where ratios are carried from.
        spaces: of each arm's searches.
        found: arm -> the point that its search on the proxy found.
        components: of the model.
        final_fraction: the base's, where it is not searched.
        margin: a gain of no more than this is none, nats; `comparison.margin`.
        factor: grid ratio of the base rates that are tried at the target; `transfer.multiplier`.
    """

    sizes: Sequence[Size]
    climbed: Sequence[Mapping[Arm, Climbed]]
    target: Size
    proxy: Size
    spaces: Mapping[Arm, Space]
    found: Mapping[Arm, Mapping[str, float]]
    components: Sequence[str]
    final_fraction: float
    margin: float = MARGIN
    factor: float = 2.0


@dataclass(frozen=True)
class Forecast:
    """What a ladder says about the target.

    Args:
        axes: of the laws.
        arms: for the record.
        transferred: arm -> what it has there by its law.
        gains: control -> its loss minus that of `rlrs`, nats.
        saved: control -> share of its steps that `rlrs` saves.
        notes: what limits it.
    """

    axes: Axes
    arms: Mapping[Arm, ArmForecast]
    transferred: Mapping[Arm, Transferred]
    gains: Mapping[Arm, Estimate]
    saved: Mapping[Arm, Estimate]
    notes: tuple[str, ...]


def forecast(ladder: Ladder, mode: str) -> Forecast:
    """Laws of all arms, their verdicts, and losses, gains and saved steps at the target.

    A rung's losses are those of what was found there. Added to them, draw by draw, is what an arm is expected to lose
    at the target by ratios that are not the best ones there, beyond what the rungs lose by theirs.

    Args:
        ladder: measured.
        mode: of the transfer, one of `MODES`.

    Raises:
        ValueError: an arm without a finished trial on some rung.
    """
    axes = identified(ladder.sizes)
    lines = _Lines(ladder, axes)
    arms: dict[Arm, ArmForecast] = {}
    transferred: dict[Arm, Transferred] = {}
    penalties: dict[Arm, Array] = {}
    for arm, space in ladder.spaces.items():
        law = _law(ladder, arm, axes)
        found = ladder.found[arm]
        transferred[arm] = judge(law, space, found, ladder.target, lines.lost(arm), ladder.margin)
        lost, rates = _by_mode(law, space, ladder, arm, transferred[arm])
        penalties[arm] = lost[mode] - _lost_below(law, space, ladder, arm)
        loss = lines.losses.get(arm)
        arms[arm] = ArmForecast(
            point=dict(transferred[arm].point),
            law=_terms(law, ladder),
            noise=law.noise,
            verdicts=tuple(_record(verdict) for verdict in transferred[arm].verdicts),
            penalties={name: estimate(draws) for name, draws in lost.items()},
            loss=None if loss is None else estimate(loss.losses + penalties[arm]),
            rate=estimate(rates[mode]),
        )
    gains: dict[Arm, Array] = {
        control: draws - penalties["rlrs"] + penalties[control]
        for control, draws in lines.gains.items()
        if control != "rlrs"
    }
    saved: dict[Arm, Estimate] = {}
    for control, draws in gains.items():
        loss = lines.losses.get(control)
        if loss is not None and loss.per_token is not None:
            saved[control] = estimate(saved_steps(draws, loss.per_token))
    return Forecast(axes, arms, transferred, {c: estimate(d) for c, d in gains.items()}, saved, tuple(lines.notes))


def estimate(draws: Array) -> Estimate:
    """Median and interval of draws, to six digits.

    >>> estimate(np.linspace(0.0, 1.0, 101))
    Estimate(value=0.5, low=0.05, high=0.95)
    """
    middle, low, high = (float(f"{value:.6g}") for value in band(draws))
    return Estimate(value=middle, low=low, high=high)


def sentence(gains: Mapping[Arm, Estimate], saved: Mapping[Arm, Estimate], order: Sequence[Arm]) -> str:
    """Will it carry, in words: against the control that is left with the least gain.

    Args:
        gains: control -> what `rlrs` gains on it at the target.
        saved: control -> share of its steps.
        order: of the controls, the simplest first.
    """
    known: list[Arm] = [control for control in order if control in gains]
    if not known:
        return "Not known: too few rungs were measured for a forecast of the gain."
    unsure: list[Arm] = [control for control in known if gains[control].low <= 0]
    least = unsure[0] if unsure else min(known, key=lambda control: gains[control].value)
    gain, control = gains[least], _CONTROLS.get(least, least)
    span = f"{gain.low:+.3f} to {gain.high:+.3f} nats"
    if not unsure:
        steps = f", for {saved[least].low:.0%} to {saved[least].high:.0%} fewer steps" if least in saved else ""
        return f"Yes: relative schedules are expected to gain {span} on {control} at the target{steps}."
    if gain.high < 0:
        return f"No: relative schedules are expected to lose to {control} at the target: {span}."
    first = gains.get("uniform")
    beyond = (
        f"; on {_CONTROLS['uniform']} it is {first.low:+.3f} or more" if first is not None and first.low > 0 else ""
    )
    return f"Not shown: the gain of relative schedules on {control} at the target is put at {span}{beyond}."


def checks(
    arms: Mapping[Arm, ArmForecast], gains: Mapping[Arm, Estimate], saved: Mapping[Arm, Estimate], results: Results
) -> tuple[PredictionCheck, ...]:
    """Predictions beside what a comparison measured.

    Args:
        arms: forecast.
        gains: likewise.
        saved: likewise.
        results: of the study, compared.
    """
    comparison = results.comparison
    assert comparison is not None
    found: list[PredictionCheck] = []
    for arm, ahead in arms.items():
        measured = comparison.losses[arm].mean if arm in comparison.losses else None
        if ahead.loss is not None and measured is not None:
            found.append(_check(f"final loss of {arm}, nats per token", ahead.loss, measured))
    for control, gain in gains.items():
        if control in comparison.differences:
            found.append(_check(f"gain over {control}, nats per token", gain, -comparison.differences[control].mean))
    for control, share in saved.items():
        if control in comparison.speed_up:
            measured = comparison.speed_up[control]
            held = {
                "none": share.holds(measured.mean),
                "lower": share.high >= measured.mean,
                "upper": share.low <= measured.mean,
            }[measured.bound]
            bound = {"none": "", "lower": " (at least)", "upper": " (at most)"}[measured.bound]
            what = f"share of the steps of {control} saved{bound}"
            found.append(PredictionCheck(what=what, predicted=share, measured=measured.mean, inside=held))
    for arm, ahead in arms.items():
        lr, transfer = results.arms[arm].recipe.target_lr, results.arms[arm].transfer
        if lr is not None and transfer is not None:
            found.append(_check(f"base rate of {arm}, as it is tuned", ahead.rate, lr))
    return tuple(found)


def refutations(arms: Mapping[Arm, ArmForecast], gains: Mapping[Arm, Estimate], level: float) -> tuple[str, ...]:
    """What at the target would say that the forecast is wrong."""
    found = []
    if "rlrs" in arms and (loss := arms["rlrs"].loss) is not None:
        found.append(f"A mean final loss of relative schedules outside {loss.low:.3f} to {loss.high:.3f} nats.")
    found += [f"A gain over {c} outside {gain.low:+.3f} to {gain.high:+.3f} nats." for c, gain in gains.items()]
    if "rlrs" in arms:
        rate = arms["rlrs"].rate
        found.append(f"A tuned base rate of relative schedules outside {rate.low:.3g} to {rate.high:.3g}.")
        for term in arms["rlrs"].law:
            if term.name.endswith((".start", ".end")):
                found.append(
                    f"A search at the target that finds {term.name} outside {term.target.low:.3g} to "
                    f"{term.target.high:.3g}."
                )
    found.append(f"One of these is outside by chance in {1 - level:.0%} of cases; several are not.")
    return tuple(found)


class _Lines:
    """Forecasts of losses and gains, from the rungs on which no run of an arm diverged."""

    def __init__(self, ladder: Ladder, axes: Axes) -> None:
        self._ladder, self.notes = ladder, list[str]()
        self.losses: dict[Arm, LossForecast] = {}
        arms = list(ladder.spaces)
        for number, arm in enumerate(arms):
            sizes, means = self._kept([arm])
            if len(sizes) < len(ladder.sizes):
                lost = len(ladder.sizes) - len(sizes)
                self.notes.append(
                    f"{arm} diverged on a fresh seed of {lost} of {len(ladder.sizes)} rungs: left out there."
                )
            if len(sizes) >= fewest_rungs(axes):
                self.losses[arm] = forecast_loss(sizes, means[0], axes, ladder.target, number)
        self.gains = self._against("rlrs", arms, axes)
        self._uniform = {arm: self._against(arm, ["uniform"], axes).get("uniform") for arm in arms if arm != "uniform"}
        for axis, reason in axes.left_out.items():
            self.notes.append(f"The laws have no term for {axis}: {reason}.")
            if axis == "depth" and ladder.target.depth not in {size.depth for size in ladder.sizes}:
                self.notes.append(f"The target's depth of {ladder.target.depth:g} is on no rung.")

    def lost(self, arm: Arm) -> dict[str, str]:
        """Components that are dropped whatever their laws say: the arm's gain there is seen to be below the margin."""
        if arm == "uniform":
            return {}
        components = {name.rpartition(".")[0] for name in self._ladder.spaces[arm].names if "." in name}
        draws = self._uniform.get(arm)
        if draws is not None and (gain := band(draws))[2] < self._ladder.margin:
            reason = f"the gain over one rate for all is put at {gain[1]:+.3f} to {gain[2]:+.3f} nats"
            return dict.fromkeys(components, reason)
        draws = self.gains.get("embedding_only") if arm == "rlrs" else None
        if draws is not None and (gain := band(draws))[2] < self._ladder.margin:
            reason = f"the gain over a tuned embedding multiplier is put at {gain[1]:+.3f} to {gain[2]:+.3f} nats"
            return dict.fromkeys(components - {"embedding"}, reason)
        return {}

    def _against(self, arm: Arm, controls: Sequence[Arm], axes: Axes) -> dict[Arm, Array]:
        found: dict[Arm, Array] = {}
        for number, control in enumerate(controls):
            if control == arm or arm not in self._ladder.spaces or control not in self._ladder.spaces:
                continue
            sizes, (theirs, ours) = self._kept([control, arm])
            if len(sizes) >= fewest_rungs(axes):
                gains = [a - b for a, b in zip(theirs, ours, strict=True)]
                found[control] = forecast_gain(sizes, gains, axes, self._ladder.target, 10 + number)
        return found

    def _kept(self, arms: Sequence[Arm]) -> tuple[list[Size], list[list[float]]]:
        rows = [
            (size, [rung[arm].mean for arm in arms])
            for size, rung in zip(self._ladder.sizes, self._ladder.climbed, strict=True)
            if all(math.isfinite(rung[arm].mean) for arm in arms)
        ]
        return [size for size, _ in rows], [[means[i] for _, means in rows] for i in range(len(arms))]


def _law(ladder: Ladder, arm: Arm, axes: Axes) -> RatioLaw:
    space = ladder.spaces[arm]
    rungs = []
    for size, rung in zip(ladder.sizes, ladder.climbed, strict=True):
        whole = [trial for trial in rung[arm].trials if trial.whole and trial.result is not None]
        scores = [trial.score if trial.measured else math.inf for trial in whole]
        rungs.append(RungTrials.from_points(size, space, [trial.params for trial in whole], scores))
    return fit_law(rungs, space.names, ladder.final_fraction, axes)


def _by_mode(
    law: RatioLaw, space: Space, ladder: Ladder, arm: Arm, transferred: Transferred
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Mode -> draws of what its point loses, and of its base rate as it is tuned at the target."""
    optima = law.optima(ladder.target)
    here, wider = np.array(space.coordinates(ladder.found[arm])), math.log(ladder.target.width / ladder.proxy.width)
    columns = {component: [] for component in ("embedding", *MATRICES)}
    for column, name in enumerate(space.names):
        if (component := name.rpartition(".")[0]) in columns and not name.endswith("weight_decay"):
            columns[component].append(column)
    root, mup = here.copy(), here.copy()
    root[columns["embedding"]] += wider / 2
    # Matrices that are not searched follow the base rate: then the others move the other way.
    if all(columns[name] for name in MATRICES if name in ladder.components):
        mup[list(itertools.chain.from_iterable(columns[name] for name in MATRICES))] -= wider
    else:
        mup[columns["embedding"]] += wider
    by_law = np.array(space.coordinates(transferred.point))
    points = dict(zip(MODES, (here, by_law, root, mup), strict=True))
    lost, rates = {}, {}
    for mode, point in points.items():
        at = law.rates.coordinates(point)
        lost[mode] = optima.penalty(at)
        start = transferred.point["lr"] if mode == "law" else ladder.found[arm]["lr"]
        rates[mode] = start * np.exp(optima.tuned(at, ladder.factor, law.noise))
    return lost, rates


def _lost_below(law: RatioLaw, space: Space, ladder: Ladder, arm: Arm) -> Array:
    """What an arm's own points lose on the rungs by not being the best ones there, mean over the rungs, [S]."""
    lost = [
        law.optima(size).penalty(law.rates.coordinates(np.array(space.coordinates(rung[arm].best))))
        for size, rung in zip(ladder.sizes, ladder.climbed, strict=True)
    ]
    return np.mean(lost, axis=0)


def _terms(law: RatioLaw, ladder: Ladder) -> tuple[LawTerm, ...]:
    """The law in the parameters' own units; a slope is over the span of the ladder."""
    centre, target = law.axes.centre, ladder.target

    def at(**moved: float) -> Array:
        sizes = {name: math.exp(centre[name] + moved.get(name, 0.0)) for name in law.axes.names}
        whole = {name: getattr(target, name) for name in ("width", "depth", "tokens")} | sizes
        return law.logarithms(Size(**whole), deviation=False)

    slopes = {}
    for name in law.axes.names:
        values = [math.log(getattr(size, name)) for size in ladder.sizes]
        half = (max(values) - min(values)) / 2
        slopes[name] = (at(**{name: half}) - at(**{name: -half})) / (2 * half)
    middle, there = at(), law.logarithms(target)
    return tuple(
        LawTerm(
            name=name,
            middle=estimate(np.exp(middle[:, column])),
            slopes={axis: estimate(draws[:, column]) for axis, draws in slopes.items()},
            target=estimate(np.exp(there[:, column])),
        )
        for column, name in enumerate(law.names)
    )


def _record(verdict: ComponentFate) -> ComponentVerdict:
    value, low, high = (float(f"{part:.6g}") for part in verdict.gain)
    return ComponentVerdict(
        component=verdict.component,
        fate=verdict.fate,
        reason=verdict.reason,
        found=dict(verdict.found),
        used=dict(verdict.used),
        gain=Estimate(value=value, low=low, high=high),
        shown=verdict.shown,
    )


def _check(what: str, predicted: Estimate, measured: float) -> PredictionCheck:
    return PredictionCheck(what=what, predicted=predicted, measured=measured, inside=predicted.holds(measured))
