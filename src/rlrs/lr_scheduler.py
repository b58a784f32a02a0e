"""`RelativeLR`: the rates of `rlrs.schedules` as a torch learning-rate scheduler."""

from __future__ import annotations

import json
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rlrs import named_groups
from rlrs.pace import Pace
from rlrs.ratios import BASE, Ratios
from rlrs.schedules import BaseSchedule, Curve, factors
from rlrs.slices import scale_slices

_ATTACHED = "_rlrs_attached"


class RelativeLR(LRScheduler):
    """Sets every group's rate to its base rate times its component's factor (`rlrs.schedules.equation`).

    Groups are those of `rlrs.param_groups`: each has a `name` of its own and a `component`. A group's base peak
    rate is its `lr` when the scheduler is made; where that is what an earlier `RelativeLR` wrote, or where the
    optimizer's state was loaded, it is the peak of that time, the group's `initial_lr`. Call `step()` once after
    every `optimizer.step()`: another pace is warned of. A named group that is added later is driven from then on.

    A compiled optimizer should have tensor rates (`param_groups(lr=torch.tensor(...))`): they are written in place, and
    nothing is compiled again. A schedule-free optimizer has its own warm-up and no decay: give it held ratios,
    `schedule="constant"` and no warm-up here.

    Args:
        optimizer: any torch optimizer that takes its rates from its groups, or several (Muon for matrices, AdamW for
            the rest), driven together.
        ratios: relative rates per component; components that they do not name follow the base rate.
        total_steps: `T`, in optimizer steps, warm-up included.
        warmup_steps: `W`, in optimizer steps.
        final_fraction: `alpha`, base rate at the end over its peak; see `BaseSchedule` if None.
        schedule: shape of the base schedule: `cosine`, `linear`, `constant`, `wsd`, or a function of the 0-based step
            that gives the base rate over its peak, warm-up included; see `BaseSchedule`.
        decay_fraction: share of the steps in which `wsd` decays.
        last_epoch: torch's name for the last step that is done, counted from 0: after n optimizer steps n - 1, at the
            start -1. Rather than give it, load the saved state.
        partial: the optimizer has one stage of a pipeline: ratios for a component that no group has are no error.

    Raises:
        TypeError: something else than torch optimizers.
        ValueError: a group without name or component, two groups of one name, an optimizer that sets its own step, a
            group whose rate another scheduler has changed, or a schedule that cannot be.
        RatiosError: ratios for a component that no group has.

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
        >>> ratios = Ratios({"embedding": (5.0, 0.5)})
        >>> from rlrs import param_groups
        >>> optimizer = torch.optim.AdamW(param_groups(model, ratios, lr=1e-3, weight_decay=0.1))
        >>> scheduler = RelativeLR(optimizer, ratios, total_steps=100, final_fraction=0.1)
        >>> for _ in range(50):
        ...     optimizer.step()
        ...     scheduler.step()
        >>> {name: round(rate, 7) for name, rate in scheduler.rates().items()}
        {'embedding': 0.002525, 'unembedding': 0.00055}
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        ratios: Ratios | Mapping[str, Any],
        *,
        total_steps: int,
        warmup_steps: int = 0,
        final_fraction: float | None = None,
        schedule: Literal["cosine", "linear", "constant", "wsd"] | Callable[[int], float] = "cosine",
        decay_fraction: float = 0.2,
        last_epoch: int = -1,
        partial: bool = False,
    ) -> None:
        self.optimizers = list(optimizer) if isinstance(optimizer, Sequence) else [optimizer]
        if not self.optimizers or not all(isinstance(each, Optimizer) for each in self.optimizers):
            given = "an empty list" if not self.optimizers else type(self.optimizers[0]).__name__
            raise TypeError(f"optimizer should be a torch.optim.Optimizer, or a list of them, not {given}")
        self.ratios = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
        self.schedule = BaseSchedule(
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            final_fraction=final_fraction,
            shape=schedule,
            decay_fraction=decay_fraction,
        )
        groups = self._groups()
        named_groups.names(groups)
        for each in self.optimizers:
            named_groups.check_follows_rates(named_groups.inner(each))
        if not partial:
            there = {c: None for g in groups for c in (*named_groups.components(g), *g.get("ungrouped", ()))}
            self.ratios.check_used(list(there), "the optimizer")
        if not any("initial_lr" in group for group in groups):
            for each in self.optimizers:
                if sentence := named_groups.conflict(named_groups.inner(each)):
                    warnings.warn(sentence, UserWarning, stacklevel=2)
        self._base_curve = Curve(self.schedule)
        self._base: dict[str, float] = {}
        self._loaded, self._optimizer_loaded = False, False
        self._doubt = self._find_peaks(last_epoch)
        self._bind(groups)
        self._pace = Pace(total_steps)
        self._attach()
        super().__init__(self.optimizers[0], last_epoch)
        self.base_lrs = list(self._base.values())

    # The groups

    @property
    def optimizer(self) -> Optimizer:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The first optimizer. A trainer that exchanges it, for a wrapped or a copied one, has that one driven."""
        return self.optimizers[0]

    @optimizer.setter
    def optimizer(self, optimizer: Optimizer) -> None:
        if optimizer is not self.optimizers[0]:
            self.optimizers[0] = optimizer
            self._bind(self._groups())
            self._attach()

    def _groups(self) -> list[dict[str, Any]]:
        # Read from the optimizers at each use: loading an optimizer's state replaces its group dictionaries.
        if len(self.optimizers) == 1:
            return self.optimizers[0].param_groups
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def _find_peaks(self, last_epoch: int) -> str | None:
        """Set every group's `initial_lr` to its base peak rate; a sentence, if that leaves a doubt."""
        doubt = None
        for optimizer in self.optimizers:
            earlier = getattr(named_groups.inner(optimizer), _ATTACHED, (None,))[0]
            other = hasattr(named_groups.inner(optimizer).step, "_wrapped_by_lr_sched") and earlier is None
            if earlier and earlier._optimizer_loaded:
                earlier = None  # what it wrote is gone: rates are those of the state that was loaded
            known = [group for group in optimizer.param_groups if "initial_lr" in group]
            new_phase = last_epoch == -1 and earlier and not all(map(earlier._wrote, known))
            for group in optimizer.param_groups:
                rate, peak = group["lr"], group.get("initial_lr")
                if peak is None or new_phase:
                    group["initial_lr"] = rate.clone() if isinstance(rate, Tensor) else rate
                elif last_epoch == -1 and not earlier and not _close(float(rate), rate, float(peak)):
                    about = f"parameter group {group['name']!r} has lr={float(rate):g} and initial_lr={float(peak):g}"
                    if other:
                        raise ValueError(
                            f"{about}, of another scheduler: set both to the peak rate of the new schedule, "
                            "group['lr'] = group['initial_lr'] = ..."
                        )
                    doubt = doubt or about
        done = named_groups.steps_done(self.optimizers)
        if doubt:
            at = f"{done} steps" if done else "some steps"
            return (
                f"the optimizer's state was loaded after {at} ({doubt}), and this schedule begins at step 0, "
                "with initial_lr as its peak: load the scheduler's state too (scheduler.load_state_dict), or give "
                f"last_epoch={done - 1 if done else 'n - 1'}; for a new phase set both rates to its peak first"
            )
        if last_epoch >= 0 and done is not None and done not in (0, last_epoch + 1):
            return (
                f"last_epoch={last_epoch} is the last step that is done, counted from 0, but the optimizer's state has "
                f"{done} steps: after {done} steps it is {done - 1}"
            )
        return None

    def _wrote(self, group: Mapping[str, Any]) -> bool:
        """Whether a group's rate is the very number that this scheduler wrote; the user may have set an equal one."""
        rate = group["lr"]
        if isinstance(rate, Tensor):
            tensor, version = self._tensors.get(group["name"], (None, -1))
            return rate is tensor and rate._version == version
        return any(rate is own and name == group["name"] for name, own in zip(self._base, self._last_lr, strict=True))

    def _write_anew(self) -> bool:
        """Write the rates into a copied or loaded optimizer that has them already; False if it has others."""
        groups, written = self._groups(), dict(zip(self._base, self._last_lr, strict=True))
        same = all(
            _close(float(group["lr"]), group["lr"], float(written[group["name"]]))
            for group in groups
            if group.get("name") in written
        )
        if same and self._is_bound(groups):
            self._write(groups)
        return same

    def _bind(self, groups: Sequence[dict[str, Any]]) -> None:
        """Take the groups as they are now: replaced ones by their names, new ones with their present rate as peak.

        Raises:
            ValueError: a new group without a name or component, or a group that is gone.
        """
        names = named_groups.names(groups)
        gone = [name for name in self._base if name not in names]
        if gone:
            raise ValueError(
                f"parameter group {gone[0]!r} is gone from the optimizer: RelativeLR drives the groups that it was "
                "made with. To stop training a component, give it the ratio 0, or leave its group in place"
            )
        for group in groups:
            rate = group["lr"]
            group.setdefault("initial_lr", rate.clone() if isinstance(rate, Tensor) else rate)
        self._base = {
            name: self._base.get(name, float(group["initial_lr"])) for name, group in zip(names, groups, strict=True)
        }
        listed = list(dict.fromkeys(c for group in groups for c in named_groups.components(group)))
        self._curves = {c: Curve(self.schedule, self.ratios.get(c, BASE).knots) for c in listed}
        self._points = [curve.points for curve in self._curves.values()]
        self._component_of = {group["name"]: named_groups.components(group) for group in groups}
        self._plan = [
            (base, listed.index(group["component"])) for base, group in zip(self._base.values(), groups, strict=True)
        ]
        self._sliced = [
            (index, [listed.index(c) for c in named_groups.components(group)])
            for index, group in enumerate(groups)
            if group.get("slices")
        ]
        self._decays = [
            (index, float(group["independent_decay"]))
            for index, group in enumerate(groups)
            if group.get("independent_decay")
        ]
        self._bound = list(groups)
        self._tensors = {group["name"]: (group["lr"], -1) for group in groups if isinstance(group["lr"], Tensor)}
        self.base_lrs = list(self._base.values())

    def _is_bound(self, groups: Sequence[dict[str, Any]]) -> bool:
        return len(groups) == len(self._bound) and all(map(operator.is_, groups, self._bound))

    # The optimizers

    def _attach(self) -> None:
        """Register the hooks, which neither copies nor pickles of an optimizer have."""
        optimizers = [named_groups.inner(optimizer) for optimizer in self.optimizers]
        for optimizer in optimizers:
            for handle in getattr(optimizer, _ATTACHED, (None, ()))[1]:
                handle.remove()
        ticks = self._pace.attach(optimizers)
        for optimizer, tick in zip(optimizers, ticks, strict=True):
            handles = (
                tick,
                optimizer.register_step_pre_hook(self._before_optimizer_step),
                optimizer.register_load_state_dict_pre_hook(named_groups.load_by_name),
                optimizer.register_load_state_dict_post_hook(self._after_loading),
            )
            setattr(optimizer, _ATTACHED, (self, handles))
            scale_slices(optimizer, self._relative_to_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, or one from a pickle, drives the optimizers that came with it."""
        self.__dict__.update(state)
        self._attach()
        self._write_anew()

    def _before_optimizer_step(self, optimizer: Optimizer, *call: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if self._doubt:
            self._say_doubt()
        groups = self._groups()
        if not self._optimizer_loaded and not self._is_bound(groups):
            self._bind(groups)
            self._write(groups)

    def _after_loading(self, optimizer: Optimizer) -> None:
        if self._loaded:  # this scheduler's state came first: its rates count, whatever order things are loaded in
            self._bind(self._groups())
            self._write(self._groups())
        else:
            self._optimizer_loaded = not self._write_anew()

    def _say_doubt(self) -> None:
        doubt, self._doubt = self._doubt, None
        warnings.warn(doubt or "", UserWarning, stacklevel=4)

    # The rates

    def get_lr(self) -> list[float | Tensor]:
        """Rates of all groups at the present step, optimizer by optimizer; a pure function of the step."""
        values = self._values()
        rates: list[float | Tensor] = [base * values[index] for base, index in self._plan]
        for index, parts in self._sliced:
            # The fastest of its slices: the share of each in the update is then at most 1.
            rates[index] = self._plan[index][0] * max(values[part] for part in parts)
        return rates

    def _values(self) -> list[float]:
        """Every component's rate over the base peak rate at the present step, in the order of `_curves`."""
        return factors(self.schedule, self._points, self.last_epoch)

    def _factors(self) -> dict[str, float]:
        return dict(zip(self._curves, self._values(), strict=True))

    def _base_value(self) -> float:
        """The base rate over its peak at the present step."""
        return self._base_curve(self.last_epoch)

    def _relative_to_group(self, group: Mapping[str, Any]) -> dict[str, float]:
        """Every ratio's factor in a group, as a share of the group's own, for the present step."""
        all_factors = self._factors()
        own = {component: all_factors[component] for component in named_groups.components(group)}
        top = max(own.values())
        return {component: factor / top if top else 1.0 for component, factor in own.items()}

    def step(self, epoch: int | None = None) -> None:
        """Go to the next step (or to step `epoch`) and write its rates into the groups.

        Raises:
            RuntimeError: a group's rate is not what this scheduler wrote last: there is a second writer, or the
                optimizer's state was loaded without the scheduler's.
            ValueError: a group without a name was added, or a group is gone.
        """
        groups = self._groups()
        if self._step_count:
            if epoch is None:
                self._pace.scheduler_steps(self.last_epoch, self.optimizers)
            if self._doubt:
                self._say_doubt()
            # What was written is still there, the very objects: nobody else writes, and the groups are the same.
            if len(groups) != len(self._last_lr) or not all(
                map(operator.is_, [group["lr"] for group in groups], self._last_lr)
            ):
                self._check_groups(groups)
        self._step_count += 1
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        self._write(groups)

    def _write(self, groups: Sequence[dict[str, Any]]) -> None:
        rates = self.get_lr()
        if self._tensors:
            for name, group, rate in zip(self._base, groups, rates, strict=True):
                found = group["lr"]
                if isinstance(found, Tensor):
                    found.fill_(rate)  # in place: a compiled or captured optimizer holds this tensor
                    self._tensors[name] = (found, found._version)
                else:
                    group["lr"] = rate
        else:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate
        self._last_lr = rates
        if self._decays:
            self._write_decays(groups)

    def _write_decays(self, groups: Sequence[dict[str, Any]]) -> None:
        """Keep `lr_i * weight_decay_i` at `lr_base * weight_decay`, where decay is independent of the ratio."""
        base, values = self._base_value(), self._factors()
        for index, decay in self._decays:
            factor = values[groups[index]["component"]]
            # A component at rate 0 is frozen: no finite decay would move it, and none is wanted.
            groups[index]["weight_decay"] = decay * (base / factor) if factor else 0.0

    def _check_groups(self, groups: Sequence[dict[str, Any]]) -> None:
        """See that no rate was written by another, and take groups that were replaced or added."""
        written = dict(zip(self._base, self._last_lr, strict=True))
        for group in groups:
            name, found = group.get("name"), group["lr"]
            tensor, version = self._tensors.get(name, (None, 0))
            # A tensor that nobody has written since needs no look at its value, for which an accelerator would wait.
            if name in written and not (found is tensor and tensor is not None and tensor._version == version):
                self._check_rate(group, float(written[name]))
        if not self._is_bound(groups):
            self._bind(groups)
        self._optimizer_loaded = False

    def _check_rate(self, group: Mapping[str, Any], written: float) -> None:
        rate = group["lr"]
        found = float(rate)
        if _close(found, rate, written):
            return
        differ = f"parameter group {group['name']!r} has {found:g} where RelativeLR wrote {written:g} at step "
        differ += str(self.last_epoch)
        if self._optimizer_loaded:
            raise RuntimeError(
                f"the optimizer's state was loaded, and not the scheduler's: {differ}; load that too "
                "(scheduler.load_state_dict), or make the scheduler with last_epoch=n - 1 after n steps"
            )
        raise RuntimeError(
            f"something else sets learning rates: {differ}; let one of the two go (a trainer's own scheduler, "
            "DeepSpeed's, a callback)"
        )

    def rates(self) -> dict[str, float]:
        """Present rate of every component, for logs; of its largest where groups of one component differ."""
        rates: dict[str, float] = {}
        values = self._factors()
        for name, components in self._component_of.items():
            for component in components:
                rates[component] = max(self._base[name] * values[component], rates.get(component, 0.0))
        return rates

    def relative_rates(self) -> dict[str, float]:
        """Present relative rate of every component, from the schedule, for logs.

        It is `lr_i(t) / lr_base(t)` in units of each group's own base peak rate, and its limit where both are 0 (after
        a schedule that ends at 0).
        """
        base = self._base_value()
        limits = {component: self.ratios.get(component, BASE).knots[-2][1] for component in self._curves}
        return {c: factor / base if base else limits[c] for c, factor in self._factors().items()}

    def base_rate(self) -> float:
        """Present base rate: what a component with ratio 1 has (of the largest base rate, if groups differ)."""
        return max(self._base.values()) * self._base_value()

    def change(self, ratios: Ratios | Mapping[str, Any], peaks: Mapping[str, float]) -> None:
        """Go on from the present step with other ratios and base peak rates; they are written at once.

        Args:
            ratios: in place of the present ones.
            peaks: base peak rate of every group by its name, as in the state's `base_lrs`.

        Raises:
            ValueError: groups that are missing or that the optimizer does not have.
            RatiosError: ratios for a component that no group has.
        """
        changed = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
        groups = self._groups()
        named_groups.check_same(list(peaks), named_groups.names(groups))
        new = Ratios({name: ratio for name, ratio in changed.items() if name not in self.ratios})
        new.check_used(list(self._curves), "the optimizer")
        self.ratios, self._base = changed, {name: float(peaks[name]) for name in self._base}
        self._bind(groups)
        self._write(groups)

    # Saving and resuming

    def state_dict(self) -> dict[str, Any]:
        """The step, every group's base peak rate by its name, and what the schedule was made with.

        Rates are recomputed from the step; the last is text, for a warning where a later run differs.
        """
        return {"last_epoch": self.last_epoch, "base_lrs": dict(self._base), "made_with": self._made_with()}

    def _made_with(self) -> str:
        shape = self.schedule.shape
        plain = {
            "total_steps": self.schedule.total_steps,
            "warmup_steps": self.schedule.warmup_steps,
            "final_fraction": self.schedule.alpha,
            "schedule": shape if isinstance(shape, str) else "a function",
            **({"decay_fraction": self.schedule.decay_fraction} if shape == "wsd" else {}),
            "ratios": {component: ratio.to_plain() for component, ratio in self.ratios.items()},
        }
        return json.dumps(plain)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved step and write its rates, whatever order groups were saved in, and states are loaded in.

        The saved base peak rates count, and the present total steps, warm-up, shape and ratios. Where the others
        differ, a warning has both values.

        Raises:
            ValueError: saved groups are missing here or the other way round; the message names them.
        """
        if not {"last_epoch", "base_lrs"} <= set(state_dict) or not isinstance(state_dict["base_lrs"], Mapping):
            raise ValueError(f"not a state of RelativeLR: it has the keys {', '.join(sorted(state_dict))}")
        groups = self._groups()
        saved, here = state_dict["base_lrs"], named_groups.names(groups)
        named_groups.check_same(saved, here)
        differ = _differences({name: float(saved[name]) for name in here}, self._base)
        changed = _changes(state_dict.get("made_with"), self._made_with())
        self._base = {name: float(saved[name]) for name in here}
        self._bind(groups)
        self.last_epoch = int(state_dict["last_epoch"])
        self._step_count = self.last_epoch + 1
        self._loaded, self._optimizer_loaded, self._doubt = True, False, None
        self._write(groups)
        self._pace.restart()
        for sentence in (differ, changed):
            if sentence:
                warnings.warn(f"RelativeLR.load_state_dict at step {self.last_epoch}: {sentence}", stacklevel=2)


def _close(found: float, rate: float | Tensor, written: float) -> bool:
    """Whether a rate is the written one, to the precision of the tensor that holds it."""
    if not isinstance(rate, Tensor):
        return found == written or abs(found - written) <= 1e-12 * abs(written)
    limits = torch.finfo(rate.dtype)
    return abs(found - written) <= limits.eps * abs(written) + limits.smallest_normal * limits.eps


def _differences(saved: Mapping[str, float], here: Mapping[str, float]) -> str | None:
    """A sentence about peak rates that are not the saved ones."""
    off = [name for name, rate in saved.items() if name in here and abs(rate - here[name]) > 1e-6 * abs(rate)]
    if not off:
        return None
    more = f" (and {len(off) - 1} more groups)" if len(off) > 1 else ""
    return (
        f"the peak rate of {off[0]!r}{more} was {saved[off[0]]:g} when it was saved, and is {here[off[0]]:g} here; the "
        "saved one counts. For the new one, before loading: state['base_lrs'] = scheduler.state_dict()['base_lrs']"
    )


def _changes(saved: Any, here: str) -> str | None:
    """A sentence about a schedule or ratios that are not the saved ones."""
    if not isinstance(saved, str) or saved == here:
        return None
    before, now = json.loads(saved), json.loads(here)
    parts = [
        f"{key} was {before.get(key)!r} and is {now.get(key)!r} here"
        for key in dict.fromkeys((*before, *now))
        if key != "ratios" and before.get(key) != now.get(key)
    ]
    old, new = before.get("ratios", {}), now["ratios"]
    parts += [
        f"the ratio of {component} was {old.get(component, 1)} and is {new.get(component, 1)} here"
        for component in dict.fromkeys((*old, *new))
        if old.get(component) != new.get(component)
    ]
    return f"rates may jump: when it was saved, {'; '.join(parts[:4])}; the present values count" if parts else None
