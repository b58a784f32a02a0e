"""Will it carry? Laws of ratios and losses over sizes and horizons, fitted below the target."""

from rlrs.transfer.axes import Axes, Size, identified
from rlrs.transfer.carrying import ComponentFate, Transferred, band, judge
from rlrs.transfer.forecast import Climbed, Forecast, Ladder, checks, forecast, refutations, sentence
from rlrs.transfer.law import LEVEL, Optima, RatioLaw, RungTrials, fit_law
from rlrs.transfer.losses import LossForecast, fewest_rungs, forecast_gain, forecast_loss, saved_steps
from rlrs.transfer.modes import carried

__all__ = [
    "LEVEL",
    "Axes",
    "Climbed",
    "ComponentFate",
    "Forecast",
    "Ladder",
    "LossForecast",
    "Optima",
    "RatioLaw",
    "RungTrials",
    "Size",
    "Transferred",
    "band",
    "carried",
    "checks",
    "fewest_rungs",
    "fit_law",
    "forecast",
    "forecast_gain",
    "forecast_loss",
    "identified",
    "judge",
    "refutations",
    "saved_steps",
    "sentence",
]
