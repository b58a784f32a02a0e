"""The checks: what each looks at, its threshold before calibration and where that is from, its cause and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CHOSEN = "chosen here, not studied"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check; it goes off when `patience` values in a row are beyond the threshold."""

    name: str
    direction: Literal["above", "below"]
    """The side of the threshold on which a value is an alarm."""
    default: float
    """Threshold before calibration."""
    source: str
    """Where the default is from."""
    tightest: float
    """Calibration goes no closer to healthy values than this; equal to the default for a check without calibration."""
    margin: float = 1.5
    """Calibrated threshold over the worst healthy value (under it, for a check below). Chosen here, not studied."""
    patience: int = 1
    value: str
    """What is compared, in words."""
    cause: str
    remedy: str

    @property
    def calibrated(self) -> bool:
        """Whether healthy runs set its threshold."""
        return self.tightest != self.default

    def beyond(self, value: float, threshold: float) -> bool:
        """Whether a value is an alarm."""
        return value > threshold if self.direction == "above" else value < threshold

    def worst(self, a: float, b: float) -> float:
        """The value that is closer to an alarm."""
        return max(a, b) if self.direction == "above" else min(a, b)

    def mildest(self, a: float, b: float) -> float:
        """The value that is further from an alarm."""
        return min(a, b) if self.direction == "above" else max(a, b)

    def threshold(self, worst: float) -> float:
        """The threshold for a worst healthy value.

        >>> check("loss_rise").threshold(0.2), check("update_ratio_low").threshold(3e-5)
        (0.30000000000000004, 1e-05)
        """
        if self.direction == "above":
            return max(worst * self.margin, self.tightest)
        return min(worst / self.margin, self.tightest)


_LOWER = "lower the base rate, or this component's ratio; go back to a checkpoint before the step"

_LIST = (
    Check(
        name="non_finite",
        direction="above",
        default=0.0,
        source="exact",
        tightest=0.0,
        value="whether a loss, gradient, update or weight is not a finite number (1) or is (0)",
        cause="overflow: a rate that is too high, a loss scale that is, or bad data",
        remedy="stop; go back to a checkpoint before the step, and go on at a lower rate or without the batch",
    ),
    Check(
        name="loss_spike",
        direction="above",
        default=6.0,
        source="OLMo-core, SkipStepOptimizer: 6 standard deviations; here of the median absolute deviation",
        tightest=4.0,
        value="training loss minus the window's median, in robust standard deviations",
        cause="an unusual batch, or a rate that is too high",
        remedy="look at the batch; if spikes come again, lower the rate of the component",
    ),
    Check(
        name="loss_rise",
        direction="above",
        default=0.5,
        source=CHOSEN,
        tightest=0.05,
        value="median of the last three training losses minus the lowest such median before, nats",
        cause="divergence: a rate that is too high for the present weights, or the data changed",
        remedy=_LOWER,
    ),
    Check(
        name="rate_off_schedule",
        direction="above",
        default=0.01,
        source="exact, up to what a bfloat16 rate can hold",
        tightest=0.01,
        value="how far the rate is from the scheduled one, as a share of that",
        cause="something else writes learning rates, or the scheduler does not step with the optimizer",
        remedy="leave one scheduler; `rlrs.verify` says which component moves at what rate",
    ),
    Check(
        name="clip_starvation",
        direction="below",
        default=0.1,
        source=CHOSEN,
        tightest=0.5,
        patience=3,
        value="what clipping leaves of the other components' gradients, over what it would leave without this one",
        cause="this component has nearly all of the global gradient norm, and clipping shrinks the others' gradients",
        remedy="clip per component, or find why its gradient is that large",
    ),
    Check(
        name="gradient_spike",
        direction="above",
        default=10.0,
        source=CHOSEN,
        tightest=3.0,
        value="gradient norm over the window's median",
        cause="an unusual batch, or this component is about to diverge",
        remedy="look at the batch; lower the ratio of the component if it comes again",
    ),
    Check(
        name="dead_component",
        direction="below",
        default=1e-3,
        source=CHOSEN,
        tightest=0.1,
        margin=3.0,
        patience=2,
        value="gradient norm over the window's median; 0 without gradient or update at a rate above 0",
        cause="no gradient reaches the component, or the optimizer does not change it",
        remedy="look for a detached tensor, requires_grad=False, a saturated gate, or a parameter the optimizer lost",
    ),
    Check(
        name="update_ratio_high",
        direction="above",
        default=0.1,
        source="100 times the 1e-3 that the CS231n notes give (Karpathy, 'Ratio of weights:updates')",
        tightest=1e-4,
        patience=2,
        value="norm of a step's change over the norm of the weights",
        cause="the rate of the component is too high, or its weights have shrunk",
        remedy="lower its ratio; look at its weight decay",
    ),
    Check(
        name="update_ratio_low",
        direction="below",
        default=1e-7,
        source="1e-4 times the 1e-3 that the CS231n notes give",
        tightest=1e-2,
        margin=3.0,
        patience=2,
        value="norm of a step's change over the norm of the weights, at a rate above 0",
        cause="the component hardly moves: its rate is too low, or its weights have grown",
        remedy="raise its ratio; look at precision (bfloat16 weights take no small change) and weight decay",
    ),
    Check(
        name="weight_growth",
        direction="above",
        default=10.0,
        source=CHOSEN,
        tightest=1.5,
        value="norm of the weights over their first norm",
        cause="a rate that is too high, or weight decay that is missing or has the wrong sign",
        remedy="look at weight decay and the ratio of the component",
    ),
    Check(
        name="router_collapse",
        direction="below",
        default=0.5,
        source=CHOSEN,
        tightest=0.9,
        margin=1.2,
        patience=3,
        value="entropy of an expert's load over that of an even load; 0 when one expert gets all",
        cause="the router sends most tokens to few experts",
        remedy="lower the router's ratio, or raise the load-balancing loss",
    ),
    Check(
        name="router_uniform",
        direction="above",
        default=0.999,
        source=CHOSEN,
        tightest=0.999,
        patience=3,
        value="entropy of the router's probabilities over its largest, ln(experts)",
        cause="the router does not distinguish tokens: it is dead, or its rate is too low",
        remedy="raise the router's ratio; look at whether a gradient reaches it",
    ),
    Check(
        name="generalisation_gap",
        direction="above",
        default=0.3,
        source=CHOSEN,
        tightest=0.05,
        patience=2,
        value="held-out loss minus training loss, over the smallest that it was, nats",
        cause="the run memorises: the data are few, repeated or biased for so many steps at these rates",
        remedy="stop at the lowest held-out loss; more data, fewer passes, lower rates or more weight decay",
    ),
    Check(
        name="throughput",
        direction="below",
        default=0.5,
        source=CHOSEN,
        tightest=0.8,
        margin=1.3,
        patience=3,
        value="speed over the window's median",
        cause="a slow data loader, node or network, or another process on the machine",
        remedy="look at the input pipeline and the machine; the loss is not affected",
    ),
)

CHECKS: dict[str, Check] = {one.name: one for one in _LIST}
"""All checks by name, in the order in which alarms of one step are raised."""


def check(name: str) -> Check:
    """A check by its name."""
    return CHECKS[name]
