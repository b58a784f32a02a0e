"""A run that verifies itself: its first steps are watched by `rlrs.verify`, and its folder holds what was found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from rlrs.components import Partition, partition
from rlrs.ratios import BASE
from rlrs.records import write_record
from rlrs.records.frozen import Record
from rlrs.runs.asked import AskedRun
from rlrs.schedules import Curve
from rlrs.verify import Finding, Report, verify

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

LATE = 2
"""Steps beyond those asked for, after which a run that is not verified ends: an optimizer's first steps may be skipped,
as fp16 does. Chosen here."""


class Verification(Record):
    """What one process of a run found, as `verification.RANK.json` has it."""

    id: str
    """Of the run."""
    ranks: int = Field(default=1, ge=1)
    """Processes that train the run together; each verifies the part that it holds."""
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    steps: int = Field(default=0, ge=0)
    components: tuple[str, ...] = ()


def file_name(rank: int | str) -> str:
    """Of the finding of a process."""
    return f"verification.{rank}.json"


def together(found: Iterable[Verification]) -> Report:
    """The report of all processes of a run."""
    every = list(found)
    findings: dict[tuple[str, ...], Finding] = {}
    for finding in (finding for each in every for finding in each.findings):
        findings.setdefault((finding.component, finding.kind, finding.cause), finding)
    return Report(
        findings=tuple(findings.values()),
        notes=tuple(dict.fromkeys(note for each in every for note in each.notes)),
        steps=max((each.steps for each in every), default=0),
        components=tuple(dict.fromkeys(component for each in every for component in each.components)),
    )


class SelfVerification:
    """`rlrs.verify` around the first steps of a run, begun by what the script tells the run of its optimizers.

    Args:
        asked: what the run is asked to be; has `verify`, the number of steps.
        folder: of the run.
    """

    def __init__(self, asked: AskedRun, folder: Path) -> None:
        self._asked, self._folder = asked, folder
        self._model: nn.Module | None = None
        self._options: dict[str, Any] | None = {}
        self._optimizers: list[Optimizer] = []
        self._schedulers: list[Any] = []
        self._check: verify | None = None
        self.done = False
        """Whether the finding is written."""

    def knows(self, model: nn.Module, options: Mapping[str, Any] | None) -> None:
        """Note the model; of a model and its parts, the whole.

        Args:
            model: that `param_groups`, `scheduler` or `watch` was given.
            options: of `param_groups`, which made the groups; None where the script has made them itself.
        """
        if self._model is None or len(list(model.parameters())) >= len(list(self._model.parameters())):
            self._model = model
            self._options = None if options is None else dict(options)

    def begin(self, optimizers: Sequence[Optimizer], scheduler: Any = None) -> None:
        """Watch from here on; called again before the first step, all that was named is watched."""
        if self.done:
            return
        self._optimizers += optimizers
        self._schedulers += [] if scheduler is None else [scheduler]
        if self._model is None:
            return
        self._stop()
        self._parts = self._partition(self._model)
        self._check = verify(
            self._model,
            self._optimizers,
            scheduler=self._schedulers,
            rates=None if self._schedulers or self._asked.muon_rate != 1 else self._rates,
            parts=self._parts,
            steps=self._asked.verify,
            on_report=self._write,
        )
        self._check.__enter__()

    def is_over(self, step: int) -> bool:
        """Whether the run is to end, after so many optimizer steps; then its finding is written."""
        if not self.done and step >= self._asked.verify + LATE:
            self.close()
        return self.done

    def close(self) -> None:
        """Write what is known, though fewer steps were seen than asked for."""
        if self.done:
            return
        if self._check is not None:
            self._check.__exit__(None, None, None)  # which writes
        elif not self._optimizers:
            self._write(Report((), ("the run's optimizer is not known: use run.scheduler or run.watch",)))
        else:
            self._write(Report((), ("the run's model is not known: give run.watch(optimizer, model=model)",)))

    def _stop(self) -> None:
        if self._check is not None:
            self._check.__exit__(RuntimeError, None, None)  # without a report
            self._check = None

    def _partition(self, model: nn.Module) -> Partition:
        """The components of the groups as they were made: by a script itself, they are what its groups say."""
        if self._options is not None:
            return self._options.get("parts") or partition(model, self._options.get("rules") or ())
        parts = partition(model)
        groups = [group for optimizer in self._optimizers for group in optimizer.param_groups if "component" in group]
        said = {id(weight): str(g["component"]).partition("/")[0] for g in groups for weight in g["params"]}
        own, components = parts.component_of(), {}
        for name, weight in model.named_parameters():
            components.setdefault(said.get(id(weight), own[name]), []).append(name)
        return replace(parts, components=components)

    def _rates(self, step: int) -> dict[str, float]:
        """What the study asks for, of components whose layers have no ratios of their own."""
        asked = self._asked
        base, ratios = asked.base_schedule(), asked.relative_rates()
        finer = {name.partition("/")[0] for name in ratios if "/" in name}
        return {
            name: asked.lr * Curve(base, ratios.get(name, BASE).knots)(step)
            for name in self._parts
            if name not in finer
        }

    def _write(self, report: Report) -> None:
        self.done = True
        found = Verification(
            id=self._asked.id,
            ranks=int(os.environ.get("WORLD_SIZE") or 1),
            findings=report.findings,
            notes=report.notes,
            steps=report.steps,
            components=report.components,
        )
        write_record(self._folder / file_name(os.environ.get("RANK") or 0), found)
