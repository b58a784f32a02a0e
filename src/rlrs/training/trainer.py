"""Train one model from a `RunSpec`: resumable, and the same numbers every time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rlrs.config import TrainingConfig
from rlrs.data import TokenData
from rlrs.files import write_atomic
from rlrs.lr_scheduler import RelativeLR
from rlrs.models import ModelOutput, build_model
from rlrs.param_groups import param_groups
from rlrs.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from rlrs.training.evaluate import evaluate
from rlrs.training.metrics import ComponentProbe, MetricsFile, router_line
from rlrs.training.spec import Pruning, RunResult, RunSpec

Progress = Callable[[int, float], object]
"""Called with the steps done and the mean training loss since the last call, nats per token."""

LOSS_LIMIT = 1.5
"""A loss above this multiple of ln(vocabulary), which a uniform guess has, is divergence. Chosen here, not studied."""


def train(
    spec: RunSpec,
    data: TokenData,
    folder: str | Path | None = None,
    *,
    progress: Progress | None = None,
    resume: bool = True,
    validate: bool = True,
    keep_weights: bool = True,
    prune: Pruning | None = None,
) -> RunResult:
    """Train one model.

    Weights come from the seed and batches from (seed, step), so a run's numbers depend on `spec` alone, on one
    machine and number of threads. For numbers that do not depend on what else runs, call `torch.set_num_threads(1)`
    before; it is the caller's to set.

    With a folder, writes run.json (the spec), metrics.jsonl, checkpoint.pt and at the end result.json into it, and a
    run that was killed goes on from its checkpoint with the same numbers as if it had not been. A run that has its
    result.json is not trained again.

    Args:
        spec: the run.
        data: tokens; `data.hash` should be `spec.data_hash`.
        folder: of this run alone; made if missing. None writes nothing and computes no metrics (a search's trial).
        progress: called every `log_every` steps and after the last.
        resume: go on from what the folder holds; False starts again.
        validate: evaluate on the validation sample. False saves its time where only the score is wanted.
        keep_weights: checkpoint.pt stays, with the state after the last step. False removes it when the run is
            finished: a study's runs are wanted for their numbers.
        prune: when to end the run early; for runs without a folder.

    Raises:
        ValueError: data other than the spec's, ratios for a component that the model does not have, or pruning of a
            run with a folder.
        ConfigError: too little validation text for one batch.
        CheckpointError: files in the folder that are damaged or belong to another run.
    """
    if data.hash != spec.data_hash:
        raise ValueError(f"the run is of data {spec.data_hash}, but this data is {data.hash}; prepare it again")
    if folder is not None and prune is not None:
        raise ValueError(f"a run that may be pruned keeps no files; leave out the folder {folder}")
    folder = None if folder is None else Path(folder)
    if folder is not None:
        finished = _enter(folder, spec, resume)
        if finished is not None:
            return finished
    # The run's random numbers are its own: the caller's generator is left as it was.
    with torch.random.fork_rng(devices=[]):
        run = _Run(spec, data, folder, validate=validate, prune=prune)
        try:
            result = run.train(progress)
            if folder is not None and keep_weights and result.status == "finished":
                run.save(folder)
        finally:
            run.close()
    if folder is not None:
        write_atomic(folder / "result.json", json.dumps({"id": spec.id, **result.to_plain()}, indent=1) + "\n")
        if not keep_weights:
            (folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


class _DivergedError(Exception):
    """Training cannot go on; the step (from 1) at which, and why."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


class _Run:
    """A run's state, and the steps that change it."""

    def __init__(
        self, spec: RunSpec, data: TokenData, folder: Path | None, *, validate: bool, prune: Pruning | None
    ) -> None:
        self.spec, self.data, self.folder = spec, data, folder
        self.prune = prune or Pruning(rungs=(), window=1)
        self.limits = dict(self.prune.rungs)
        settings = spec.training
        torch.manual_seed(spec.seed)
        self.model = build_model(spec.model, data.vocab_size)
        ratios = spec.relative_rates()
        self.optimizer = torch.optim.AdamW(
            param_groups(
                self.model,
                ratios,
                lr=spec.lr,
                weight_decay=settings.weight_decay,
                weight_decays=settings.component_weight_decay,
            ),
            betas=settings.betas,
            eps=settings.eps,
            fused=True,
        )
        self.scheduler = RelativeLR(
            self.optimizer,
            ratios,
            total_steps=spec.steps,
            warmup_steps=spec.warmup_steps,
            final_fraction=spec.final_fraction,
            schedule=settings.schedule,
        )
        self.weights = list(self.model.parameters())
        self.loss_limit = settings.loss_limit or LOSS_LIMIT * math.log(data.vocab_size)
        self.valid_batches = data.valid_batches(spec.batch_size, settings.eval_tokens) if validate else []
        self.valid_steps = evaluation_steps(spec.steps, settings) if validate and folder else {spec.steps}
        self.step = 0  # optimizer steps done
        self.losses: list[float] = []  # of every step
        self.valid_losses: list[tuple[int, float]] = []  # (step, loss)
        self.seconds = 0.0
        self.started = time.perf_counter()
        self.metrics: MetricsFile | None = None
        if folder is not None:
            self._restore(folder)

    def train(self, progress: Progress | None) -> RunResult:
        """Take all steps that are left."""
        try:
            while self.step < self.spec.steps:
                self._train_step(log=self.metrics is not None and self._is_logged(self.step + 1))
                if (reason := self._over_limit()) is not None:
                    return self._ended("pruned", reason)
                if self.valid_batches and self.step in self.valid_steps:
                    self._validate()
                if progress is not None and self._is_logged(self.step):
                    progress(self.step, self._mean_since_last_line())
                if self.folder is not None and self.step % self.spec.training.checkpoint_every == 0:
                    self.save(self.folder)
        except _DivergedError as end:
            return self._ended("diverged", end.reason, end.step)
        window = self.losses[-self.spec.training.score_steps :]
        return RunResult(
            status="finished",
            steps=self.step,
            score=math.fsum(window) / len(window),
            valid_loss=self.valid_losses[-1][1] if self.valid_losses else None,
            tokens=self._tokens(),
            seconds=self._seconds(),
            rungs=self._rungs(),
        )

    def _ended(self, status: Literal["diverged", "pruned"], reason: str, diverged_at: int | None = None) -> RunResult:
        """The result of a run that did not come to its last step."""
        return RunResult(
            status=status,
            steps=self.step,
            score=None,
            valid_loss=None,
            tokens=self._tokens(),
            seconds=self._seconds(),
            diverged_at=diverged_at,
            reason=reason,
            rungs=self._rungs(),
        )

    def _over_limit(self) -> str | None:
        """Why the run ends at the present step, if that is a rung with a limit that the loss is above."""
        if (limit := self.limits.get(self.step)) is None:
            return None
        loss = self.prune.loss(self.losses, self.step)
        return f"training loss {loss:.4g} at step {self.step} is above {limit:.4g}" if loss > limit else None

    def _rungs(self) -> tuple[tuple[int, float], ...]:
        """Windowed losses of the rungs so far."""
        return tuple((step, self.prune.loss(self.losses, step)) for step in self.limits if step <= self.step)

    def _train_step(self, *, log: bool) -> None:
        """One optimizer step, and its line of metrics.jsonl if it has one."""
        inputs_BT, targets_BT = self.data.batch(self.spec.seed, self.step, self.spec.batch_size)
        output: ModelOutput = self.model(inputs_BT, targets_BT)
        assert output.loss is not None
        loss = output.loss.item()
        if not loss <= self.loss_limit:  # written so that NaN does not pass
            limit = f"above the limit of {self.loss_limit:.4g}" if math.isfinite(loss) else "not a finite number"
            raise _DivergedError(self.step + 1, f"training loss {loss:.4g} nats per token is {limit}")
        self.optimizer.zero_grad(set_to_none=True)
        output.objective.backward()
        probe = ComponentProbe(self.optimizer) if log else None
        grad_norm = nn.utils.clip_grad_norm_(self.weights, self.spec.training.clip, foreach=True).item()
        if not math.isfinite(grad_norm):
            raise _DivergedError(self.step + 1, f"gradient norm {grad_norm:.4g} is not a finite number")
        base, rates = (self.scheduler.base_rate(), self.scheduler.rates()) if log else (0.0, {})
        self.optimizer.step()
        self.scheduler.step()
        self.step += 1
        self.losses.append(loss)
        if probe is not None:
            self._write_line(output, base, grad_norm, probe.read(rates))

    def _validate(self) -> None:
        loss = evaluate(self.model, self.valid_batches)
        if not math.isfinite(loss):
            raise _DivergedError(self.step, f"validation loss {loss:.4g} is not a finite number")
        self.valid_losses.append((self.step, loss))
        if self.metrics is not None:
            self.metrics.write({"step": self.step, "tokens": self._tokens(), "valid_loss": loss})

    def _write_line(
        self, output: ModelOutput, base: float, grad_norm: float, components: dict[str, dict[str, float]]
    ) -> None:
        assert self.metrics is not None
        line: dict[str, Any] = {
            "step": self.step,
            "tokens": self._tokens(),
            "loss": self._mean_since_last_line(),
            "lr_base": base,
            "grad_norm": grad_norm,
            "seconds": round(self._seconds(), 3),
            "components": components,
        }
        router = router_line(output.routings)
        self.metrics.write(line if router is None else {**line, "router": router})

    def _is_logged(self, step: int) -> bool:
        return step == 1 or step % self.spec.training.log_every == 0 or step == self.spec.steps

    def _mean_since_last_line(self) -> float:
        """Training loss over the steps after the last logged one before this."""
        first = self.step - 1
        while first > 0 and not self._is_logged(first):
            first -= 1
        return math.fsum(self.losses[first:]) / len(self.losses[first:])

    def _tokens(self) -> int:
        return self.step * self.spec.batch_size * self.data.sequence_length

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def save(self, folder: Path) -> None:
        """Write checkpoint.pt with the present state."""
        assert self.metrics is not None
        # The lines first: a checkpoint never speaks of lines that are not on disk.
        length = self.metrics.sync()
        save_checkpoint(
            folder / "checkpoint.pt",
            {
                "id": self.spec.id,
                "step": self.step,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "rng": torch.get_rng_state(),
                "losses": torch.tensor(self.losses, dtype=torch.float64),
                "valid_losses": self.valid_losses,
                "metrics_bytes": length,
                "seconds": self._seconds(),
            },
        )

    def _restore(self, folder: Path) -> None:
        """Go on from the checkpoint, if there is one; open metrics.jsonl at the length that it had then."""
        path = folder / "checkpoint.pt"
        state = load_checkpoint(path, self.spec.id)
        length = 0
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            torch.set_rng_state(state["rng"])
            self.step, self.seconds = state["step"], state["seconds"]
            self.losses, self.valid_losses = state["losses"].tolist(), list(state["valid_losses"])
            length = state["metrics_bytes"]
        try:
            self.metrics = MetricsFile(folder / "metrics.jsonl", length)
        except ValueError as error:
            raise CheckpointError(f"{error}; delete {path} to start the run again") from None

    def close(self) -> None:
        """Close the run's files."""
        if self.metrics is not None:
            self.metrics.close()


def evaluation_steps(steps: int, settings: TrainingConfig) -> set[int]:
    """Steps after which a run is validated: evenly spaced, the last step among them, none at step 0."""
    points = min(settings.evaluations, steps)
    return {round(number * steps / points) for number in range(1, points + 1)}


def _enter(folder: Path, spec: RunSpec, resume: bool) -> RunResult | None:
    """Make the run's folder this spec's; the result if it holds one already."""
    folder.mkdir(parents=True, exist_ok=True)
    if not resume:
        for name in ("result.json", "checkpoint.pt", "metrics.jsonl", "run.json"):
            (folder / name).unlink(missing_ok=True)
    _read_json(folder / "run.json", spec.id, frozenset())
    names = frozenset(field.name for field in fields(RunResult))
    result = _read_json(folder / "result.json", spec.id, names)
    if result is not None:
        return RunResult(**{name: result[name] for name in names})
    write_atomic(folder / "run.json", json.dumps({"id": spec.id, **spec.to_plain()}, indent=1) + "\n")
    return None


def _read_json(path: Path, run_id: str, keys: frozenset[str]) -> dict[str, Any] | None:
    """A JSON file of this run, with these keys at least; None if it is not there."""
    if not path.exists():
        return None
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        plain = None
    if not isinstance(plain, dict) or not keys | {"id"} <= plain.keys():
        raise CheckpointError(f"{path}: is damaged; delete the folder to start the run again")
    if plain["id"] != run_id:
        raise CheckpointError(f"{path}: belongs to another run ({plain['id']}, not {run_id}); use another folder")
    return plain
