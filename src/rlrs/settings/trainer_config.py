"""Settings of a study whose runs are trained by a program of the user's own, or by transformers'."""

from __future__ import annotations

import re
import shlex
import string
from typing import Annotated, Self

from pydantic import Field, model_validator

from rlrs.messages import shown
from rlrs.settings.base import Count, CountFrom0, Settings
from rlrs.settings.transformers_config import TransformersConfig

GIVEN = ("lr", "final_fraction", "warmup_steps", "steps", "seed", "weight_decay", "beta1", "beta2", "muon_rate")
"""Placeholders of a command that are settings of its run."""
FILES = ("ratios", "folder", "run")
"""Placeholders that are paths: of a ratios.yaml with the run's ratios, of the run's folder, of its run.json."""


class OutputConfig(Settings):
    """Where a program writes a number that it does not report itself: in its output, or in a file of JSON lines."""

    pattern: str | None = None
    """Regular expression for a line of the output, standard error included. Its group, or the one named `value`, is the
    number; one named `step` is the step."""
    file: str | None = None
    """A file of JSON lines; a relative path is in the run's folder, and `{width}` stands for a value of `set`."""
    key: str = "loss"
    """Of the number in a line of `file`; lines without it are passed over."""
    step: str = "step"
    """Of the step in a line of `file`."""
    first: Annotated[CountFrom0, Field(le=1)] = 1
    """What the program calls its first step: 0 or 1."""
    every: Count = 1
    """Steps from one number to the next, for a pattern that has no group `step`."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if (self.pattern is None) == (self.file is None):
            raise ValueError("should have pattern or file, one of the two")
        if self.pattern is not None:
            try:
                found = re.compile(self.pattern)
            except re.error as error:
                raise ValueError(f"pattern={shown(self.pattern)} is no regular expression: {error}") from None
            if "value" not in found.groupindex and found.groups - ("step" in found.groupindex) != 1:
                raise ValueError(
                    f"pattern={shown(self.pattern)} should have one group in parentheses, for the number, or one named "
                    "(?P<value>...)"
                )
        return self


class TrainerConfig(Settings):
    """A trainer of the user's own, in the place of the reference trainer: a command, or a Python function."""

    command: Annotated[str | tuple[str, ...] | None, Field(min_length=1)] = None
    """Started once for every run, without a shell, in the folder where `rlrs` was started. `{lr}`, `{seed}`, `{steps}`
    and so on stand for what the run is to have, `{width}` for a value of `set`, `{embedding.start}` for a ratio,
    `{ratios}` for the path of a ratios.yaml, `{folder}` for the run's own folder."""
    call: str | None = None
    """A function `train(run)`, as `package.module:function` or `path/to/file.py:function`; every run is a process."""
    transformers: TransformersConfig | None = None
    """transformers' `Trainer` or TRL's `SFTTrainer`, on a model in a local folder; nothing to write."""
    model: str | None = None
    """A function that makes the model of a size from the values of `set`, as `call` names one: for its components. It
    is called on torch's meta device, without memory for weights."""
    components: tuple[str, ...] = ()
    """The components that have ratios, in the place of `model`."""
    width: str | None = None
    """Which value of `set` is the model's width, for `ladder` and `transfer.mode`."""
    depth: str | None = None
    """Which value of `set` is its number of blocks, for `ladder`."""
    loss: OutputConfig | None = None
    """Where to read the training loss of a program that does not report it."""
    valid_loss: OutputConfig | None = None
    """Where to read its validation loss; the last number is the one after the last step."""

    verify: bool = True
    """Whether a run of some steps is verified before the first trial, and the study ends where its rates are not real.
    Changes no result."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if sum(kind is not None for kind in (self.command, self.call, self.transformers)) != 1:
            raise ValueError("should have command, call or transformers, one of them")
        if self.transformers is not None:
            if given := [name for name in ("model", "components", "loss", "valid_loss") if getattr(self, name)]:
                raise ValueError(f"{given[0]} is not for transformers, whose model is in the folder that `set` names")
            return self
        if (self.model is None) == (not self.components):
            raise ValueError("should have model, a function that makes it, or a list of components, one of the two")
        if len(set(self.components)) < len(self.components):
            raise ValueError(f"components={list(self.components)} names one twice")
        for name in ("call", "model"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[^:]+:[A-Za-z_]\w*", value):
                raise ValueError(f"{name}={shown(value)} should be package.module:function or path/to/file.py:function")
        if (self.loss is None) != (self.valid_loss is None):
            raise ValueError("loss and valid_loss go together: without them, the program reports both")
        if self.loss is not None and self.command is None:
            raise ValueError("loss is read from the output of a command; a function reports it: run.report")
        if self.command is not None:
            self.placeholders()
        return self

    def words(self) -> list[str]:
        """The command, argument by argument, with its placeholders."""
        assert self.command is not None
        try:
            return shlex.split(self.command) if isinstance(self.command, str) else list(self.command)
        except ValueError as error:
            raise ValueError(f"command={shown(self.command)} cannot be split into arguments: {error}") from None

    def placeholders(self) -> list[str]:
        """Names in braces that the command has, in order."""
        names = []
        for word in self.words() if self.command is not None else []:
            try:
                parts = list(string.Formatter().parse(word))
            except ValueError as error:
                raise ValueError(f"command: {shown(word)}: {error}; a brace of its own is written twice") from None
            for _, name, form, conversion in parts:
                if name is None:
                    continue
                if form or conversion or not re.fullmatch(r"\w+(\.\w+)?", name):
                    raise ValueError(
                        f"command: {shown(word)}: a placeholder is a name in braces, as {{lr}}; a brace of its own is "
                        "written twice"
                    )
                names.append(name)
        return names
