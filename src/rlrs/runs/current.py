"""`current_run()`: what a training script asks of the study that started it, and tells it."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlrs.files import write_atomic
from rlrs.messages import shortened
from rlrs.ratios import Ratios
from rlrs.records import MetricsLine, Pruning, RecordError, read_metrics, read_record
from rlrs.records.checked import write_checked
from rlrs.runs.asked import (
    METRICS_FILE,
    RESULT_FILE,
    RUN_FILE,
    RUN_VARIABLE,
    AskedRun,
    ReportedResult,
    RunError,
)
from rlrs.runs.comparable import ComparableGroups
from rlrs.runs.rates import SeenRates
from rlrs.runs.verifying import SelfVerification

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from rlrs.lr_scheduler import RelativeLR


class Run:
    """One run: what it is asked to be, and what it reports.

    A study gives a script its run by `current_run()`. One made by hand, to try the script alone, writes no files.

    Args:
        steps: optimizer steps, warm-up included.
        lr: base peak rate.
        ratios: relative rates, as `rlrs.Ratios` takes them.
        seed: of weights and data order.
        warmup_steps: optimizer steps.
        final_fraction: base rate at the end over its peak.
        schedule: shape of the base schedule.
        weight_decay: of decayed parameters.
        component_weight_decay: of components that have their own.
        betas: of Adam.
        muon_rate: base rate of what Muon trains over `lr`.
        args: the study's own variables of the model's size.

    Raises:
        ValueError: a value out of its range.

    Examples:
        >>> run = Run(steps=3, lr=1e-3, ratios={"embedding": 5.0}, args={"width": 8})
        >>> for step in range(1, run.steps + 1):
        ...     ended = run.report(step, train_loss=4.0 - step)
        >>> run.finish(valid_loss=1.5)
        >>> run.result.score, run.result.valid_loss
        (2.0, 1.5)
    """

    def __init__(
        self,
        *,
        steps: int,
        lr: float,
        ratios: Ratios | Mapping[str, Any] | None = None,
        seed: int = 0,
        warmup_steps: int = 0,
        final_fraction: float = 0.1,
        schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine",
        weight_decay: float = 0.1,
        component_weight_decay: Mapping[str, float] | None = None,
        betas: tuple[float, float] = (0.9, 0.95),
        muon_rate: float = 1.0,
        args: Mapping[str, Any] | None = None,
    ) -> None:
        given = ratios if isinstance(ratios, Ratios) else Ratios(ratios)
        asked = AskedRun(
            id="",
            steps=steps,
            lr=lr,
            ratios={component: ratio.knots for component, ratio in given.items()},
            seed=seed,
            warmup_steps=warmup_steps,
            final_fraction=1.0 if schedule == "constant" else final_fraction,
            schedule=schedule,
            weight_decay=weight_decay,
            component_weight_decay=dict(component_weight_decay or {}),
            betas=betas,
            muon_rate=muon_rate,
            args=dict(args or {}),
            given=("lr", "seed", "ratios"),  # nobody waits for its numbers
        )
        self._begin(asked, None)

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """The run of a `run.json`; its reports go into the folder of that file.

        Raises:
            RunError: there is no such file, or it is damaged.
        """
        path = Path(path)
        try:
            asked = read_record(path, AskedRun, "start the study again")
        except OSError as error:
            raise RunError(f"{path}: the run's file cannot be read: {error.strerror or error}") from None
        except RecordError as error:
            raise RunError(str(error)) from None
        run = cls.__new__(cls)
        run._begin(asked, path.parent)
        return run

    def _begin(self, asked: AskedRun, folder: Path | None) -> None:
        self._asked, self.folder = asked, folder
        self._prune = asked.prune or Pruning(rungs=(), window=1)
        self.result: ReportedResult | None = None
        """How the run ended; None before."""
        self._losses: list[float] = []
        """Of every step: a reported loss stands for the steps since the report before."""
        self._gap = 1
        self._valid: tuple[int, float] | None = None
        """Step and value of the last validation loss that was reported."""
        self._used: set[str] = set()
        self._rates = SeenRates(asked)
        self._groups: dict[int, ComparableGroups] = {}
        """By the id of the optimizer that they are of."""
        self._verification = SelfVerification(asked, folder) if asked.verify and folder is not None else None
        self._began, self._seconds = time.monotonic(), 0.0
        self._file: int | None = None

    # What it is asked to be

    @property
    def asked(self) -> AskedRun:
        """All of it, as `run.json` has it."""
        return self._asked

    @property
    def steps(self) -> int:
        """Optimizer steps, warm-up included."""
        return self._asked.steps

    @property
    def seed(self) -> int:
        """Of weights and data order."""
        self._used.add("seed")
        return self._asked.seed

    @property
    def lr(self) -> float:
        """Base peak rate."""
        self._used.add("lr")
        return self._asked.lr

    @property
    def ratios(self) -> Ratios:
        """Relative rates by component."""
        self._used.add("ratios")
        return self._asked.relative_rates()

    @property
    def warmup_steps(self) -> int:
        """Optimizer steps of the warm-up."""
        return self._asked.warmup_steps

    @property
    def final_fraction(self) -> float:
        """Base rate at the end over its peak."""
        return self._asked.final_fraction

    @property
    def schedule(self) -> str:
        """Shape of the base schedule: cosine, linear, constant or wsd."""
        return self._asked.schedule

    @property
    def weight_decay(self) -> float:
        """Of decayed parameters."""
        return self._asked.weight_decay

    @property
    def component_weight_decay(self) -> dict[str, float]:
        """Of components that have their own."""
        return dict(self._asked.component_weight_decay)

    @property
    def betas(self) -> tuple[float, float]:
        """Of Adam."""
        return self._asked.betas

    @property
    def muon_rate(self) -> float:
        """Base rate of what Muon trains over `lr`; 1 where the study has one optimizer."""
        self._used.add("muon_rate")
        return self._asked.muon_rate

    @property
    def muon_lr(self) -> float:
        """Base peak rate of what Muon trains."""
        return self.lr * self.muon_rate

    @property
    def args(self) -> dict[str, Any]:
        """The study's own variables of the model's size: `set` in study.yaml."""
        return dict(self._asked.args)

    def param_groups(self, model: nn.Module, **options: Any) -> list[dict[str, Any]]:
        """Named parameter groups with the run's base rate and weight decay, for any torch optimizer.

        Args:
            model: any module.
            options: of `rlrs.param_groups`; `weight_decay` in place of the run's own, for example.
        """
        from rlrs.param_groups import param_groups

        if self._verification is not None:
            self._verification.knows(model, options)
        own = {"weight_decay": self.weight_decay, "weight_decays": self.component_weight_decay}
        return param_groups(model, self.ratios, lr=self.lr, **{**own, **options})

    def scheduler(
        self, optimizer: Optimizer | list[Optimizer], model: nn.Module | None = None, **options: Any
    ) -> RelativeLR:
        """The run's schedule for an optimizer that was made from `param_groups`: call `step()` after every step.

        Args:
            optimizer: one, or several that are driven together.
            model: as for `watch`; one that `param_groups` was given is known.
            options: of `rlrs.RelativeLR`.
        """
        from rlrs.lr_scheduler import RelativeLR

        asked = self._asked
        scheduler = RelativeLR(
            optimizer,
            self.ratios,
            total_steps=asked.steps,
            warmup_steps=asked.warmup_steps,
            final_fraction=None if asked.schedule == "constant" else asked.final_fraction,
            schedule=asked.schedule,
            **options,
        )
        self._watch(scheduler.optimizers, model, scheduler)
        return scheduler

    def watch(
        self, *optimizers: Optimizer, model: nn.Module | None = None, muon: Sequence[Optimizer] | Optimizer = ()
    ) -> None:
        """Compare the rates of the groups with the run's schedule: in the first ten steps, and 50 times later.

        `scheduler` does it already. For a script that sets rates itself: groups need the key `component`.

        Args:
            optimizers: of the run.
            model: that they train, for `rlrs verify`; one that `param_groups` was given is known.
            muon: further ones, whose base rate is `muon_lr` in the place of `lr`.
        """
        others = tuple(muon) if isinstance(muon, Sequence) else (muon,)
        for optimizer in others:
            self._groups[id(optimizer)] = ComparableGroups(optimizer, self._asked, muon=True)
        self._watch((*optimizers, *others), model)

    def _watch(self, optimizers: Sequence[Optimizer], model: nn.Module | None, scheduler: Any = None) -> None:
        for optimizer in optimizers:
            groups: Any = self._groups.setdefault(id(optimizer), ComparableGroups(optimizer, self._asked))
            self._rates.watch(groups)
        self._used |= {"lr", "ratios"}
        if self._verification is not None:
            if model is not None:
                self._verification.knows(model, None)
            self._verification.begin(optimizers, scheduler)

    # What it reports

    def report(self, step: int, train_loss: float | None = None, valid_loss: float | None = None) -> bool:
        """Tell how far the run is. Call it on one process of a run that is trained by several.

        A loss stands for all steps since the report before, so reports may be every so many steps. After a script
        went on from a checkpoint, its first report replaces those from that step on.

        Args:
            step: optimizer steps done, from 1; a report at step 0 is not kept.
            train_loss: nats per token.
            valid_loss: nats per token.

        Returns:
            Whether the run is to end now: it was pruned, or its loss is no number or above the limit. `finish` need not
            be called then.

        Raises:
            RunError: a step that is not above the one reported before, or above the run's steps.
        """
        if self.result is not None:
            return self.result.status != "finished"
        step, train_loss = int(step), None if train_loss is None else float(train_loss)
        if step < 1 and (train_loss is None or math.isfinite(train_loss)):
            return False
        if self._verification is not None and self._verification.is_over(step):
            self._end("pruned", reason="it was only to verify its rates")
            return True
        if step > self.steps:
            self._fail(f"a report at step {step} of a run of {self.steps} steps: it trains other steps than asked")
        if self._file is None:
            self._go_on_from(max(step, 1) + (train_loss is None))
        if train_loss is not None:
            if len(self._losses) >= step >= 1:
                raise RunError(f"a report at step {step} after one at step {len(self._losses)}: steps should increase")
            if not self._is_sound(train_loss):
                limit = f"above the limit of {self._asked.loss_limit:g}" if math.isfinite(train_loss) else "no number"
                self._end("diverged", diverged_at=max(step, 1), reason=f"training loss {train_loss:g} is {limit}")
                return True
            self._gap = step - len(self._losses)
            self._losses += [train_loss] * self._gap
        if valid_loss is not None:
            self._valid = step, float(valid_loss)
        self._write(step, train_loss, None if valid_loss is None else float(valid_loss))
        self._rates.look(step)
        if (reason := self._over_limit()) is not None:
            self._end("pruned", reason=reason)
            return True
        return False

    def finish(self, valid_loss: float | None = None) -> None:
        """Tell that the run has ended after its last step; nothing for one that was ended early.

        Args:
            valid_loss: after the last step, nats per token; the comparison of a study needs it. The one that was
                reported with the last step if None.

        Raises:
            RunError: the run is not what was asked for: other steps, a base rate, ratios or a seed that were not used,
                no training loss, no validation loss where one is needed.
        """
        if self.result is not None:
            return
        if self._verification is not None:
            self._verification.close()
            self._end("pruned", reason="it was only to verify its rates")
            return
        if self._file is None:  # killed after the last step: all was reported before
            self._go_on_from(self.steps + 1)
        if not self._losses:
            self._fail("no training loss was reported: call run.report(step, train_loss=...)")
        done = len(self._losses)
        if self.steps - done >= max(self._gap, 1) and self.steps > done:
            self._fail(f"it ended after step {done} of {self.steps}: it trained other steps than asked")
        at_end = self._valid is not None and self._valid[0] >= done
        if valid_loss is None and at_end and self._valid is not None:
            valid_loss = self._valid[1]
        if valid_loss is None and self._asked.validate_at_end and self.folder is not None:
            self._fail("no validation loss was reported, which the comparison needs: run.finish(valid_loss=...)")
        if valid_loss is not None and not math.isfinite(valid_loss):
            self._end("diverged", diverged_at=done, reason=f"validation loss {valid_loss:g} is no number")
            return
        if (reason := self._without_muon() or self._rates.not_as_asked(self._used)) is not None:
            self._fail(reason)
        if valid_loss is not None and not at_end:
            self._write(self.steps, None, float(valid_loss))
        window = self._losses[-self._asked.score_steps :]
        score = math.fsum(window) / len(window)
        self._end("finished", score=score, valid_loss=None if valid_loss is None else float(valid_loss))

    def _without_muon(self) -> str | None:
        """That Muon's base rate was asked for, and not used."""
        rate = self._asked.muon_rate
        if rate == 1 or {"muon_rate", "run"} & set(self._asked.given):
            return None
        if "muon_rate" in self._used and (not self._groups or any(g.has_muon for g in self._groups.values())):
            return None
        return (
            f"no optimizer has Muon's base rate of {self._asked.lr * rate:.4g}, {rate:.4g} times the other's: "
            "rlrs.split_groups(groups, belongs, lr=run.muon_lr), run.watch(adamw, muon=muon), or {muon_rate} in the "
            "command"
        )

    def _is_sound(self, loss: float) -> bool:
        limit = self._asked.loss_limit
        return math.isfinite(loss) and (limit is None or loss <= limit)

    def _over_limit(self) -> str | None:
        """Why the run ends, if it has come to a rung with a limit that its loss is above."""
        prune, done = self._prune, len(self._losses)
        for step, limit in prune.rungs:
            if limit is not None and step <= done and (loss := prune.loss(self._losses, step)) > limit:
                return f"training loss {loss:.4g} at step {step} is above {limit:.4g}"
        return None

    # The files

    def _go_on_from(self, step: int) -> None:
        """Keep what an earlier process reported before this step, where the script went on from a checkpoint."""
        self._file = -1
        if self._groups and (reason := self._without_muon()) is not None:  # said at the first report
            self._fail(reason)
        if self.folder is None:
            return
        path = self.folder / METRICS_FILE
        kept = []
        if step > 1 and path.exists():
            # The last line may be half there: what was reported after the checkpoint is reported again.
            whole = path.read_bytes().rpartition(b"\n")[0]
            write_atomic(path, whole + b"\n" if whole else b"")
            try:
                kept = [line for line in read_metrics(path) if line.step < step]
            except RecordError as error:
                raise RunError(f"{error}; delete the run's folder, and it starts again") from None
        for line in kept:
            if line.loss is not None and line.step > len(self._losses):
                self._gap = line.step - len(self._losses)
                self._losses += [line.loss] * self._gap
            self._seconds = max(self._seconds, line.seconds or 0.0)
        write_atomic(path, "".join(_json_line(line) for line in kept))
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)

    def _write(self, step: int, loss: float | None, valid_loss: float | None) -> None:
        if self._file is None or self._file < 0 or (loss is None and valid_loss is None):
            return
        # A `MetricsLine` as JSON, spelt out: reports come every step, and `json.dumps` costs ten times more where the
        # step itself has filled the processor's caches.
        line = f'{{"step": {step}, "tokens": {step * self._asked.tokens_per_step}'
        for name, value in (("loss", loss), ("valid_loss", valid_loss)):
            if value is not None:
                line += f', "{name}": {value if math.isfinite(value) else json.dumps(value)}'
        line += f', "seconds": {self._time():.3f}}}\n'
        os.write(self._file, line.encode())  # one call: a reader sees whole lines

    def _time(self) -> float:
        return self._seconds + time.monotonic() - self._began

    def _end(self, status: Any, score: float | None = None, valid_loss: float | None = None, **end: Any) -> None:
        prune, done = self._prune, len(self._losses)
        if status == "finished":
            self._losses += [self._losses[-1]] * (self.steps - done)
            done = self.steps
        self.result = ReportedResult(
            id=self._asked.id,
            status=status,
            steps=done,
            score=score,
            valid_loss=valid_loss,
            tokens=done * self._asked.tokens_per_step,
            seconds=self._time(),
            rungs=tuple((step, prune.loss(self._losses, step)) for step, _ in prune.rungs if step <= done),
            rates=self._rates.peaks,
            **end,
        )
        if self._file is not None and self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1
        if self.folder is not None:
            write_checked(self.folder / RESULT_FILE, self.result)

    def _fail(self, reason: str) -> None:
        """Say why the run's numbers are of no use, to the study and to the script."""
        self._end("failed", reason=shortened(reason, 500))
        raise RunError(reason)


def _json_line(line: MetricsLine) -> str:
    return json.dumps(line.model_dump(mode="json", exclude_none=True, exclude_defaults=True)) + "\n"


_current: dict[str, Run] = {}
"""By the path of its file: a script that asks twice gets the same run."""


def current_run(alone: Run | None = None) -> Run:
    """The run that this process is to train, from the file that the environment variable `RLRS_RUN` names.

    Args:
        alone: what to train where no study has started the process, to try a script by itself.

    Raises:
        RunError: no study has started the process, and there is no `alone`; or the file cannot be used.

    Examples:
        >>> run = current_run(alone=Run(steps=100, lr=3e-3, args={"width": 64}))
        >>> run.args["width"]
        64
    """
    path = os.environ.get(RUN_VARIABLE)
    if not path:
        if alone is not None:
            return alone
        raise RunError(
            f"no study has started this script ({RUN_VARIABLE} is not set); to try it alone, give it a run: "
            "rlrs.current_run(alone=rlrs.Run(steps=100, lr=3e-3, args={...}))"
        )
    if path not in _current:
        _current[path] = Run.read(path)
    return _current[path]


__all__ = ["METRICS_FILE", "RESULT_FILE", "RUN_FILE", "Run", "current_run"]
