"""The steps of a run: batch, gradients, update, and now and then a line, a validation, a checkpoint."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlrs.data import TokenData
from rlrs.models import ModelOutput, training_flops
from rlrs.records import Pruning, RunResult
from rlrs.settings import ConfigError, HubConfig, TrainingConfig
from rlrs.training.checkpoint import CheckpointError, Checkpoints
from rlrs.training.distributed import World, gradients_kept_local
from rlrs.training.evaluate import evaluate
from rlrs.training.metrics import ComponentProbe, MetricsFile, TensorBoardFile, router_line
from rlrs.training.spec import RunSpec
from rlrs.training.state import TrainState
from rlrs.training.stopping import StopFlag, Stopped

OnStep = Callable[[int, float], object]
"""Called with the steps done and the mean training loss since the last call, nats per token."""

LOSS_LIMIT = 1.5
"""A loss above this multiple of ln(vocabulary), which a uniform guess has, is divergence; of the first step's loss
where that is more: loaded weights may be sure of what is wrong for a new text. Chosen here, not studied."""


class _DivergedError(Exception):
    """Training cannot go on; the step (from 1) at which, and why."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(reason)
        self.step, self.reason = step, reason


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
        self.loads = isinstance(spec.model, HubConfig) and spec.model.weights == "load"
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
            while self.step < self.spec.steps:
                stopping = self._train_step(log=self.checkpoints is not None and self.is_logged(self.step + 1))
                if (reason := self._over_limit()) is not None:
                    return self._result("pruned", reason=reason)
                if self.valid_batches and self.step in self.valid_steps:
                    self._validate()
                if progress is not None and self.is_logged(self.step):
                    progress(self.step, self._mean_since_last_line())
                if stopping or self.step % self.spec.training.checkpoint_every == 0:
                    self.save()
                if stopping and self.step < self.spec.steps:
                    self.finish()
                    raise Stopped(self.step, self.stop.signal)
        except _DivergedError as end:
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

    def _over_limit(self) -> str | None:
        """Why the run ends at the present step, if that is a rung with a limit that the loss is above."""
        if (limit := self.limits.get(self.step)) is None:
            return None
        loss = self.prune.loss(self.losses, self.step)
        return f"training loss {loss:.4g} at step {self.step} is above {limit:.4g}" if loss > limit else None

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
            _DivergedError: at the first of these steps that has a loss or a norm out of bounds.
        """
        losses_SP = torch.stack([losses_P for losses_P, _ in self._unread]).tolist()
        norms_S = torch.stack([norm for _, norm in self._unread]).tolist()
        self._unread = []
        mine = [math.fsum(losses_P) / len(losses_P) for losses_P in losses_SP]
        *means, stop = self.world.mean([*mine, float(stopping)])  # one exchange for what all ranks must agree on
        for loss, norm in zip(means, norms_S, strict=True):
            step, taken = len(self.losses) + 1, self.step
            self.step = step - 1  # where the step cannot be used: those after it were taken before that was known
            self._check_loss(step, loss)
            if not math.isfinite(norm):
                raise _DivergedError(step, f"gradient norm {norm:.4g} is not a finite number")
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
        for part in range(parts):
            # The parts of a batch are the batches of a finer count of steps, so each is divided among the ranks.
            batch = self.data.batch(
                spec.seed, self.step * parts + part, spec.batch_size // parts, self.world.rank, self.world.size
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

    def _loss_limit(self, loss: float) -> float:
        """What a loss may be at most."""
        if self.spec.training.loss_limit is not None:
            return self.spec.training.loss_limit
        uniform = math.log(self.data.vocab_size)
        first = self.losses[0] if self.losses else loss
        return LOSS_LIMIT * (max(uniform, first) if self.loads and math.isfinite(first) else uniform)

    def _check_loss(self, step: int, loss: float) -> None:
        most = self._loss_limit(loss)
        if not loss <= most:  # written so that NaN does not pass
            limit = f"above the limit of {most:.4g}" if math.isfinite(loss) else "not a finite number"
            raise _DivergedError(step, f"training loss {loss:.4g} nats per token is {limit}")

    def _validate(self) -> None:
        with self.state.autocast():
            (loss,) = self.world.mean([evaluate(self.state.forward, self.valid_batches)])
        if not math.isfinite(loss):
            raise _DivergedError(self.step, f"validation loss {loss:.4g} is not a finite number")
        self.valid_losses.append((self.step, loss))
        if self.general_batches:
            self._validate_general()
        if self.metrics is not None:
            line = {"step": self.step, "tokens": self._tokens(), "valid_loss": loss}
            if self.general_losses:
                (_, before), (_, now) = self.general_losses[0], self.general_losses[-1]
                line |= {"general_loss": now, "general_rise": now - before}
            if self.bytes_per_token:
                line["bits_per_byte"] = loss / math.log(2) / self.bytes_per_token
            self.metrics.write(line)

    def _validate_general(self) -> None:
        with self.state.autocast():
            (loss,) = self.world.mean([evaluate(self.state.forward, self.general_batches)])
        if not math.isfinite(loss):
            raise _DivergedError(self.step, f"loss on general text {loss:.4g} is not a finite number")
        self.general_losses.append((self.step, loss))

    def _write_line(
        self,
        output: ModelOutput,
        grad_norm: float,
        rates: dict[str, dict[str, float]],
        norms: dict[str, dict[str, float]],
    ) -> None:
        router = router_line(output.routings, self.world)  # asks all ranks
        if self.metrics is None:
            return
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
        self.metrics.write(line if router is None else {**line, "router": router})

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
        self.checkpoints = Checkpoints(folder, self.spec.id, self.spec.training.keep_checkpoints, self.world)
        found = self.checkpoints.latest()
        length = 0
        if found is not None:
            _, manifest = found
            shapes = {name: tensor["shape"] for name, tensor in manifest["tensors"].items()}
            losses = torch.zeros(manifest["step"], dtype=torch.float64)
            self.checkpoints.load(found, {**self.state.tensors_like(shapes), "losses": losses})
            self.step, self.seconds = manifest["step"], manifest["seconds"]
            self.last_line = (self.step, time.perf_counter())
            self.losses, self.valid_losses = losses.tolist(), [(step, loss) for step, loss in manifest["valid_losses"]]
            self.general_losses = [(step, loss) for step, loss in manifest.get("general_losses", [])]
            self.state.go_to(self.step)
            self.checkpoints.saved_step = self.step
            length = manifest["metrics_bytes"]
        if self.world.rank == 0:
            try:
                self.metrics = MetricsFile(folder / "metrics.jsonl", length)
                if self.spec.training.tensorboard:
                    self.metrics.also = TensorBoardFile(folder / "tensorboard", self.step)
            except ValueError as error:
                raise CheckpointError(f"{error}; delete {folder / 'checkpoints'} to start the run again") from None

    def close(self) -> None:
        """Close the run's files."""
        if self.checkpoints is not None:
            self.checkpoints.close()
        if self.metrics is not None:
            self.metrics.close()


def random_seed(seed: int, step: int, rank: int) -> int:
    """Of the random numbers that one rank draws in one step."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {rank}".encode()).digest()[:8], "little")


def check_division(batch_size: int, accumulate: int, ranks: int) -> None:
    """Check that ranks can share a batch, and each part of it, evenly.

    Raises:
        ConfigError: they cannot.
    """
    if batch_size % (accumulate * ranks):
        parts = f" x training.accumulate={accumulate}" if accumulate > 1 else ""
        raise ConfigError(
            f"batch_size={batch_size} should be a multiple of {ranks} ranks{parts}: each takes an equal share"
        )


def evaluation_steps(steps: int, settings: TrainingConfig) -> set[int]:
    """Steps after which a run is validated: evenly spaced, the last step among them, none at step 0."""
    points = min(settings.evaluations, steps)
    return {round(number * steps / points) for number in range(1, points + 1)}
