"""Are these rates real? `verify` watches some steps of a loop and names components whose rate is not what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from rlrs._verify.report import Finding, Kind, Report, VerificationError
from rlrs.components import Partition, Rule, partition

if TYPE_CHECKING:
    from rlrs.ratios import Ratios

__all__ = ["Finding", "Kind", "Report", "VerificationError", "verify"]


class verify:  # noqa: N801  (used as `with rlrs.verify(...) as check`, like torch.no_grad)
    """Watch the optimizer steps of a loop, and report every component whose rate is not what it says.

    Every watched step is done for real, then again from a copy of what it started from: with nothing changed, with
    some groups' rates doubled, without gradients. Parameters, optimizer state, schedulers, scaler and random generators
    go on bit for bit as without `verify`. With DDP or FSDP, enter it on every rank.

        with rlrs.verify(model, optimizer, scheduler=scheduler) as check:
            train(steps=3)
        check.report.raise_for_findings()

    Args:
        model: as it is trained, wrapped or not; names of parameters and components are taken from it.
        optimizer: those that are meant to train it. Others that step on its parameters are seen all the same.
        scheduler: torch schedulers (`RelativeLR` too) that should go one step per optimizer step.
        ratios: relative rates that the components should have, where they do not change; with a `RelativeLR`, its own
            are compared without being told.
        rates: rate that every component should have at a step, from the 0-based number of the optimizer's step.
        rules: of the partition into components; see `rlrs.partition`.
        parts: a partition made before, in place of `rules`.
        steps: how many steps of every optimizer to look at, at least 1. The pace of a scheduler shows from 2 on.
        on_report: called with the report as soon as it is there, inside the last watched `optimizer.step()`.

    Attributes:
        report: a `Report`, once the block has ended or `steps` steps are done; before, an error.

    Raises:
        ValueError: no model, no optimizer, or fewer than one step; from `report`, when it is not yet there.
        RatiosError: `ratios` for a component that the model does not have.
        PartitionError: rules that cannot be applied to this model.

    Examples:
        >>> import torch, rlrs
        >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
        >>> optimizer = torch.optim.AdamW(model[1].parameters())  # the embedding was forgotten
        >>> with rlrs.verify(model, optimizer) as check:
        ...     model(torch.arange(8)).sum().backward()
        ...     optimizer.step()
        >>> [(finding.component, finding.kind) for finding in check.report.findings]
        [('embedding', 'missing')]
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
        *,
        scheduler: Any = None,
        ratios: Ratios | Mapping[str, Any] | None = None,
        rates: Callable[[int], Mapping[str, float]] | None = None,
        rules: Sequence[Rule] = (),
        parts: Partition | None = None,
        steps: int = 3,
        on_report: Callable[[Report], object] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(f"model should be a torch.nn.Module, not {type(model).__name__}")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps should be a whole number of at least 1, not {steps!r}")
        if parts is not None and rules:
            raise ValueError("give rules or parts, not both: a partition is already made by rules")
        self._optimizers = [_inner(each, "optimizer") for each in _several(optimizer)]
        if not self._optimizers:
            raise ValueError("give the optimizer, or a list of them")
        for each in self._optimizers:
            if not isinstance(each, Optimizer):
                raise ValueError(f"optimizer should be a torch optimizer or a list of them, not {type(each).__name__}")
        self._schedulers = [_inner(each, "scheduler") for each in _several(scheduler)]
        for each in self._schedulers:
            if not hasattr(each, "get_last_lr"):
                raise ValueError(f"scheduler should be a torch scheduler or a list of them, not {type(each).__name__}")
        self._model, self._steps, self._on_report = model, steps, on_report
        from rlrs._verify.promise import Promise  # with all that belongs to it, by those who use it only

        self._promise = Promise(model, partition(model, rules) if parts is None else parts, ratios, rates)
        self._report: Report | None = None
        self._watch: Any = None

    @property
    def report(self) -> Report:
        """What was found."""
        if self._report is None:
            raise ValueError("there is no report yet: it is made when the block ends, or all its steps are done")
        return self._report

    @property
    def done(self) -> bool:
        """Whether the report is there."""
        return self._report is not None

    def __enter__(self) -> verify:
        from rlrs._verify.loop_watch import LoopWatch

        self._watch = LoopWatch(self._model, self._optimizers, self._schedulers, self._steps)
        self._watch.on_done = self._finish
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._watch.stop()
        if error[0] is None and self._report is None:
            self._finish()

    def _finish(self) -> None:
        from rlrs._verify.judge import judge

        self._report = judge(self._watch, self._promise)
        if self._on_report is not None:
            self._on_report(self._report)


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _inner(wrapped: Any, attribute: str) -> Any:
    """What Accelerate's and Lightning's wrappers are around; a torch scheduler's `optimizer` is not asked for."""
    kind = Optimizer if attribute == "optimizer" else None
    while not type(wrapped).__module__.startswith(("torch.", "rlrs.")):
        inner = getattr(wrapped, attribute, None) or getattr(wrapped, f"_{attribute}", None)
        if inner is None or (kind is not None and not isinstance(inner, kind)):
            break
        wrapped = inner
    return wrapped
