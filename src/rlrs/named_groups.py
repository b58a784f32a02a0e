"""What is asked of parameter groups: that they can be told apart, and take their rates from a schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rlrs.schedules import LARGEST_RATE

Knots = tuple[tuple[float, float], ...]
_PROBES = 200
"""Steps of a schedule that are looked at; chosen here."""

_HELD: Knots = ((0.0, 1.0), (1.0, 1.0))

OF_RATIOS = ("component", "slices", "ungrouped")
"""What a group says about ratios: those of the present run, not of a saved one, whatever is loaded."""


def components(group: Mapping[str, Any]) -> list[str]:
    """The component of a group, and the names of the ratios that slices of its tensors have."""
    return [group["component"], *(name for name, *_ in group.get("slices", ()))]


def names(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the groups, each once.

    Raises:
        ValueError: a group that cannot be told apart, or that has no rate; it is named.
    """
    listed: list[str] = []
    tensors: dict[int, str] = {}
    for index, group in enumerate(groups):
        for key in ("name", "component"):
            if not isinstance(group.get(key), str):
                raise ValueError(
                    f"parameter group {group.get('name', index)!r} has no {key!r}: make the groups with "
                    "rlrs.param_groups; for parameters that are to be trained later, with include_frozen=True. It has "
                    f"{_contents(group)}"
                )
        rate = group.get("lr")
        if rate is None:
            raise ValueError(f"parameter group {group['name']!r} has no 'lr' that a schedule could set")
        if isinstance(rate, int | float) and not 0 <= rate <= LARGEST_RATE:
            raise ValueError(
                f"parameter group {group['name']!r} has lr={rate!r}: should be 0 or more, at most {LARGEST_RATE:g}"
            )
        if isinstance(rate, Tensor) and id(rate) in tensors:
            raise ValueError(
                f"parameter groups {tensors[id(rate)]!r} and {group['name']!r} share one rate tensor: give each its "
                "own, as rlrs.param_groups(lr=torch.tensor(...)) does"
            )
        if isinstance(rate, Tensor):
            if not rate.is_floating_point():
                raise ValueError(
                    f"parameter group {group['name']!r} has a rate of {rate.dtype}, which has no fractions"
                )
            tensors[id(rate)] = group["name"]
        if group["name"] in listed:
            raise ValueError(f"two parameter groups are named {group['name']!r}: names should be unique")
        listed.append(group["name"])
    return listed


def _contents(group: Mapping[str, Any]) -> str:
    shapes = [str(tuple(parameter.shape)) for parameter in group.get("params", ())]
    more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
    return f"parameters of the shapes {', '.join(shapes[:3])}{more}"


def check_same(saved: Collection[str], here: Collection[str]) -> None:
    """Raise a ValueError that names the groups which only one side has."""
    sides = (
        ("the saved state alone has", [name for name in saved if name not in here]),
        ("only the optimizer has", [name for name in here if name not in saved]),
    )
    parts = [f"{what} {', '.join(listed)}" for what, listed in sides if listed]
    if parts:
        raise ValueError(f"parameter groups differ from the saved ones: {'; '.join(parts)}")


def load_by_name(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    """Put an optimizer's saved groups in the present order of names; a hook for `load_state_dict`.

    torch restores groups by position, names included: moments and rates of groups in another order would end up on
    each other's parameters, without an error.
    """
    saved: list[Any] = [group.get("name") for group in state_dict["param_groups"]]
    here: list[Any] = [group.get("name") for group in optimizer.param_groups]
    # Groups without names can only be taken by position, as torch does.
    if not all(isinstance(name, str) for name in (*saved, *here)):
        return None
    if saved != here:
        check_same(saved, here)
    by_name = dict(zip(saved, state_dict["param_groups"], strict=True))
    groups = []
    for group in optimizer.param_groups:
        kept = {key: value for key, value in by_name[group["name"]].items() if key not in OF_RATIOS}
        groups.append({**kept, **{key: group[key] for key in OF_RATIOS if key in group}})
    return {**state_dict, "param_groups": groups}


def inner(optimizer: Optimizer) -> Optimizer:
    """The optimizer that takes the steps: wrappers of Accelerate and Fabric are optimizers by class as well."""
    while isinstance(wrapped := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = wrapped
    return optimizer


def check_follows_rates(optimizer: Optimizer, alpha: float, knots: Mapping[str, Knots]) -> None:
    """Raise a ValueError for an optimizer that sets its own step, so that its groups' rates would do nothing.

    Recognised by what its groups carry, not by its name.

    Args:
        optimizer: over named groups.
        alpha: final fraction of the base schedule.
        knots: component -> its ratio, of those that have one.
    """
    name = type(optimizer).__name__
    held = {knots.get(c, _HELD) for group in optimizer.param_groups for c in components(group)}
    for group in optimizer.param_groups:
        if group.get("relative_step"):
            raise ValueError(
                f"{name} with relative_step=True sets its own step and reads no rate: give it relative_step=False "
                "(and scale_parameter=False, warmup_init=False for the rates as they are)"
            )
        if "etas" in group and "step_sizes" in group:
            raise ValueError(
                f"{name} adapts a step size per weight, from which the sign of the gradient decides: a schedule has "
                "no effect on it"
            )
        # Prodigy and D-Adaptation: the rate is a multiple of an estimate `d` of the distance to the solution, which is
        # one for all groups that are trained.
        estimates = "d" in group and not {"d0", "d_coef", "growth_rate", "k"}.isdisjoint(group)
        if estimates and len([own for own in held if any(ratio for _, ratio in own)]) > 1:
            raise ValueError(
                f"{name} estimates its own step (d) from one rate for all groups, and takes no rate per component, but "
                "for 0: use the optimizer that it is made of, such as AdamW, with ratios"
            )
        if {"lr_max", "weight_sum"} <= set(group):
            moving = next((c for c, own in knots.items() if len({ratio for _, ratio in own}) > 1), None)
            if alpha != 1 or moving:
                what = "a schedule that decays" if alpha != 1 else f"the ratio of {moving}, which changes"
                raise ValueError(
                    f"{name} averages its steps in the place of a decay: it takes ratios that are held and "
                    f"schedule='constant', not {what}"
                )


def capped(optimizer: Optimizer, rates: Callable[[int], Mapping[str, float]], total_steps: int) -> str | None:
    """A sentence about rates above the cap of torch's Adafactor, 1 / sqrt(step), under which ratios do nothing.

    Args:
        optimizer: any.
        rates: of a 0-based step, component -> rate.
        total_steps: of the schedule.
    """
    if not isinstance(optimizer, torch.optim.Adafactor):
        return None
    own = {component for group in optimizer.param_groups for component in components(group)}
    for step in sorted({round(total_steps * part / _PROBES) for part in range(_PROBES)}):
        cap = 1 / math.sqrt(step + 1)
        for component, rate in rates(step).items():
            if component in own and rate > cap:
                return (
                    f"Adafactor caps every rate at 1 / sqrt(step): at step {step} that of {component} is {cap:.3g} in "
                    f"the place of {rate:.3g}. Lower the base rate"
                )
    return None


def conflict(optimizer: Optimizer) -> str | None:
    """A sentence about what was given to the optimizer's constructor and counts for no group, if anything."""
    signature = inspect.signature(type(optimizer).__init__).parameters
    for key, given in optimizer.defaults.items():
        usual = signature[key].default if key in signature else inspect.Parameter.empty
        if usual is inspect.Parameter.empty or not isinstance(given, float | int | tuple) or given == usual:
            continue
        found = {group["name"]: group.get("independent_decay", group[key]) for group in _told(optimizer, key)}
        if found and not any(_equal(value, given) for value in found.values()):
            name, value = next(iter(found.items()))
            return (
                f"{type(optimizer).__name__} was given {key}={_shown(given)}, but its parameter groups bring their "
                f"own, which count: {name!r} has {key}={_shown(value)}. Give {key} to one of the two"
            )
    return None


def _told(optimizer: Optimizer, key: str) -> list[dict[str, Any]]:
    """Groups to which an argument of the optimizer could apply: weight decay is never that of norms and biases."""
    decay = key == "weight_decay"
    return [
        group
        for group in optimizer.param_groups
        if key in group and not (decay and group["name"].partition("/no_decay")[1])
    ]


def _equal(value: Any, given: Any) -> bool:
    if isinstance(value, Tensor):
        return abs(float(value) - float(given)) <= 1e-6 * abs(float(given))
    return value == given


def _shown(value: Any) -> str:
    return f"{float(value):g}" if isinstance(value, Tensor | float | int) else repr(value)


def steps_done(optimizers: Sequence[Optimizer]) -> int | None:
    """Steps that the optimizers' own state has counted; None where it counts none, as SGD's."""
    for optimizer in optimizers:
        for state in inner(optimizer).state.values():
            if isinstance(state, Mapping) and "step" in state:
                return int(state["step"])
    return None
