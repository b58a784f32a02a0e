"""Checks of the snippets in the documentation that are not Python; see conftest.py."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

import yaml

ROOT = Path(__file__).parents[1]
STUDY: dict[str, Any] = {
    "name": "snippet",
    "proxy": {"model": {"d_model": 32, "n_heads": 2}, "steps": 10, "batch_size": 4},
    "target": {"model": {"d_model": 64, "n_heads": 4}, "steps": 10, "batch_size": 4},
}


class Example(Protocol):
    """A fenced block of a page, as sybil has it."""

    parsed: str


def commands(block: str) -> list[list[str]]:
    """The `rlrs` commands of a block of shell lines, split into words; `\\` joins lines, `#` begins a comment."""
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    found = [line[line.index("rlrs") :] for line in words if "rlrs" in line[:1]]
    # torchrun starts the same command by its module.
    return found + [["rlrs", *line[line.index("rlrs.cli") + 1 :]] for line in words if "rlrs.cli" in line]


def parse(words: list[str]) -> None:
    """Parse a command against the command line.

    Raises:
        ValueError: no such command or option, or a value that an option does not take.
    """
    import typer

    from rlrs.cli import app

    group: Any = typer.main.get_command(app)
    _, name, *arguments = words
    if name not in group.commands:
        raise ValueError(f"no command {name!r} of rlrs; there are {', '.join(group.commands)}")
    try:
        group.commands[name].make_context(name, arguments)
    except Exception as error:  # of whichever click typer brings
        raise ValueError(f"{shlex.join(words)}: {error}") from None


def check_commands(example: Example) -> None:
    """Every `rlrs` command of the block is one."""
    for words in commands(example.parsed):
        parse(words)


def run(words: list[str]) -> str:
    """What a command prints on standard output, run in this process from the root of the repository."""
    from rlrs.cli import main, terminal

    text = io.StringIO()
    with (
        contextlib.chdir(ROOT),
        mock.patch.object(terminal.out, "_width", 500),
        mock.patch.object(sys, "argv", words),
        mock.patch.object(sys, "stdout", text),
        contextlib.suppress(SystemExit),
    ):
        main()
    return text.getvalue()


def check_output(example: Example) -> None:
    """The command of the first line prints the others: all but the head of a table, whose frame does not count."""
    first, _, shown = example.parsed.partition("\n")
    (words,) = commands(first)
    printed = [_cells(line) for line in run(words).splitlines()]
    missing = [line for line in shown.strip().splitlines()[1:] if _cells(line) not in printed]
    assert not missing, f"{shlex.join(words)} does not print {missing}"


def _cells(line: str) -> list[str]:
    return re.sub(r"[\u2500-\u257f]", " ", line).split()


def check_yaml(example: Example) -> None:
    """The block is a ratios.yaml, a rollout.yaml or keys of a study.

    Where a key comes twice, every line is an alternative.
    """
    from rlrs.ratios import Ratios
    from rlrs.rollout import RolloutConfig
    from rlrs.settings import StudyConfig

    block = example.parsed
    keys = re.findall(r"^(\w+):", block, re.MULTILINE)
    for part in block.splitlines() if len(set(keys)) < len(keys) else [block]:
        found = yaml.safe_load(part)
        if found is None:
            continue
        if "ratios" in found:
            Ratios(found["ratios"])
            continue
        if "stages" in found:
            RolloutConfig.model_validate(found)
            continue
        if set(found) == {"model"}:
            found = {"proxy": {**STUDY["proxy"], **found}}
        StudyConfig.model_validate({**STUDY, **found})
