"""The steps of a run: batch, gradients, update, and now and then a line, a validation, a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlrs.data import TokenData
from rlrs.models import ModelOutput, training_flops
from rlrs.records import Pruning, RunResult
from rlrs.settings import HubConfig
from rlrs.training.checkpoint import CheckpointError, Checkpoints
from rlrs.training.distributed import World, check_division, gradients_kept_local
from rlrs.training.divergence import DivergedError, LossLimit, check_finite
from rlrs.training.evaluate import evaluate, evaluation_steps
from rlrs.training.metrics import ComponentProbe, MetricsFile, TensorBoardFile, router_line
from rlrs.training.spec import RunSpec
from rlrs.training.state import TrainState, random_seed
from rlrs.training.stopping import StopFlag, Stopped

if TYPE_CHECKING:
    from rlrs.training.guarded import RunGuard

OnStep = Callable[[int, float], object]
"""Called with the steps done and the mean training loss since the last call, nats per token."""


class Loop:
    """A run's state, and the steps that change it.

    Args:
        spec: the run.
        data: its tokens.
        folder: of its files; None for none.
        world: the ranks that train it.
        validate: evaluate on the validation sample.
        prune: when to end early.
        stop: looked at after every step.
    """

    def __init__(
        self,
        spec: RunSpec,
        data: TokenData,
        folder: Path | None,
        world: World,
        *,
        validate: bool,
        prune: Pruning | None,
        stop: StopFlag,
    ) -> None:
        self.spec, self.data, self.world, self.stop = spec, data, world, stop
        settings = spec.training
        self.prune = prune or Pruning(rungs=(), window=1)
        self.limits = dict(self.prune.rungs)
        check_division(spec.batch_size, settings.accumulate, world.size)
        self.state = TrainState(spec, data.vocab_size, world, settings.distributed)
        self.state.model.masked = data.masked
        loads = isinstance(spec.model, HubConfig) and spec.model.weights == "load"
        self.limit = LossLimit(settings.loss_limit, data.vocab_size, loads=loads)
        batches = data.valid_batches(spec.batch_size, settings.eval_tokens) if validate else []
        self.valid_batches = [tuple(self._mine(rows) for rows in batch) for batch in batches]
        general = data.general.valid_batches(spec.batch_size, settings.eval_tokens) if validate and data.general else []
        self.general_batches = [tuple(self._mine(rows) for rows in batch) for batch in general]
        self.valid_steps = evaluation_steps(spec.steps, settings) if validate and folder else {spec.steps}
        self.step = 0  # optimizer steps done
        self.losses: list[float] = []  # of every step that was read
        self._unread: list[tuple[Tensor, Tensor]] = []  # (losses of the parts, gradient norm) of the steps after them
        self.valid_losses: list[tuple[int, float]] = []  # (step, loss)
        self.general_losses: list[tuple[int, float]] = []  # the same on general text, from before the first step on
        self.seconds = 0.0
        self.started = time.perf_counter()
        self.last_line = (0, self.started)  # (step, moment)
        self.flops_per_token = training_flops(self.state.model, data.sequence_length)
        # Of a conversation, bytes are those of its JSON.
        self.bytes_per_token = (
            None if data.masked else data.summary.get("valid_bytes_per_token", data.summary.get("bytes_per_token"))
        )
        self.checkpoints: Checkpoints | None = None
        self.metrics: MetricsFile | None = None  # of rank 0
        self.guard: RunGuard | None = None
        if folder is not None:
            self._restore(folder)

    def train(self, progress: OnStep | None) -> RunResult:
        """Take all steps that are left.

        Raises:
            Stopped: `stop` was set, and the state is saved.
        """
        try:
            if self.general_batches and not self.general_losses:
                self._validate_general()
            if self.guard is not None and self.step == 0:
                self.save()  # to have somewhere to go back to
            while self.step < self.spec.steps:
                stopping, end = False, None
                try:
                    stopping = self._train_step(log=self.checkpoints is not None and self.is_logged(self.step + 1))
                    if (reason := self.prune.exceeded(self.losses)) is not None:
                        return self._result("pruned", reason=reason)
                    if self.valid_batches and self.step in self.valid_steps:
                        self._validate()
                except DivergedError as found:
                    end = found
                if self._act(end):
                    continue
                if progress is not None and self.is_logged(self.step):
                    progress(self.step, self._mean_since_last_line())
                if stopping or self.step % self.spec.training.checkpoint_every == 0:
                    self.save()
                if stopping and self.step < self.spec.steps:
                    self.finish()
                    raise Stopped(self.step, self.stop.signal)
        except DivergedError as end:
            return self._result("diverged", diverged_at=end.step, reason=end.reason)
        window = self.losses[-self.spec.training.score_steps :]
        valid_loss = self.valid_losses[-1][1] if self.valid_losses else None
        return self._result("finished", score=math.fsum(window) / len(window), valid_loss=valid_loss)

    def _result(
        self, status: Any, score: float | None = None, valid_loss: float | None = None, **end: Any
    ) -> RunResult:
        if status == "finished" and self.general_losses:
            end |= {"general_before": self.general_losses[0][1], "general_loss": self.general_losses[-1][1]}
        return RunResult(
            status=status,
            steps=self.step,
            score=score,
            valid_loss=valid_loss,
            tokens=self._tokens(),
            seconds=self._seconds(),
            rungs=tuple((step, self.prune.loss(self.losses, step)) for step in self.limits if step <= self.step),
            learned=self.state.learned() if status == "finished" else None,
            **end,
        )

    def _act(self, end: DivergedError | None) -> bool:
        """Let the guard act on the alarms of the last step; whether the run is at an earlier step now.

        Args:
            end: why training cannot go on from here, if it cannot.

        Raises:
            DivergedError: `end`, where nothing was done about it; or the guard ends the run.
        """
        done = None
        if self.guard is not None:
            if end is not None:
                self.guard.diverged(end.step, end.value, end.reason)
            if (done := self.guard.act()) is not None and done.stop:
                raise DivergedError(done.alarm.step, f"{done.alarm.message} The guard: {done.sentence}", math.nan)
            self.state.scale = self.guard.guard.scale
        went_back = done is not None and done.step is not None
        if end is not None and not went_back:
            raise end
        return went_back

    def _go_back(self, step: int) -> int | None:
        """Load the newest regular checkpoint of at most this step; its step, None if there is none."""
        assert self.checkpoints is not None
        now = max(self.step, len(self.losses))
        found = self.checkpoints.go_back(step)
        if found is None:
            return None
        length = self._load(found)
        self._unread = []
        self.last_line = (self.step, time.perf_counter())
        if self.metrics is not None:
            self.metrics.cut(length, self.step, f"left-at-{now}")
        return self.step

    def _train_step(self, *, log: bool) -> bool:
        """One optimizer step, and its line of metrics.jsonl if it has one; whether the run was asked to stop."""
        state = self.state
        output, losses = self._gradients()
        probe = ComponentProbe(state.optimizers, self.world, sharded=state.sharded) if log else None
        # Nothing is read back between lines: a GPU would be waited for, and would wait in its turn.
        self._unread.append((torch.stack(losses), state.clip_gradients(self.spec.training.clip)))
        rates = state.rates() if log else {}
        for optimizer in state.optimizers:
            optimizer.step()
        state.scheduler.step()
        self.step += 1
        stopping = bool(self.stop)
        if not (self._is_read(self.step) or (stopping and self.world.group is None)):
            return False
        grad_norm, stopping = self._read(stopping)
        if probe is not None:
            self._write_line(output, grad_norm, rates, probe.read())
        return stopping

    def _is_read(self, step: int) -> bool:
        """Whether losses are read after a step, and ranks agree on whether to stop."""
        kept = step in self.limits or step in self.valid_steps or step % self.spec.training.checkpoint_every == 0
        return kept or self.is_logged(step)

    def _read(self, stopping: bool) -> tuple[float, bool]:
        """Losses and norms of the steps since they were last read; the last norm, and whether any rank is to stop.

        Raises:
            DivergedError: at the first of these steps that has a loss or a norm out of bounds.
        """
        losses_SP = torch.stack([losses_P for losses_P, _ in self._unread]).tolist()
        norms_S = torch.stack([norm for _, norm in self._unread]).tolist()
        self._unread = []
        mine = [math.fsum(losses_P) / len(losses_P) for losses_P in losses_SP]
        *means, stop = self.world.mean([*mine, float(stopping)])  # one exchange for what all ranks must agree on
        for loss, norm in zip(means, norms_S, strict=True):
            step, taken = len(self.losses) + 1, self.step
            self.step = step - 1  # where the step cannot be used: those after it were taken before that was known
            self.limit.check(step, loss, self.losses)
            check_finite(step, "gradient norm", norm)
            self.step = taken
            self.losses.append(loss)
        return norms_S[-1], stop > 0

    def _gradients(self) -> tuple[ModelOutput, list[Tensor]]:
        """Gradients of this step's batch, part by part; the last part's output, and this rank's losses of the parts."""
        spec, parts = self.spec, self.spec.training.accumulate
        # What a model draws (dropout) is a function of seed, step and rank as well: a resumed run draws the same.
        torch.manual_seed(random_seed(spec.seed, self.step, self.world.rank))
        for optimizer in self.state.optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses: list[Tensor] = []
        output: ModelOutput | None = None
        number = self.step if self.guard is None else self.guard.guard.batch(self.step)
        for part in range(parts):
            # The parts of a batch are the batches of a finer count of steps, so each is divided among the ranks.
            batch = self.data.batch(
                spec.seed, number * parts + part, spec.batch_size // parts, self.world.rank, self.world.size
            )
            inputs_BT, targets_BT = map(self.world.place, batch)
            with gradients_kept_local(self.state.divided, part < parts - 1):
                with self.state.autocast():
                    output = self.state.forward(inputs_BT, targets_BT)
                assert output is not None
                assert output.loss is not None
                losses.append(output.loss.detach())
                (output.objective if parts == 1 else output.objective / parts).backward()
        assert output is not None
        return output, losses

    def _mine(self, rows: Tensor) -> Tensor:
        """This rank's share of the rows of a batch, in order."""
        count = rows.shape[0] // self.world.size
        return self.world.place(rows[self.world.rank * count : (self.world.rank + 1) * count])

    def _validate(self) -> None:
        with self.state.autocast():
            (loss,) = self.world.mean([evaluate(self.state.forward, self.valid_batches)])
        check_finite(self.step, "validation loss", loss)
        self.valid_losses.append((self.step, loss))
        if self.general_batches:
            self._validate_general()
        line = {"step": self.step, "tokens": self._tokens(), "valid_loss": loss}
        if self.general_losses:
            (_, before), (_, now) = self.general_losses[0], self.general_losses[-1]
            line |= {"general_loss": now, "general_rise": now - before}
        if self.bytes_per_token:
            line["bits_per_byte"] = loss / math.log(2) / self.bytes_per_token
        self._write(line)

    def _validate_general(self) -> None:
        with self.state.autocast():
            (loss,) = self.world.mean([evaluate(self.state.forward, self.general_batches)])
        check_finite(self.step, "loss on general text", loss)
        self.general_losses.append((self.step, loss))

    def _write_line(
        self,
        output: ModelOutput,
        grad_norm: float,
        rates: dict[str, dict[str, float]],
        norms: dict[str, dict[str, float]],
    ) -> None:
        router = router_line(output.routings, self.world)  # asks all ranks
        line: dict[str, Any] = {
            "step": self.step,
            "tokens": self._tokens(),
            "loss": self._mean_since_last_line(),
            "lr_base": rates["base"]["lr"],
            "grad_norm": grad_norm,
            "seconds": round(self._seconds(), 3),
            **self._speed(),
            "components": {name: {**rates[name], **norms[name]} for name in norms},
        }
        self._write(line if router is None else {**line, "router": router})

    def _write(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl, which rank 0 writes and the guard of every rank sees."""
        if self.metrics is not None:
            self.metrics.write(line)
        if self.guard is not None:
            self.guard.look(line)

    def _speed(self) -> dict[str, float]:
        """Tokens and floating-point operations per second since the last line, or since this process began."""
        now = time.perf_counter()
        (step, then), self.last_line = self.last_line, (self.step, now)
        rate = (self.step - step) * self.spec.batch_size * self.data.sequence_length / (now - then)
        return {"tokens_per_second": round(rate, 1), "flops_per_second": float(f"{rate * self.flops_per_token:.4g}")}

    def is_logged(self, step: int) -> bool:
        """Whether a step, counted from 1, has a line."""
        return step == 1 or step % self.spec.training.log_every == 0 or step == self.spec.steps

    def _mean_since_last_line(self) -> float:
        """Training loss over the steps after the last logged one before this."""
        first = self.step - 1
        while first > 0 and not self.is_logged(first):
            first -= 1
        return math.fsum(self.losses[first:]) / len(self.losses[first:])

    def _tokens(self) -> int:
        return self.step * self.spec.batch_size * self.data.sequence_length

    def _seconds(self) -> float:
        return self.seconds + time.perf_counter() - self.started

    def save(self) -> None:
        """Begin a checkpoint of the present state, if the last one is not of it; nothing for a run without files."""
        if self.checkpoints is None or self.checkpoints.saved_step == self.step:
            return
        losses = torch.tensor(self.losses, dtype=torch.float64)
        self.checkpoints.save(
            {**self.state.tensors(), "losses": losses},
            {
                "step": self.step,
                "valid_losses": list(self.valid_losses),  # sealed and written while training goes on
                "general_losses": list(self.general_losses),
                "guard": None if self.guard is None else self.guard.state(),
                "metrics_bytes": self.metrics.length() if self.metrics else 0,
                "seconds": self._seconds(),
            },
            # The lines first: a checkpoint never speaks of lines that are not on disk.
            lasting=self.metrics.sync if self.metrics else lambda: None,
        )

    def finish(self) -> None:
        """Return when the last checkpoint is on disk, on all ranks."""
        if self.checkpoints is not None:
            self.checkpoints.wait()
        self.world.from_first(lambda: None)  # no rank leaves the group while another still needs it

    def _restore(self, folder: Path) -> None:
        """Go on from the last checkpoint, if there is one; open metrics.jsonl at the length that it had then."""
        settings = self.spec.training
        self.checkpoints = Checkpoints(folder, self.spec.id, settings.keep_checkpoints, self.world)
        found = self.checkpoints.latest()
        length = 0
        if self.spec.guard is not None:
            from rlrs.training.guarded import RunGuard  # which most runs have no use for

            self.checkpoints.back = (settings.checkpoint_every, self.spec.guard.lookback)
            self.guard = RunGuard(self.spec, self.state.scheduler, folder, self.world, self._go_back)
        if found is not None:
            manifest = found[1]
            if self.guard is not None:
                self.guard.load_state(manifest["guard"])
                self.state.scale = self.guard.guard.scale
            length = self._load(found)
            self.seconds, self.last_line = manifest["seconds"], (self.step, time.perf_counter())
            self.checkpoints.saved_step = self.step
        if self.world.rank == 0:
            try:
                self.metrics = MetricsFile(folder / "metrics.jsonl", length)
                if self.spec.training.tensorboard:
                    self.metrics.also = TensorBoardFile(folder / "tensorboard", self.step)
            except ValueError as error:
                raise CheckpointError(f"{error}; delete {folder / 'checkpoints'} to start the run again") from None

    def _load(self, found: tuple[Path, dict[str, Any]]) -> int:
        """Put the run where it was at a checkpoint; the length that metrics.jsonl had then, bytes."""
        manifest = found[1]
        shapes = {name: tensor["shape"] for name, tensor in manifest["tensors"].items()}
        losses = torch.zeros(manifest["step"], dtype=torch.float64)
        assert self.checkpoints is not None
        self.checkpoints.load(found, {**self.state.tensors_like(shapes), "losses": losses})
        self.step = manifest["step"]
        self.losses, self.valid_losses = losses.tolist(), [(step, loss) for step, loss in manifest["valid_losses"]]
        self.general_losses = [(step, loss) for step, loss in manifest.get("general_losses", [])]
        self.state.go_to(self.step)
        return manifest["metrics_bytes"]

    def close(self) -> None:
        """Close the run's files."""
        if self.checkpoints is not None:
            self.checkpoints.close()
        if self.metrics is not None:
            self.metrics.close()
