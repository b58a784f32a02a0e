"""Parameter groups as the study's base schedule has them: what Muon trains has a base rate of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlrs.runs.asked import AskedRun

if TYPE_CHECKING:
    from torch.optim import Optimizer


class ComparableGroups:
    """An optimizer's groups, their rates over Muon's base rate where they have it, so that one schedule is due for all.

    A group whose tensors are sliced (ratios of experts or of tokens) has the rate of its fastest slice, which is no
    component's; it is left out, and `rlrs.verify` looks at it.

    Args:
        optimizer: of the run.
        asked: what the run is asked to be.
        muon: its base rate is Muon's, whatever its groups began with.
    """

    def __init__(self, optimizer: Optimizer, asked: AskedRun, *, muon: bool = False) -> None:
        self._optimizer, self._asked, self._muon = optimizer, asked, muon

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Component and rate of every group that can be compared."""
        return [
            {"component": group["component"], "lr": float(group["lr"]) / self._factor(group)}
            for group in self._optimizer.param_groups
            if group.get("component") is not None and not group.get("slices")
        ]

    @property
    def has_muon(self) -> bool:
        """Whether a group has Muon's base rate."""
        return self._muon or any(map(self._begins_at_muons, self._optimizer.param_groups))

    def _factor(self, group: Mapping[str, Any]) -> float:
        return self._asked.muon_rate if self._muon or self._begins_at_muons(group) else 1.0

    def _begins_at_muons(self, group: Mapping[str, Any]) -> bool:
        """Whether a scheduler found a group at Muon's peak."""
        first = group.get("initial_lr")
        return first is not None and math.isclose(float(first), self._asked.lr * self._asked.muon_rate, rel_tol=1e-5)
