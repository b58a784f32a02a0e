"""`RelativeLR`: the rates of `rlrs.schedules` as a torch learning-rate scheduler."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlrs.ratios import BASE, Ratios
from rlrs.schedules import BaseSchedule, Curve
from rlrs.slices import scale_slices


class RelativeLR(LRScheduler):
    """Sets every group's rate to its base rate times its component's factor (`rlrs.schedules.Curve`).

    Groups are those of `rlrs.param_groups`: each has a `name` of its own and a `component`. A group's base peak
    rate is its `lr` when the scheduler is made. Call `step()` after every `optimizer.step()`.

    A compiled optimizer should have tensor rates (`param_groups(lr=torch.tensor(...))`): they are written in place, and
    nothing is compiled again. A schedule-free optimizer has its own warm-up and no decay: give it held ratios,
    `schedule="constant"` and no warm-up here.

    Args:
        optimizer: any torch optimizer, or several (Muon for matrices, AdamW for the rest), driven together.
        ratios: relative rates per component; components that they do not name follow the base rate.
        total_steps: `T`, in optimizer steps, warm-up included.
        warmup_steps: `W`, in optimizer steps.
        final_fraction: `alpha`, base rate at the end over its peak; see `BaseSchedule` if None.
        schedule: shape of the base schedule.
        decay_fraction: share of the steps in which `wsd` decays.
        last_epoch: steps done before, -1 at the start; torch's name for it.
        partial: the optimizer has one stage of a pipeline: ratios for a component that no group has are no error.

    Raises:
        ValueError: a group without name or component, two groups of one name, or a schedule that cannot be.
        RatiosError: ratios for a component that no group has.
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        ratios: Ratios | Mapping[str, Any],
        *,
        total_steps: int,
        warmup_steps: int = 0,
        final_fraction: float | None = None,
        schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
        decay_fraction: float = 0.2,
        last_epoch: int = -1,
        partial: bool = False,
    ) -> None:
        self.optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        if not self.optimizers:
            raise ValueError("optimizer should be an optimizer or a list of them, not an empty list")
        self.ratios = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
        self.schedule = BaseSchedule(
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            final_fraction=final_fraction,
            shape=schedule,
            decay_fraction=decay_fraction,
        )
        names = _names(self._groups())
        if not partial:
            there = {c: None for g in self._groups() for c in (*_components(g), *g.get("ungrouped", ()))}
            self.ratios.check_used(list(there), "the optimizer")
        self._sliced = [index for index, group in enumerate(self._groups()) if group.get("slices")]
        self._base_curve = Curve(self.schedule)
        self._curves = {
            component: Curve(self.schedule, self.ratios.get(component, BASE).knots)
            for component in dict.fromkeys(c for group in self._groups() for c in _components(group))
        }
        for group in self._groups():
            rate = group["lr"]
            group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
        self._decays = {
            group["name"]: float(group["independent_decay"])
            for group in self._groups()
            if group.get("independent_decay")
        }
        for each in self.optimizers:
            # Accelerate's and Fabric's wrappers are optimizers by class, but the hooks are those of the one inside.
            while isinstance(inner := getattr(each, "optimizer", None), Optimizer):
                each = inner
            each.register_load_state_dict_pre_hook(_groups_by_name)
            scale_slices(each, self._relative_to_group)
        self._base = dict(zip(names, (float(g["initial_lr"]) for g in self._groups()), strict=True))
        super().__init__(self.optimizers[0], last_epoch)
        self.base_lrs = list(self._base.values())

    def _groups(self) -> list[dict[str, Any]]:
        # Read from the optimizers at each use: loading an optimizer's state replaces its group dictionaries.
        if len(self.optimizers) == 1:
            return self.optimizers[0].param_groups
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def get_lr(self) -> list[float | Tensor]:
        """Rates of all groups at the present step, optimizer by optimizer; a pure function of the step."""
        factors = self._factors()
        groups = self._groups()
        rates: list[float | Tensor] = [self._base[group["name"]] * factors[group["component"]] for group in groups]
        for index in self._sliced:
            # The fastest of its slices: the share of each in the update is then at most 1.
            group = groups[index]
            rates[index] = self._base[group["name"]] * max(factors[c] for c in _components(group))
        return rates

    def _factors(self) -> dict[str, float]:
        return {component: curve(self.last_epoch) for component, curve in self._curves.items()}

    def _relative_to_group(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Every ratio's factor in a group, as a share of the group's own, for the present step."""
        factors = {component: self._curves[component](self.last_epoch) for component in _components(group)}
        top = max(factors.values())
        return {component: factor / top if top else 1.0 for component, factor in factors.items()}

    def step(self, epoch: int | None = None) -> None:
        """Go to the next step (or to step `epoch`) and write its rates into the groups.

        Raises:
            RuntimeError: a group's rate is not what this scheduler wrote last: there is a second writer.
        """
        if self._step_count == 1 and not getattr(self.optimizer, "_opt_called", False):
            warnings.warn(
                "RelativeLR.step() before the first optimizer.step(): the first rate of the schedule is skipped",
                UserWarning,
                stacklevel=2,
            )
        if self._step_count:
            self._check_only_writer()
        self._step_count += 1
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._write()

    def _write(self) -> None:
        rates = self.get_lr()
        for group, rate in zip(self._groups(), rates, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)  # in place: a compiled or captured optimizer holds this tensor
            else:
                group["lr"] = rate
        self._last_lr = rates
        if self._decays:
            self._write_decays()

    def _write_decays(self) -> None:
        """Keep `lr_i * weight_decay_i` at `lr_base * weight_decay`, where decay is independent of the ratio."""
        base = self._base_curve(self.last_epoch)
        for group in self._groups():
            if group["name"] in self._decays:
                factor = self._curves[group["component"]](self.last_epoch)
                # A component at rate 0 is frozen: no finite decay would move it, and none is wanted.
                group["weight_decay"] = self._decays[group["name"]] * (base / factor) if factor else 0.0

    def _check_only_writer(self) -> None:
        for group, written in zip(self._groups(), self._last_lr, strict=True):
            found = group["lr"]
            if isinstance(found, Tensor):  # float32 as a rule, and reading one on an accelerator would wait for it
                if found.device.type != "cpu" or abs(float(found) - written) <= 1e-6 * written:
                    continue
            elif found == written:
                continue
            raise RuntimeError(
                f"something else sets learning rates: parameter group {group['name']!r} has {float(found):g} where "
                f"RelativeLR wrote {float(written):g} at step {self.last_epoch}; let one of the two go (a trainer's "
                "own scheduler, DeepSpeed's, a callback)"
            )

    def rates(self) -> dict[str, float]:
        """Present rate of every component, for logs; of its largest where groups of one component differ."""
        rates: dict[str, float] = {}
        factors = self._factors()
        for group in self._groups():
            for component in _components(group):
                rate = self._base[group["name"]] * factors[component]
                rates[component] = max(rate, rates.get(component, 0.0))
        return rates

    def relative_rates(self) -> dict[str, float]:
        """Present relative rate of every component, from the schedule, for logs.

        It is `lr_i(t) / lr_base(t)` in units of each group's own base peak rate, and its limit where both are 0 (after
        a schedule that ends at 0).
        """
        step = self.last_epoch
        base = self._base_curve(step)
        limits = {component: self.ratios.get(component, BASE).knots[-2][1] for component in self._curves}
        return {c: curve(step) / base if base else limits[c] for c, curve in self._curves.items()}

    def base_rate(self) -> float:
        """Present base rate: what a component with ratio 1 has (of the largest base rate, if groups differ)."""
        return max(self._base.values()) * self._base_curve(self.last_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The step, and every group's base rate by its name; rates are recomputed from them."""
        return {"last_epoch": self.last_epoch, "base_lrs": dict(self._base)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved step and write its rates, whatever order groups were saved in.

        Raises:
            ValueError: saved groups are missing here or the other way round; the message names them.
        """
        if not {"last_epoch", "base_lrs"} <= set(state_dict) or not isinstance(state_dict["base_lrs"], Mapping):
            raise ValueError(f"not a state of RelativeLR: it has the keys {', '.join(sorted(state_dict))}")
        saved, here = state_dict["base_lrs"], _names(self._groups())
        _check_same(saved, here)
        self._base = {name: float(saved[name]) for name in here}
        self.base_lrs = list(self._base.values())
        self.last_epoch = state_dict["last_epoch"]
        self._step_count = self.last_epoch + 1
        self._write()


_OF_RATIOS = ("component", "slices", "ungrouped")
"""What a group says about ratios: those of the present run, not of a saved one, whatever is loaded."""


def _components(group: Mapping[str, Any]) -> list[str]:
    """The component of a group, and the names of the ratios that slices of its tensors have."""
    return [group["component"], *(name for name, _, _ in group.get("slices", ()))]


def _groups_by_name(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    """Put an optimizer's saved groups in the present order of names.

    torch restores groups by position, names included: moments and rates of groups in another order would end up on
    each other's parameters, without an error.
    """
    saved = [group.get("name") for group in state_dict["param_groups"]]
    here = [group["name"] for group in optimizer.param_groups]
    if None in saved:  # groups without names can only be taken by position, as torch does
        return None
    if saved != here:
        _check_same(saved, here)
    by_name = dict(zip(saved, state_dict["param_groups"], strict=True))
    groups = []
    for group in optimizer.param_groups:
        kept = {key: value for key, value in by_name[group["name"]].items() if key not in _OF_RATIOS}
        groups.append({**kept, **{key: group[key] for key in _OF_RATIOS if key in group}})
    return {**state_dict, "param_groups": groups}


def _check_same(saved: Collection[str], here: Collection[str]) -> None:
    """Raise a ValueError that names the groups which only one side has."""
    sides = (
        ("the saved state alone has", [name for name in saved if name not in here]),
        ("only the optimizer has", [name for name in here if name not in saved]),
    )
    parts = [f"{what} {', '.join(names)}" for what, names in sides if names]
    if parts:
        raise ValueError(f"parameter groups differ from the saved ones: {'; '.join(parts)}")


def _names(groups: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the groups, each once; an error for a group that cannot be told apart."""
    names: list[str] = []
    tensors: dict[int, str] = {}
    for index, group in enumerate(groups):
        for key in ("name", "component"):
            if not isinstance(group.get(key), str):
                raise ValueError(
                    f"parameter group {group.get('name', index)!r} has no {key!r}: make the groups with "
                    "rlrs.param_groups"
                )
        rate = group.get("lr")
        if isinstance(rate, Tensor) and id(rate) in tensors:
            raise ValueError(
                f"parameter groups {tensors[id(rate)]!r} and {group['name']!r} share one rate tensor: give each its "
                "own, as rlrs.param_groups(lr=torch.tensor(...)) does"
            )
        if isinstance(rate, Tensor):
            tensors[id(rate)] = group["name"]
        if group["name"] in names:
            raise ValueError(f"two parameter groups are named {group['name']!r}: names should be unique")
        names.append(group["name"])
    return names
