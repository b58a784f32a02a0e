"""Losses read from what a program writes: its output, or a file of JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlrs.messages import printable, shown
from rlrs.runs import RunError
from rlrs.settings import OutputConfig, TrainerConfig


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

    def losses(self) -> Iterator[tuple[int, float]]:
        """Steps and training losses that are new."""
        for step, loss in self._loss.new():
            self._last_step = step
            yield step, loss

    def valid_losses(self) -> Iterator[tuple[int, float]]:
        """Steps and validation losses that are new; those that come without a step belong to the last step."""
        for step, loss in self._valid.new():
            self.last_valid_loss = loss
            yield (step if self._valid.has_steps else self._last_step), loss

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
        # What an earlier attempt wrote has been read then.
        self._offset = self.path.stat().st_size if self.path.exists() else 0

    def missing(self) -> str:
        if self._pattern is not None:
            return f"{self._name}.pattern {shown(self._pattern.pattern)} matched no line of its output"
        there = "has no line" if self.path.exists() else "was not written, which should have lines"
        return f"{self._name}.file: {printable(str(self.path), 200)} {there} with the key {shown(self._config.key)}"

    def new(self) -> Iterator[tuple[int, float]]:
        """Steps and numbers of the lines that are new and whole."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self._offset:  # written anew
                self._offset = 0
            file.seek(self._offset)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._offset += len(text)
        for line in text.decode(errors="replace").splitlines():
            numbers = self._matched(line) if self._pattern is not None else self._of_json(line)
            if numbers is not None:
                self.found += 1
                step, value = numbers
                yield (self.found * self._config.every if step is None else step - self._config.first + 1), value

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
            raise RunError(f"{self._name}.file: {shown(line)} has no key {shown(config.step)}") from None
        except (TypeError, ValueError):
            raise RunError(f"{self._name}.file: not a JSON line with numbers: {shown(line)}") from None
