"""Losses read from what a program writes: its output, or a file of JSON lines."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from rlrs.messages import printable, shown
from rlrs.runs import RunError
from rlrs.settings import OutputConfig, TrainerConfig

_KNOWN = 4096
"""First and last bytes of what was read of a file, by which it is known again. Chosen here, not studied."""


class Output:
    """The losses of one attempt at a run, as they appear.

    Args:
        trainer: of the study; has `loss` and `valid_loss`.
        args: values of `set`, for names in braces.
        folder: of the run.
        log: the program's output.
    """

    def __init__(self, trainer: TrainerConfig, args: Mapping[str, Any], folder: Path, log: Path) -> None:
        assert trainer.loss is not None
        assert trainer.valid_loss is not None
        self._loss = _Numbers("trainer.loss", trainer.loss, args, folder, log)
        self._valid = _Numbers("trainer.valid_loss", trainer.valid_loss, args, folder, log)
        self.last_valid_loss: float | None = None
        self._last_step = 0

    def losses(self, *, ended: bool = False) -> Iterator[tuple[int, float]]:
        """Steps and training losses that are new.

        Before the first of them come the losses below its step that an earlier attempt left in a file; where the
        program has `ended` and wrote none, all of those.
        """
        for step, loss in self._loss.new():
            if not self._last_step:
                yield from self._loss.earlier(step)
            self._last_step = step
            yield step, loss
        if ended and not self._loss.found:
            yield from self._loss.earlier()

    def valid_losses(self, *, ended: bool = False) -> Iterator[tuple[int, float]]:
        """Steps and validation losses that are new; those that come without a step belong to the last step.

        Where the program has `ended` and wrote none, the last in the file is `last_valid_loss`.
        """
        if self._loss.waits and not ended:  # of what is earlier, the training losses are to be reported first
            return
        for step, loss in self._valid.new():
            self.last_valid_loss = loss
            yield (step if self._valid.has_steps else self._last_step), loss
        if ended and not self._valid.found:
            for _, loss in self._valid.earlier():
                self.last_valid_loss = loss

    def check_found(self, *, loss: bool, valid_loss: bool) -> None:
        """Check that what is wanted has appeared in this attempt.

        Raises:
            RunError: it has not; the message says where it was looked for.
        """
        for wanted, numbers in ((loss, self._loss), (valid_loss, self._valid)):
            if wanted and not numbers.found:
                raise RunError(numbers.missing())


class _Numbers:
    def __init__(self, name: str, config: OutputConfig, args: Mapping[str, Any], folder: Path, log: Path) -> None:
        self._name, self._config, self.found = name, config, 0
        self._pattern = re.compile(config.pattern) if config.pattern is not None else None
        self.has_steps = self._pattern is None or "step" in self._pattern.groupindex
        self.path = (
            log if self._pattern is not None else folder / str(config.file).format_map({**args, "folder": folder})
        )
        old = self.path.read_bytes() if self._pattern is None and self.path.exists() else b""
        self._offset = len(old) if self._pattern is None else self.path.stat().st_size if self.path.exists() else 0
        self._head, self._tail = old[:_KNOWN], old[-_KNOWN:]
        self._earlier = self._sound(old)
        self._last, self._again = 0, False

    @property
    def waits(self) -> bool:
        """Whether an earlier attempt left numbers, and this one none so far."""
        return bool(self._earlier) and not self.found

    def missing(self) -> str:
        if self._pattern is not None:
            return f"{self._name}.pattern {shown(self._pattern.pattern)} matched no line of its output"
        there = "has no line" if self.path.exists() else "was not written, which should have lines"
        return f"{self._name}.file: {printable(str(self.path), 200)} {there} with the key {shown(self._config.key)}"

    def earlier(self, below: float = math.inf) -> Iterator[tuple[int, float]]:
        """Steps and numbers that an earlier attempt left in the file, of steps below one."""
        for step, value in sorted(self._earlier.items()):
            if step < below:
                self.found += 1
                yield step, value

    def new(self) -> Iterator[tuple[int, float]]:
        """Steps and numbers of the lines that are new and whole; of a file that was written anew, of all its lines."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            if not self._goes_on(file):
                # Within one attempt it is the same history once more, as far as it was read.
                self._offset, self._head, self._tail, self._earlier, self._again = 0, b"", b"", {}, bool(self.found)
            file.seek(self._offset)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._offset += len(text)
        self._head, self._tail = (self._head + text)[:_KNOWN], (self._tail + text)[-_KNOWN:]
        for line in text.decode(errors="replace").splitlines():
            numbers = self._matched(line) if self._pattern is not None else self._of_json(line)
            if numbers is not None and not self._was_read(numbers[0]):
                self.found += 1
                step, value = numbers
                yield (self.found * self._config.every if step is None else step - self._config.first + 1), value

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether a file begins with what was read of it."""
        if self._pattern is not None:  # the log, which is only appended to
            return True
        head = file.read(len(self._head))
        file.seek(self._offset - len(self._tail))
        return head == self._head and file.read(len(self._tail)) == self._tail

    def _was_read(self, step: int | None) -> bool:
        if step is None:
            return False
        if self._again and step <= self._last:
            return True
        self._last, self._again = step, False
        return False

    def _sound(self, text: bytes) -> dict[int, float]:
        """Numbers by step; lines further down take the place of those that they follow, as after a checkpoint."""
        found: dict[int, float] = {}
        last = 0
        for line in text.decode(errors="replace").splitlines():
            with suppress(RunError):  # half a line of a process that was killed
                if (numbers := self._of_json(line)) is not None and numbers[0] is not None:
                    step = numbers[0] - self._config.first + 1
                    if step <= last:
                        found = {before: value for before, value in found.items() if before < step}
                    found[step], last = numbers[1], step
        return found

    def _matched(self, line: str) -> tuple[int | None, float] | None:
        assert self._pattern is not None
        if (found := self._pattern.search(line)) is None:
            return None
        groups = found.groupdict()
        text = (
            groups["value"]
            if "value" in groups
            else next(
                text for number, text in enumerate(found.groups(), 1) if number != self._pattern.groupindex.get("step")
            )
        )
        try:
            return (int(float(groups["step"])) if "step" in groups else None), float(text)
        except (TypeError, ValueError):
            raise RunError(f"{self._name}.pattern matched {shown(line)}, and {shown(text)} is no number") from None

    def _of_json(self, line: str) -> tuple[int | None, float] | None:
        config = self._config
        try:
            plain = json.loads(line) if line.strip() else {}
            if not isinstance(plain, dict) or plain.get(config.key) is None:
                return None
            return int(plain[config.step]), float(plain[config.key])
        except KeyError:
            raise RunError(
                f"{self._name}.file: {shown(line)} has no key {shown(config.step)}; name its key "
                f"for the step: {self._name}.step"
            ) from None
        except (TypeError, ValueError):
            raise RunError(f"{self._name}.file: not a JSON line with numbers: {shown(line)}") from None
