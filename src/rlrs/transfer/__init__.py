"""Will it carry? Laws of ratios and losses over sizes and horizons, fitted below the target."""

from rlrs.transfer.axes import Axes, Size, identified
from rlrs.transfer.law import LEVEL, Optima, RatioLaw, RungTrials, fit_law
from rlrs.transfer.losses import LossForecast, fewest_rungs, forecast_gain, forecast_loss, saved_steps
from rlrs.transfer.modes import carried
from rlrs.transfer.verdicts import Transferred, Verdict, band, judge

__all__ = [
    "LEVEL",
    "Axes",
    "LossForecast",
    "Optima",
    "RatioLaw",
    "RungTrials",
    "Size",
    "Transferred",
    "Verdict",
    "band",
    "carried",
    "fewest_rungs",
    "fit_law",
    "forecast_gain",
    "forecast_loss",
    "identified",
    "judge",
    "saved_steps",
]
