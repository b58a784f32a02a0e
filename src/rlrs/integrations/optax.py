"""Relative rates in JAX: one optax transformation per component, from the same `ratios.yaml`.

optimizer = relative(
    lambda rate: optax.adamw(rate, weight_decay=0.1), params, ratios, lr=3e-3, schedule=BaseSchedule(total_steps=10_240)
)

A leaf's component is that of `rlrs.partition`, from a model of torch modules without memory that has the tree's names
and shapes; what it is unsure of goes to `other`, and `rules` settle it. Any tree of labels may be given instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlrs.components import Partition, Rule, partition, refine
from rlrs.integrations import require
from rlrs.ratios import BASE, Ratio, Ratios, number
from rlrs.schedules import BaseSchedule, relative_factor

require("jax", "jax")
require("optax", "jax")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402

from rlrs.integrations._skeleton import skeleton  # noqa: E402

__all__ = ["component_labels", "component_partition", "rate_schedule", "relative"]

PyTree = Any

_LONGEST = 10_000_000


def relative(
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    params: PyTree,
    ratios: Ratios | Mapping[str, Any],
    *,
    lr: float,
    schedule: BaseSchedule,
    rules: Sequence[Rule] = (),
    labels: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optimizer whose every component has its own rate: `optax.partition` over `optimizer(rate)`.

    Args:
        optimizer: an optax optimizer as a function of its learning rate, `lambda rate: optax.adamw(rate)`. Its
            decoupled weight decay scales with the component's rate, as in torch.
        params: the parameters, or their shapes (`jax.eval_shape`); only names and shapes are read.
        ratios: relative rates per component; components that they do not name follow the base rate.
        lr: base peak rate.
        schedule: the base schedule, in updates.
        rules: the user's own rules on the names of `component_partition`, tried in order before everything else.
        labels: a tree of component names like `params`, or a function that makes it, in place of `rules`.

    Raises:
        RatiosError: ratios for a component that the tree does not have.
        PartitionError: a rule that matches nothing.
        ValueError: both `rules` and `labels`.
    """
    ratios = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
    if labels is not None and rules:
        raise ValueError("give rules or labels, not both: labels are already made")
    if labels is None:
        labels = component_labels(params, rules, ratios)
    elif callable(labels):
        labels = labels(params)
    there = list(dict.fromkeys(jax.tree.leaves(labels)))
    # A component that is wholly divided by layers has no label of its own, and its ratio is no error.
    ratios.check_used(
        list(dict.fromkeys([*there, *(name.partition("/")[0] for name in there)])), "the tree of parameters"
    )
    return optax.partition(
        {component: optimizer(rate_schedule(schedule, ratios.get(component, BASE), lr)) for component in there},
        labels,
    )


def rate_schedule(schedule: BaseSchedule, ratio: Ratio | Any, lr: float) -> optax.Schedule:
    """A component's rate as an optax schedule: a jit-able function from the 0-based update to the rate.

    It looks up what `rlrs.schedules.Curve` gives, rounded to float32 (or to 64 bits, where they are enabled): a table
    of `total_steps + 1` numbers, made once.

    Args:
        schedule: the base schedule, of at most 10 million updates.
        ratio: the component's, as `Ratio.of` takes it.
        lr: base peak rate.

    Raises:
        ValueError: a longer schedule, or a rate that is no number >= 0.

    Examples:
        >>> rate = rate_schedule(BaseSchedule(total_steps=100, final_fraction=0.1), (5.0, 0.5), 1e-3)
        >>> round(float(rate(50)), 6)
        0.002525
    """
    if schedule.total_steps > _LONGEST:
        raise ValueError(f"total_steps={schedule.total_steps} is more than {_LONGEST}, for which a table is too large")
    factors = relative_factor(schedule, Ratio.of(ratio).knots, np.arange(schedule.total_steps + 1))
    table = number(lr, "lr") * factors

    def rate(count: jax.typing.ArrayLike) -> jax.Array:
        return jnp.asarray(table, jnp.result_type(float))[jnp.clip(jnp.asarray(count), 0, schedule.total_steps)]

    return rate


def component_labels(params: PyTree, rules: Sequence[Rule] = (), keys: Iterable[str] = ()) -> PyTree:
    """The tree of component names that `optax.partition` takes; see `component_partition`.

    >>> component_labels({"embedding": jnp.ones((50, 8)), "norm": jnp.ones(8), "lm_head": jnp.ones((8, 50))})
    {'embedding': 'embedding', 'lm_head': 'unembedding', 'norm': 'norm'}

    Args:
        params: the parameters, or their shapes.
        rules: the user's own, tried first.
        keys: names of ratios; those finer than a component (`attention/layer.0-3`) become labels of their own.

    Raises:
        PartitionError: a rule or a key that matches nothing.
        ValueError: a key for some of the experts or tokens in one array, which has one label.
    """
    model, names = skeleton(params)
    finer = refine(model, partition(model, rules), keys)
    if finer.slices:
        raise ValueError(
            f"{next(iter(finer.slices))} is one array with ratios for parts of it (experts, tokens), which has one "
            "rate in optax"
        )
    component = finer.parts.component_of()
    return jax.tree.unflatten(jax.tree.structure(params), [component[name] for name in names])


def component_partition(params: PyTree, rules: Sequence[Rule] = ()) -> Partition:
    """The components of a tree of arrays or shapes, with the reasons; names are those that torch would have.

    >>> dict(component_partition({"wte": {"embedding": jnp.ones((50, 8))}, "ln_f": {"scale": jnp.ones(8)}}))
    {'embedding': ['wte.weight'], 'norm': ['ln_f.weight']}

    Args:
        params: the parameters, or their shapes (`jax.eval_shape`). Layers that are scanned, in one array with an axis
            of layers (the first, or the second), are read as one layer.
        rules: the user's own, tried first.

    Raises:
        PartitionError: a rule matches nothing.
        ValueError: two leaves would have one name.
    """
    return partition(skeleton(params)[0], rules)
