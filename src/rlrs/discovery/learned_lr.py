"""`LearnedLR`: a `RelativeLR` whose ratios are learned while the run goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from rlrs import named_groups
from rlrs.discovery.learning_rules import Hypergradient, LearningRule, Memory, StepFigures, described
from rlrs.discovery.trajectory import FittedCourse, fit_course
from rlrs.discovery.update_probe import SeenSteps, UpdateProbe
from rlrs.lr_scheduler import RelativeLR
from rlrs.ratios import Ratios, RatiosError
from rlrs.schedules import Curve

FOLLOW_BASE = frozenset({"norm", "position", "other"})
"""Components that keep the base rate unless they are named, as in a search (the paper's choice)."""
_POINTS = 200
"""Points of a learned course that are kept. Chosen here."""
_ATTACHED = "_rlrs_learning"
_BASE = "base"


class LearnedLR(RelativeLR):
    """Every component's ratio, learned in one run: in the place of `RelativeLR`, called as that is.

    It looks at each optimizer step (gradients before it, weights before and after it), and `rule` moves the ratios from
    where they start. Nothing is asked of the loop but `scheduler.step()` after every `optimizer.step()`; any optimizer
    whose update is proportional to its rate will do. Gradients are taken as the optimizer gets them, so a loop that
    clips them does so before.

    Memory: one number for each trained weight, of the weight's type (a third of AdamW's state and weights in float32).
    On many ranks, sums are taken over the process group, so that all ranks learn the same ratios bit for bit. The state
    has everything: a resumed run learns what an uninterrupted one does.

    Args:
        optimizer: as for `RelativeLR`: one, or several (Muon and AdamW).
        ratios: where they start: all 1 if None.
        rule: how they move; None leaves that to others, as `Replicas`.
        components: that learn; all but norms, positions and what has no name, if None.
        process_group: over which ranks act as one; the default group where there is one; None for a rank by itself.
        total_steps: as for `RelativeLR`, like all that follow.
        warmup_steps: the same.
        final_fraction: the same.
        schedule: the same.
        decay_fraction: the same.
        last_epoch: the same.
        partial: the same.

    Raises:
        RatiosError: a component that the optimizer does not have, a ratio of 0 that is to be learned, or ratios of
            parts of one tensor (fused experts, tokens).

    Examples:
        >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
        >>> from rlrs import param_groups
        >>> optimizer = torch.optim.AdamW(param_groups(model, {}, lr=1e-2))
        >>> scheduler = LearnedLR(optimizer, total_steps=20)
        >>> for _ in range(20):
        ...     model(torch.arange(8)).logsumexp(1).mean().backward()
        ...     optimizer.step(), optimizer.zero_grad(), scheduler.step()  # doctest: +ELLIPSIS
        (None, None, None)
        ...
        >>> list(scheduler.learned()), scheduler.learned()["embedding"].start > 1
        (['embedding', 'unembedding'], True)
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        ratios: Ratios | Mapping[str, Any] | None = None,
        *,
        total_steps: int,
        rule: LearningRule | None = Hypergradient(),  # noqa: B008  frozen
        components: Sequence[str] | None = None,
        process_group: Any = "default",
        warmup_steps: int = 0,
        final_fraction: float | None = None,
        schedule: Literal["cosine", "linear", "constant", "wsd"] | Callable[[int], float] = "cosine",
        decay_fraction: float = 0.2,
        last_epoch: int = -1,
        partial: bool = False,
    ) -> None:
        self.rule, self._asked, self._process_group = rule, components, process_group
        self.learning: list[str] = []
        """Components whose ratios are learned."""
        self._log: list[float] = []  # of `learning`, and last of the base
        self._noted: list[float] = []  # the same as it is written down as learned
        self._memory: Memory = {}
        self._course: list[tuple[int, list[float]]] = []  # (step, logarithms)
        self._multipliers: list[float] = []
        self._alignments: list[Tensor] = []
        self._seen = SeenSteps()
        self._probes: list[UpdateProbe] = []
        super().__init__(
            optimizer,
            {} if ratios is None else ratios,
            total_steps=total_steps,
            warmup_steps=warmup_steps,
            final_fraction=final_fraction,
            schedule=schedule,
            decay_fraction=decay_fraction,
            last_epoch=last_epoch,
            partial=partial,
        )
        after = range(self.schedule.warmup_steps, self.schedule.total_steps)
        self._all_shares = math.fsum(map(self.schedule.share, after)) or 1.0

    # The groups and the hooks

    def _bind(self, groups: Sequence[dict[str, Any]]) -> None:
        super()._bind(groups)
        there = list(self._curves)
        if not self._log:
            self.learning = self._learning(there)
            self._log = self._noted = [0.0] * (len(self.learning) + 1)
        size = self._ranks()
        self._probes = self._probes or [UpdateProbe() for _ in self.optimizers]
        for probe, optimizer in zip(self._probes, self.optimizers, strict=True):
            names, weights, owners = [], [], []
            for group in optimizer.param_groups if self.rule is not None else ():
                owner = group["component"]
                place = self.learning.index(owner) if owner in self.learning else len(self.learning)
                for index, weight in enumerate(group["params"]):
                    if weight.requires_grad:
                        names.append(f"{group['name']}/{index}")
                        weights.append(weight)
                        owners.append(place)
            probe.bind(names, weights, owners, size)
        self._multiply()

    def _learning(self, there: Sequence[str]) -> list[str]:
        for optimizer in self.optimizers if self.rule is not None else ():
            for group in optimizer.param_groups:
                if group.get("slices"):
                    raise RatiosError(
                        f"{group['slices'][0][0]}: ratios of parts of one tensor are not learned; give the optimizer "
                        f"groups with one ratio for {group['component']}"
                    )
        if self._asked is None:
            return [name for name in there if name.partition("/")[0] not in FOLLOW_BASE and self._trains(name)]
        for name in self._asked:
            if name not in there:
                raise RatiosError(f"components: the optimizer has no {name!r}; it has {', '.join(there)}")
            if not self._trains(name):
                raise RatiosError(f"components: the ratio of {name!r} is 0 somewhere, from which none is learned")
        return [name for name in there if name in self._asked]

    def _trains(self, name: str) -> bool:
        return name not in self.ratios or all(ratio > 0 for _, ratio in self.ratios[name].knots)

    def _ranks(self) -> int:
        if self._process_group is None or not (dist.is_available() and dist.is_initialized()):
            return 1
        return dist.get_world_size(None if self._process_group == "default" else self._process_group)

    def _attach(self) -> None:
        super()._attach()
        for optimizer, probe in zip(self.optimizers, self._probes, strict=True):
            inner = named_groups.inner(optimizer)
            for handle in getattr(inner, _ATTACHED, ()):
                handle.remove()
            if self.rule is None:
                continue

            def before(_: Optimizer, *call: Any, probe: UpdateProbe = probe) -> None:
                if torch.compiler.is_compiling():
                    return
                found = probe.before_step(len(self.learning) + 1)
                if found is not None:
                    self._alignments.append(found)

            def after(_: Optimizer, *call: Any, probe: UpdateProbe = probe) -> None:
                if torch.compiler.is_compiling():
                    return
                probe.after_step()
                self._seen.now = True

            handles = (inner.register_step_pre_hook(before), inner.register_step_post_hook(after))
            setattr(inner, _ATTACHED, handles)

    # The rates

    def _multiply(self) -> None:
        own = dict(zip(self.learning, self._log, strict=False))
        self._multipliers = [math.exp(own.get(component, 0.0) + self._log[-1]) for component in self._curves]

    def _values(self, step: int) -> list[float]:
        return [value * own for value, own in zip(super()._values(step), self._multipliers, strict=True)]

    def _base_value(self) -> float:
        return super()._base_value() * math.exp(self._log[-1])

    def step(self, epoch: int | None = None) -> None:
        """Learn from the step that was taken, and go to the next; see `RelativeLR.step`."""
        if getattr(self, "_step_count", 0) and epoch is None:
            self._learn()
        super().step(epoch)
        total = self.schedule.total_steps
        if self.last_epoch % max(1, total // _POINTS) == 0 or self.last_epoch == total:
            self._note()

    def _note(self) -> None:
        self._course = [point for point in self._course if point[0] < self.last_epoch]
        self._course.append((self.last_epoch, list(self._noted)))

    @torch.no_grad()
    def _learn(self) -> None:
        """Move the logarithms by what the step that was just taken shows."""
        alignments, self._alignments = self._alignments, []
        stepped, self._seen.now = self._seen.now, False
        if self.rule is None or not self.schedule.warmup_steps <= self.last_epoch < self.schedule.total_steps:
            return
        self._seen.check(stepped, self._probes)
        if not alignments:
            return  # a skipped step, or the first one, which has none before it
        count, device = len(self.learning) + 1, alignments[0].device
        sums = torch.zeros(3, count, dtype=torch.float64, device=device)
        for found in alignments:
            sums[0] += found.to(device)
        if self.rule.norms:
            for probe in self._probes:
                sums[1:] += probe.squares(count).to(device)
        if self._ranks() > 1:
            dist.all_reduce(sums, group=None if self._process_group == "default" else self._process_group)
        alignment, moved, size = sums.tolist()
        if not all(map(math.isfinite, (*alignment, *moved, *size))):
            return  # gradients that are no numbers
        base, values = self._base_value(), self._factors()
        if not base:
            return
        figures = StepFigures(
            alignment=alignment[:-1],
            everything=math.fsum(alignment),
            ratios=[values[name] / base for name in self.learning],
            moved=[math.sqrt(value) for value in moved[:-1]],
            size=[math.sqrt(value) for value in size[:-1]],
        )
        self.move_to(self.rule.move(self._log, figures, self.share(), self._memory))

    def share(self) -> float:
        """Of everything that ratios may move in the run, the present step's: annealed as the base's decay."""
        return self.schedule.share(self.last_epoch) / self._all_shares

    def move_to(self, logarithms: Sequence[float], learned: Sequence[float] | None = None) -> None:
        """Set where the ratios are, from the next `step()` on.

        Args:
            logarithms: of every component of `learning` over its starting ratio, and last that of the base over its
                own; 0 is the start.
            learned: what the course has of it, where these are a perturbation of that.

        Raises:
            ValueError: another number of them, or one that is not finite.
        """
        if len(logarithms) != len(self._log) or not all(map(math.isfinite, logarithms)):
            raise ValueError(f"logarithms should be {len(self._log)} finite numbers, not {list(logarithms)!r}")
        self._log = [float(value) for value in logarithms]
        self._noted = list(self._log if learned is None else learned)
        self._multiply()

    @property
    def logarithms(self) -> list[float]:
        """Where the ratios are, as `move_to` takes it."""
        return list(self._log)

    # What was learned

    def course(self) -> tuple[list[int], dict[str, list[float]]]:
        """What was learned so far: steps, and by component the multiple of its starting ratio; `base` is the base's."""
        steps = [step for step, _ in self._course]
        names = [*self.learning, _BASE]
        return steps, {name: [math.exp(log[k]) for _, log in self._course] for k, name in enumerate(names)}

    def learned(self, knots: Sequence[float] | Mapping[str, Sequence[float]] = (0.0, 1.0)) -> Ratios:
        """The learned course as ratios that any run takes, with base rate and uncertainty as provenance.

        Args:
            knots: progress of the knots that are fitted, from 0 to 1, for all components or by component; `(0, 1)` is a
                start and an end, `(0,)` a ratio that is held.

        Raises:
            ValueError: less than half of the run was seen: where it ends is not known.
        """
        if self.last_epoch < self.schedule.total_steps / 2:
            raise ValueError(
                f"learned() after {self.last_epoch} of {self.schedule.total_steps} steps: where the ratios end is not "
                "known before half of the run"
            )
        schedule = self.schedule
        fitted, base = self._fitted(knots)
        start, end = base.knots[0][1], base.knots[-1][1]
        alpha = min(schedule.alpha * end / start, 1.0)
        if schedule.alpha:
            end = alpha * start / schedule.alpha  # as a final fraction of at most 1 allows
        moved, kept = Curve(schedule, ((0.0, start), (1.0, end))), self._base_curve
        ratios: dict[str, Any] = {name: ratio.to_plain() for name, ratio in self.ratios.items()}
        for name, course in fitted.items():
            # Over the base as it was learned, which goes from its own start to its own end.
            at = [schedule.warmup_steps + round(p * schedule.decay_steps) for p, _ in course.knots]
            over = [moved(t) / kept(t) if kept(t) else end for t in at]
            ratios[name] = {"knots": [[p, _six(r / o)] for (p, r), o in zip(course.knots, over, strict=True)]}
        uncertainty = {
            name: {"deviations": list(course.deviations), "residual": course.residual}
            for name, course in fitted.items()
        }
        provenance = {
            "learned": {
                "rule": described(self.rule),
                "steps": self.last_epoch,
                "base": _six(start),  # over the base peak rate that it was given
                "start": {name: ratio.to_plain() for name, ratio in self.ratios.items()},
                "uncertainty": uncertainty,
            },
            "base": self._base_settings(start, alpha),
        }
        return Ratios(ratios, provenance)

    def _fitted(
        self, knots: Sequence[float] | Mapping[str, Sequence[float]]
    ) -> tuple[dict[str, FittedCourse], FittedCourse]:
        """Every component's rates at knots, in units of the base as it was to be, and the base's own."""
        after = [point for point in self._course if point[0] >= self.schedule.warmup_steps]
        steps = [min(step, self.schedule.total_steps) for step, _ in after]

        def fitted(rates: list[float], progress: Sequence[float]) -> FittedCourse:
            return fit_course(self.schedule, steps, rates, progress)

        found = {}
        for k, name in enumerate(self.learning):
            curve = self._curves[name]
            rates = [curve(step) * math.exp(log[k] + log[-1]) for step, (_, log) in zip(steps, after, strict=True)]
            found[name] = fitted(rates, knots[name] if isinstance(knots, Mapping) else knots)
        if all(log[-1] == 0 for _, log in after):
            return found, FittedCourse(((0.0, 1.0), (1.0, 1.0)), (0.0, 0.0), 0.0)
        bases = [self._base_curve(step) * math.exp(log[-1]) for step, (_, log) in zip(steps, after, strict=True)]
        # A base that stays at its peak has no end of its own.
        return found, fitted(bases, (0.0,) if self.schedule.shape == "constant" else (0.0, 1.0))

    def _base_settings(self, start: float, alpha: float) -> dict[str, Any]:
        """What belongs to the ratios, as a `Recipe` reads it."""
        schedule, peaks = self.schedule, set(self._base.values())
        plain: dict[str, Any] = {"lr": _six(peaks.pop() * start)} if len(peaks) == 1 else {}
        if isinstance(schedule.shape, str):
            plain["final_fraction"] = _six(alpha)
            plain["schedule"] = schedule.shape
            plain["warmup_fraction"] = _six(schedule.warmup_steps / schedule.total_steps)
        return plain

    # Saving and resuming

    def state_dict(self) -> dict[str, Any]:
        """That of `RelativeLR`, and what was learned, with every tensor's last update."""
        updates = {
            name: update for probe in self._probes for name, update in zip(probe.names, probe.updates, strict=True)
        }
        return {
            **super().state_dict(),
            "learned": {
                "components": list(self.learning),
                "log": list(self._log),
                "noted": list(self._noted),
                "memory": {name: list(values) for name, values in self._memory.items()},
                "course": [[step, list(log)] for step, log in self._course],
                "moved": all(probe.moved for probe in self._probes),
                "updates": updates,
            },
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to a saved step, with what was learned up to there; see `RelativeLR.load_state_dict`.

        Raises:
            ValueError: the state of another scheduler, or of other components.
        """
        saved = state_dict.get("learned")
        if not isinstance(saved, Mapping):
            raise ValueError("not a state of LearnedLR: it has no 'learned'")
        if list(saved["components"]) != self.learning:
            raise ValueError(
                f"the saved state learned {', '.join(saved['components'])}, and here are {', '.join(self.learning)}"
            )
        for probe in self._probes:
            probe.load(saved["updates"], saved["moved"])
        self._memory = {name: list(values) for name, values in saved["memory"].items()}
        self._course = [(int(step), list(log)) for step, log in saved["course"]]
        self._alignments = []
        self.move_to(saved["log"], saved["noted"])
        super().load_state_dict(state_dict)


def _six(value: float) -> float:
    return float(f"{value:.6g}")
