"""What the documentation site needs beside its pages (a hook of mkdocs.yml).

Pages link to files of the repository (`../examples/ddp.py`), so that they can be read there too. On the site such a
link goes to the repository if mkdocs.yml has a `repo_url`, and is a path otherwise; a file that is not there ends a
strict build. `cli.md` is made from the command line itself.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\(\.\./(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.hooks.docs_site")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page of the command line."""
    files.append(File.generated(config, "cli.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into what the site can show."""

    def shown(link: re.Match[str]) -> str:
        text, path = link["text"], link["path"].rstrip("/")
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_path, path)
        if config.repo_url:
            return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{link['anchor'] or ''})"
        return f"`{path}`" if text.strip("`") in (path, Path(path).name) else f"{text} (`{path}`)"

    return LINK.sub(shown, markdown)


def command_line() -> str:
    """Every command with its arguments and options, in Markdown."""
    from rlrs.cli import app

    group: Any = typer.main.get_command(app)
    lines = ["# Command line", "", (group.help or "").strip(), ""]
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        usage = " ".join(["rlrs", name, *command.collect_usage_pieces(context)])
        lines += [f"## rlrs {name}", "", (command.help or "").strip(), "", "```text", usage, "```", ""]
        lines += ["| | |", "| --- | --- |"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            record = parameter.get_help_record(context)
            names, text = record or (parameter.human_readable_name, getattr(parameter, "help", "") or "")
            cells = [re.sub(r"\s+", " ", cell).replace("|", "&#124;") for cell in (names, text)]
            lines.append(f"| `{cells[0].replace('&#124;', ', ')}` | {cells[1]} |")
        lines += ["", (command.epilog or "").strip(), ""]
    return "\n".join(lines)
