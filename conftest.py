"""The snippets of README.md, CONTRIBUTING.md and docs/ are tests.

- `python` blocks are run, all of a page in one namespace and in an empty directory; `<!--- skip: next -->` before one
  leaves it out, and comments `<!--- invisible-code: python` prepare what a snippet takes for granted.
- `bash` blocks: every `rlrs` command is parsed against the command line.
- `console` blocks: the first line is a command of ours that trains nothing; the others are what it prints.
- `yaml` blocks: a ratios.yaml, a rollout.yaml, or keys of a study.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from tools import snippets

ROOT = Path(__file__).parent


def _enter(namespace: dict) -> None:
    namespace["_folder"], namespace["_home"] = tempfile.TemporaryDirectory(), os.getcwd()
    os.chdir(namespace["_folder"].name)


def _leave(namespace: dict) -> None:
    os.chdir(namespace["_home"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[
        PythonCodeBlockParser(),
        CodeBlockParser("bash", snippets.check_commands),
        CodeBlockParser("console", snippets.check_output),
        CodeBlockParser("yaml", snippets.check_yaml),
        SkipParser(),
    ],
    path=str(ROOT),
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    setup=_enter,
    teardown=_leave,
).pytest()
