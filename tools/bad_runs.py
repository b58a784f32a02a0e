"""What bad configurations of a run say: runs `rlrs train` on each, and rewrites the table of docs/training.md.

python -m tools.bad_runs
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from unittest import mock

DOCUMENT = Path(__file__).parents[1] / "docs" / "training.md"
BEGIN, END = "<!-- table: python -m tools.bad_runs -->", "<!-- end of table -->"

SIZE = "{model: {d_model: 16, n_layers: 1, n_heads: 2}, steps: 4, batch_size: 4}"
STUDY = {
    "name": "bad",
    "data": "{source: 'files:text.txt', tokenizer: bytes, sequence_length: 16}",
    "training": "{eval_tokens: 64, checkpoint_every: 2}",
    "proxy": SIZE,
    "target": SIZE,
}
NARROW = SIZE.replace("d_model: 16, n_layers: 1, n_heads: 2", "d_model: 10, n_layers: 1, n_heads: 4")

# What is changed in the study; options of the command; and what was done before to the run of the good study.
BAD: tuple[tuple[dict[str, str], str, str], ...] = (
    ({"training": "{optimiser: muon}"}, "", ""),
    ({"training": "{optimizer: lion}"}, "", ""),
    ({"training": "{dtype: float16}"}, "", ""),
    ({"training": "{accumulate: 3, eval_tokens: 64}"}, "", ""),
    ({"training": "{clip: 0}"}, "", ""),
    ({"training": "{schedule: constant, final_fraction: 0.1}"}, "", ""),
    ({"training": "{eval_tokens: 8}"}, "", ""),
    ({"proxy": NARROW}, "", ""),
    ({}, "--ratios paper-moe", ""),
    ({}, "--ratios ratios.yml", ""),
    ({}, "--lr 0", ""),
    ({"training": "{eval_tokens: 64, weight_decay: 0.2}"}, "", "finished"),
    ({}, "", "all checkpoints cut short"),
    ({}, "", "run.json of another run"),
)


def write_study(changes: dict[str, str]) -> None:
    Path("study.yaml").write_text("".join(f"{key}: {value}\n" for key, value in {**STUDY, **changes}.items()))


def train(options: str) -> str:
    """What `rlrs train` says on standard error, in this process."""
    from rlrs.cli import main, terminal

    error = io.StringIO()
    with (
        mock.patch.object(terminal.err, "_width", 10_000),
        mock.patch.object(sys, "stderr", error),
        mock.patch.object(sys, "stdout", io.StringIO()),
        mock.patch.object(sys, "argv", ["rlrs", "train", "study.yaml", "--out", "run", *options.split()]),
    ):
        try:
            main()
        except SystemExit as end:
            return f"{end.code or 0}\n{error.getvalue()}"
    raise AssertionError("the command does not return")


def prepare(before: str) -> None:
    """A run that is finished, or one that was and that something happened to."""
    write_study({})
    assert train("").startswith("0\n")
    (folder,) = Path("run/runs").iterdir()
    if before == "finished":
        return
    (folder / "result.json").unlink()
    if before == "run.json of another run":
        spec = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**spec, "id": "0123456789ab"}))
        return
    for weights in folder.glob("checkpoints/*/rank-0.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])


def rows() -> list[tuple[str, str]]:
    """Configuration, and the one line that it ends in."""
    home, made = Path.cwd(), []
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        os.chdir(place)
        stack.callback(os.chdir, home)
        Path("text.txt").write_text("".join(f"line {n} of a text\n" for n in range(400)))
        for changes, options, before in BAD:
            shutil.rmtree("run", ignore_errors=True)
            if before:
                prepare(before)
            write_study(changes)
            code, _, said = train(options).partition("\n")
            (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
            assert code == "2", (changes, options, code)
            what = ", ".join(f"`{key}: {value}`" for key, value in changes.items())
            what = ", ".join(part for part in (what, f"`{options}`" if options else "", before) if part)
            # A run's id is a hash of all settings there are: a new one would change it.
            line = re.sub(r"(?<=runs/)[0-9a-f]{12}|(?<=not )[0-9a-f]{12}", "ID", line.removeprefix("error: "))
            made.append((what, line.replace(f"{place}/", "")))
    return made


def table() -> str:
    """As in docs/training.md."""
    lines = ["| study, options, or what happened before | message |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {what.replace('|', '&#124;')} | {line} |" for what, line in rows())])


def document(text: str) -> str:
    """The page with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(document(DOCUMENT.read_text()))
    print(DOCUMENT)
