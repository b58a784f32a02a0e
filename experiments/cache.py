"""An engine that trains no run twice: methods and repeats that propose the same run share its numbers.

A run's numbers depend on its spec alone, and what pruning does to it follows from its windowed losses. Every method
is still charged for the steps that its own trials take.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlrs.records import Pruning, RunResult
from rlrs.search import Engine

EVERY = 4
"""Steps between the windowed losses that are kept of a run."""


class CachedEngine:
    """Around another engine; runs go to a jsonl file as they end, but for those that were given up.

    Args:
        engine: trains what the file does not have.
        path: the file; made if missing. A line that a kill has cut short is passed over.
    """

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self._known: dict[tuple[str, int], dict[str, Any]] = {}
        self._ready: deque[tuple[Hashable, RunResult]] = deque()
        self._waiting: dict[tuple[str, int, Pruning], list[tuple[Hashable, Pruning | None]]] = {}
        if path.exists():
            for line in filter(None, path.read_text(encoding="utf-8").splitlines()):
                try:
                    self._know(json.loads(line))
                except ValueError:
                    print(f"{path}: a line is not whole and is passed over")
        self._file = path.open("a", encoding="utf-8")
        self._file.write("\n" if path.stat().st_size else "")

    def __enter__(self) -> Self:
        self.engine.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        self.engine.__exit__(kind, error, at)

    def _know(self, run: dict[str, Any]) -> None:
        key = run["id"], run["window"]
        old = self._known.get(key)
        if old is None or old["result"]["status"] == "pruned":
            self._known[key] = run

    @property
    def steps(self) -> int:
        """Training steps that the workers have really done."""
        return self.engine.steps

    @property
    def slots(self) -> int:
        """As `Engine.slots`."""
        return self.engine.slots

    @property
    def pending(self) -> int:
        """Proposals that were submitted and not yet handed back."""
        return len(self._ready) + sum(map(len, self._waiting.values()))

    def submit(
        self,
        key: Hashable,
        spec: Any,
        folder: Path | None = None,
        *,
        validate: bool = True,
        prune: Pruning | None = None,
    ) -> None:
        """As `Engine.submit`."""
        assert folder is None
        window = prune.window if prune else spec.training.score_steps
        # Runs for the final losses are few, and known apart: validation is no part of a run's id.
        identity = spec.id + ("/validated" if validate else "")
        known = self._known.get((identity, window))
        if known and (result := _answer(known, prune)) is not None:
            self._ready.append((key, result))
            return
        limits = dict(prune.rungs) if prune else {}
        steps = sorted({*range(EVERY, spec.steps, EVERY), *limits})
        recorded = Pruning(rungs=tuple((step, limits.get(step)) for step in steps), window=window)
        waiting = self._waiting.setdefault((identity, window, recorded), [])
        waiting.append((key, prune))
        if len(waiting) == 1:
            self.engine.submit((identity, window, recorded), spec, validate=validate, prune=recorded)

    def next(
        self, tick: Callable[[int], None] | None = None, timeout: float | None = None
    ) -> tuple[Hashable, RunResult] | None:
        """As `Engine.next`."""
        while not self._ready:
            ended = self.engine.next(tick, timeout)
            if ended is None:
                return None
            job, result = ended
            assert isinstance(job, tuple)
            identity, window, _ = job
            run = {"id": identity, "window": window, "result": result.to_plain()}
            if result.status != "failed":
                self._know(run)
                self._file.write(json.dumps(run) + "\n")
                self._file.flush()
            for key, prune in self._waiting.pop(job):
                answer = _answer(run, prune)
                assert answer is not None
                self._ready.append((key, answer))
        return self._ready.popleft()

    def drain(self) -> Iterator[tuple[Any, RunResult]]:
        """Keys and results of all that was submitted, as they end."""
        while self.pending:
            if (ended := self.next()) is not None:
                yield ended


def _answer(run: dict[str, Any], prune: Pruning | None) -> RunResult | None:
    """What a run with this pruning would have come to, or None where what is known of it does not say."""
    result = RunResult(**run["result"])
    losses = dict(result.rungs)
    rungs: list[tuple[int, float]] = []
    for step, limit in prune.rungs if prune else ():
        if step > result.steps:
            break
        if step not in losses:
            return None
        rungs.append((step, losses[step]))
        if limit is not None and losses[step] > limit:
            tokens = result.tokens * step // result.steps
            reason = f"training loss {losses[step]:.4g} at step {step} is above {limit:.4g}"
            return RunResult(
                status="pruned",
                steps=step,
                score=None,
                valid_loss=None,
                tokens=tokens,
                seconds=0.0,
                reason=reason,
                rungs=tuple(rungs),
            )
    if result.status == "pruned":
        return None
    return RunResult(**{**result.to_plain(), "rungs": tuple(rungs)})
