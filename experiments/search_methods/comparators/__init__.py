"""Search methods that the product's are compared with: made from a space, a budget in runs and a seed."""

from __future__ import annotations

from collections.abc import Callable

from experiments.search_methods.comparators import samplers
from experiments.search_methods.comparators.policy_gradient import PolicyGradient
from experiments.search_methods.comparators.trust_region import TrustRegion
from rlrs.search import Method, Space

COMPARATORS: dict[str, Callable[[Space, int, int], Method]] = {
    "gp": samplers.gp,
    "trust-region": TrustRegion,
    "cma-es": samplers.cma_es,
    "policy-gradient": PolicyGradient,
    "tpe": samplers.tpe,
    "random": samplers.random,
}
"""Name -> what makes the method."""
