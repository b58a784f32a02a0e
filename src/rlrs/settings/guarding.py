"""What a run of `rlrs train` does by itself when something goes wrong: nothing, unless it is asked to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rlrs.settings.base import BelowOne, CountFrom0, Settings

GuardedCheck = Literal[
    "non_finite",
    "loss_spike",
    "loss_rise",
    "clip_starvation",
    "gradient_spike",
    "dead_component",
    "update_ratio_high",
    "update_ratio_low",
    "weight_growth",
    "router_collapse",
    "router_uniform",
    "generalisation_gap",
]
"""Checks that a run can act on: of its own numbers, so that a resumed run does the same. Its pace is the machine's."""
Action = Literal["warn", "pull", "uniform", "rollback", "stop"]


class GuardConfig(Settings):
    """A guard of the runs of `rlrs train`: what it does about which alarm. Compared and searched runs never have one.

    `rlrs.monitoring.Guard` says what the actions do.
    """

    actions: dict[GuardedCheck, Action] = Field(min_length=1)
    """Check -> action. `warn` is the alarm alone; checks that are not named are made too, and only warn."""
    thresholds: str | dict[str, Any] | None = None
    """A monitor.yaml of `rlrs monitor calibrate`, or what one holds; the defaults if not set."""
    pull: BelowOne = 0.5
    """Power of ratios in `pull`, and for a component that a rollback is blamed on."""
    smaller: BelowOne = 0.5
    """Factor of rates after a rollback."""
    skip: bool = False
    """After a rollback, leave out the batches between the checkpoint and the alarm."""
    lookback: CountFrom0 = 30
    """Steps before the alarm at which a checkpoint is thought to be good. So many checkpoints stay as that takes."""
    pause: CountFrom0 = 50
    """Steps after an action in which no other is taken, but for `non_finite`."""
    most: CountFrom0 = 3
    """Actions in a run; the next one is a stop."""
