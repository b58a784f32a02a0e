"""`Monitor`: measures a run as it trains, and raises alarms."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from rlrs.files import cut_half_line, write_atomic
from rlrs.lr_scheduler import RelativeLR
from rlrs.monitoring.alarms import Alarm
from rlrs.monitoring.checker import Checker
from rlrs.monitoring.observation import ComponentNumbers, Observation, write_observation
from rlrs.monitoring.probe import StepProbe
from rlrs.monitoring.thresholds import Thresholds

if TYPE_CHECKING:
    from rlrs.monitoring.alerts import Alerts
    from rlrs.monitoring.guard import Done, Guard

EVERY = 10
"""Steps between two observations, unless the thresholds say otherwise."""


class Monitor:
    """Measures a run every few steps, and raises alarms; nothing of the training changes unless a guard is given.

    Call `observe` after every optimizer step, on every rank: what it sees is averaged over the ranks, and all of them
    raise the same alarms. It waits for the device once in `every` steps.

    Args:
        optimizer: one or several, made over `rlrs.param_groups`; of other groups the `name` is the component.
        scheduler: a `RelativeLR`, for the rates that components should have.
        thresholds: a monitor.yaml, or what `calibrate` gives; the defaults if None.
        every: steps between two observations; those of the thresholds, or else 10, if None.
        clip: the norm that gradients are clipped to, for the check `clip_starvation`, which needs `grad_norm` too.
        updates: measure every component's update, for which its weights are copied in the steps observed.
        alerts: where alarms go, on rank 0; see `rlrs.monitoring.alerts`. One that fails never stops the training.
        guard: acts on alarms; observe only if None.
        record: a metrics.jsonl to append to, on rank 0, for `rlrs monitor calibrate` and `check`; its folder is made.
        group: of the ranks that train together; all if None.

    Raises:
        ValueError: `every` is not that of the thresholds, or `record` without `updates`.
        RecordError: a monitor.yaml that cannot be used.
        OSError: the folder of `record` cannot be made.

    Examples:
        >>> import rlrs
        >>> model = torch.nn.Sequential(torch.nn.Embedding(8, 4), torch.nn.Linear(4, 8))
        >>> optimizer = torch.optim.AdamW(rlrs.param_groups(model, {"embedding": 5.0}, lr=1e-3))
        >>> scheduler = rlrs.RelativeLR(optimizer, {"embedding": 5.0}, total_steps=20, final_fraction=0.1)
        >>> with Monitor(optimizer, scheduler, every=2) as monitor:
        ...     for step in range(20):
        ...         loss = model(torch.tensor([1, 2])).square().mean() * (float("nan") if step == 10 else 1)
        ...         loss.backward()
        ...         optimizer.step()
        ...         scheduler.step()
        ...         optimizer.zero_grad()
        ...         for alarm in monitor.observe(step + 1, loss):
        ...             print(alarm.check, alarm.component, alarm.step)
        non_finite None 12
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        scheduler: Any = None,
        *,
        thresholds: Thresholds | str | Path | None = None,
        every: int | None = None,
        clip: float | None = None,
        updates: bool = True,
        alerts: Iterable[Alerts] = (),
        guard: Guard | None = None,
        record: str | Path | None = None,
        group: Any = None,
    ) -> None:
        loaded = Thresholds.load(thresholds) if isinstance(thresholds, str | Path) else thresholds or Thresholds()
        if every is not None and every < 1:
            raise ValueError(f"{every=} should be 1 or more")
        if every is not None and loaded.every is not None and every != loaded.every:
            raise ValueError(f"{every=}, but the thresholds are of runs with a line every {loaded.every} steps")
        if record is not None and not updates:
            raise ValueError("record needs updates=True: a line of metrics has every component's update")
        self.every = every or loaded.every or EVERY
        self.clip, self.guard, self.group = clip, guard, group
        self.step = 0
        """Steps observed; less than before after a guard went back to a checkpoint."""
        self.alarms: list[Alarm] = []
        self.stopped: Alarm | None = None
        """The alarm that a guard ended the run for."""
        together = dist.is_available() and dist.is_initialized()
        self.ranks = dist.get_world_size(group) if together else 1
        self.first = not together or dist.get_rank(group) == 0
        self.alerts = list(alerts) if self.first else []
        self._watch = Checker(loaded)
        self._scheduler = scheduler
        optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        self._probe = StepProbe(optimizers, scheduler, updates=updates, ranks=self.ranks)
        self._updates = updates
        self._record = Path(record) if record is not None and self.first else None
        if self._record is not None:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            cut_half_line(self._record)
        self._losses: list[Tensor | float] = []
        self._since: tuple[int, float, int] | None = None  # step, moment and tokens of the observation before
        self._clock = time.perf_counter
        self.expect(1)

    def observe(
        self,
        step: int,
        loss: Tensor | float,
        *,
        grad_norm: Tensor | float | None = None,
        router_loads: Any = None,
        router_entropy: Tensor | float | None = None,
        tokens: int = 0,
    ) -> list[Alarm]:
        """Take in a step; the alarms it raises, none in most steps.

        Args:
            step: optimizer steps done, from 1.
            loss: training loss of the step, nats per token; a tensor is not read before it is needed.
            grad_norm: of all parameters, before clipping (what `clip_grad_norm_` returns). Components' norms are then
                those before clipping as well.
            router_loads: share of the tokens, or their number, that each expert got: [experts] or [routers, experts].
            router_entropy: of the routers' probabilities, nats per token.
            tokens: trained on so far, for `record`.

        Raises:
            ValueError: `step` does not follow the one before.
        """
        if step <= self.step:
            raise ValueError(f"{step=} should be above {self.step}, which was observed before")
        self.step = step
        self._losses.append(loss.detach() if isinstance(loss, Tensor) else float(loss))
        self.expect(step + 1)
        if not self._is_due(step):
            return []
        seen = self._observation(step, self._pace(step, tokens), grad_norm, router_entropy, _rows(router_loads))
        return self._take(seen, tokens)

    def evaluated(self, step: int, valid_loss: float, *, tokens: int = 0) -> list[Alarm]:
        """Take in a loss on held-out data, after the step was observed; the alarms it raises.

        Args:
            step: optimizer steps done.
            valid_loss: nats per token; the mean over the ranks, that is, the same on all of them.
            tokens: trained on so far, for `record`.
        """
        self._since = None  # the time that it took is not the training's
        return self._take(Observation(step=step, valid_loss=float(valid_loss)), tokens)

    def expect(self, step: int) -> None:
        """Say which optimizer step comes next, where `observe` is not called after every step."""
        self._probe.wanted = self._is_due(step)

    def _take(self, seen: Observation, tokens: int) -> list[Alarm]:
        alarms = self._watch.look(seen)
        done = self.guard.react(alarms, self._watch.standing) if self.guard is not None else None
        if done is not None:
            acted = self._acted(done.alarm, done)
            alarms = [*(alarm for alarm in alarms if alarm is not done.alarm), acted]
        self.alarms += alarms
        if self._record is not None:
            write_observation(self._record, seen, tokens)
        for alert in self.alerts:
            alert.tell(seen, alarms)
        return alarms

    def _is_due(self, step: int) -> bool:
        return step == 1 or step % self.every == 0

    def _pace(self, step: int, tokens: int) -> float | None:
        """Tokens per second, or steps where tokens are not told, since the observation before; None after a pause."""
        before, self._since = self._since, (step, self._clock(), tokens)
        if before is None or (seconds := self._since[1] - before[1]) <= 0:
            return None
        return ((tokens - before[2]) if tokens else (step - before[0])) / seconds

    def _observation(
        self, step: int, pace: float | None, grad_norm: Any, router_entropy: Any, loads: list[list[float]]
    ) -> Observation:
        names, squares_3K, rates = self._probe.take()
        losses, self._losses = self._losses, []
        flat = [load for row in loads for load in row]
        values = self._agree(losses, [grad_norm, router_entropy, pace, *flat], squares_3K)
        (loss, norm, entropy, pace), flat, norms = values[:4], values[4 : 4 + len(flat)], values[4 + len(flat) :]
        width = len(loads[0]) if loads else 0
        components = _components(names, norms, rates, self._relative(), norm, updates=self._updates)
        return Observation(
            step=step,
            loss=loss,
            grad_norm=norm if norm is not None or not names else _total(components),
            clip=self.clip if norm is not None else None,
            lr_base=self._scheduler.base_rate() if isinstance(self._scheduler, RelativeLR) else None,
            speed=pace,
            components=components,
            router_loads=tuple(tuple(flat[n * width : (n + 1) * width]) for n in range(len(loads))),
            router_entropy=entropy,
        )

    def _agree(self, losses: list[Tensor | float], given: list[Any], squares: Tensor) -> list[Any]:
        """Mean loss and given values over the ranks, and sums of squares: one exchange, one wait for the device."""
        device = self._probe.device
        kind = torch.float32 if device.type == "mps" else torch.float64
        whole = [_scalar(one, kind, device) for one in losses]
        rest = [_scalar(one, kind, device) for one in given if one is not None]
        vector = torch.cat([torch.stack([torch.stack(whole).mean(), *rest]), squares.to(device, kind) * self.ranks])
        if self.ranks > 1:
            dist.all_reduce(vector, group=self.group)
            vector /= self.ranks
        read = iter(vector.tolist())
        return [next(read), *(None if one is None else next(read) for one in given), *read]

    def _relative(self) -> dict[str, float]:
        return self._scheduler.relative_rates() if isinstance(self._scheduler, RelativeLR) else {}

    def _acted(self, alarm: Alarm, done: Done) -> Alarm:
        """The alarm with what the guard did, which may be to go back, or to stop."""
        if done.step is not None:
            self.step, self._losses, self._since = done.step, [], None
            self._watch.restart()
            self.expect(self.step + 1)
        alarm = alarm.model_copy(update={"action": done.sentence})
        if done.stop:
            self.stopped = alarm
        return alarm

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to raise the same alarms: plain data, the same on all ranks."""
        return {
            "step": self.step,
            "watch": self._watch.state_dict(),
            "losses": [float(loss) for loss in self._losses],
            "guard": self.guard.state_dict() if self.guard is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; lines of `record` after it are taken back. Before the scheduler's, with a guard."""
        self.step = int(state["step"])
        self._watch.load_state_dict(state["watch"])
        self._losses, self._since = list(state["losses"]), None
        self.expect(self.step + 1)
        if self.guard is not None and state["guard"] is not None:
            self.guard.load_state_dict(state["guard"])
        if self._record is not None and self._record.exists():
            lines = self._record.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= self.step]
            write_atomic(self._record, b"".join(kept))

    def close(self) -> None:
        """Take the hooks off, and wait a little for alerts that are on their way."""
        self._probe.remove()
        for alert in self.alerts:
            alert.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _components(
    names: Sequence[str],
    squares: Sequence[float],
    rates: dict[str, tuple[float, float | None]],
    relative: dict[str, float],
    grad_norm: float | None,
    *,
    updates: bool,
) -> dict[str, ComponentNumbers]:
    """Numbers of each component; gradients scaled back to what they were before clipping, where that is known."""
    count = len(names)
    norms = [math.sqrt(square) if square >= 0 else math.nan for square in squares]
    total = math.sqrt(math.fsum(squares[:count])) if count else 0.0
    # Clipping only shrinks: a norm given that is smaller than what is there is of something else (a loss scale).
    scale = grad_norm / total if grad_norm is not None and 0 < total < grad_norm < math.inf else 1.0
    components = {}
    for number, name in enumerate(names):
        size, moved = norms[count + number], norms[2 * count + number]
        components[name] = ComponentNumbers(
            lr=rates[name][0],
            scheduled_lr=rates[name][1],
            ratio=relative.get(name),
            grad_norm=norms[number] * scale,
            update_ratio=(moved / size if size else 0.0) if updates else None,
            weight_norm=size,
        )
    return components


def _total(components: dict[str, ComponentNumbers]) -> float:
    return math.sqrt(math.fsum((numbers.grad_norm or 0.0) ** 2 for numbers in components.values()))


def _rows(loads: Any) -> list[list[Any]]:
    """Loads as rows of one router each."""
    if loads is None:
        return []
    plain = loads.tolist() if hasattr(loads, "tolist") else list(loads)
    if not plain:
        return []
    return [list(map(float, row)) for row in plain] if isinstance(plain[0], list | tuple) else [list(map(float, plain))]


def _scalar(value: Tensor | float, kind: torch.dtype, device: torch.device) -> Tensor:
    tensor = value.detach() if isinstance(value, Tensor) else torch.tensor(float(value))
    return tensor.to(device, kind).reshape(())
