"""The table of docs/public-names.md: names in `__all__` before the rebuild and now.

    python -m tools.public_names            # writes the table
    python -m tools.public_names --commit C # first takes the names of commit C as those of before

What is used in the place of a name that is gone stands in the table, and stays when it is written again.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import subprocess
from pathlib import Path

from rlrs.files import write_atomic

ROOT = Path(__file__).parents[1]
BEFORE = Path(__file__).parent / "results" / "public_names_before.json"
DOCUMENT = ROOT / "docs" / "public-names.md"
BEGIN, END = "<!-- table: python -m tools.public_names -->", "<!-- end of table -->"
MOVED = {"rlrs.config": "rlrs.settings", "rlrs.pipeline": "rlrs.study"}
"""Package -> its name now."""


def declared(source: str) -> list[str]:
    """Names in a module's `__all__`, sorted."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return sorted(ast.literal_eval(node.value))
    return []


def of_commit(commit: str) -> dict[str, list[str]]:
    """Package or module -> its names at a commit."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    files = [f for f in git("ls-tree", "-r", "--name-only", commit, "src").split() if f.endswith(".py")]
    found = {_module(Path(f).relative_to("src")): declared(git("show", f"{commit}:{f}")) for f in files}
    return {MOVED.get(package, package): names for package, names in found.items() if names}


def now() -> dict[str, list[str]]:
    """Package or module -> its names in the working tree; those that begin with an underscore are private."""
    source = ROOT / "src"
    found = {_module(file.relative_to(source)): declared(file.read_text()) for file in source.rglob("*.py")}
    return {package: names for package, names in found.items() if names and "._" not in package}


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def used_instead() -> dict[tuple[str, str], str]:
    """(package, name that is gone) -> what to use, as the table says it."""
    found = {}
    for line in DOCUMENT.read_text().splitlines():
        if row := re.match(r"\| `([\w.]+)`[^|]*\|[^|]*\|([^|]*)\|[^|]*\|$", line):
            for name, text in re.findall(r"`(\w+)` -> (.+?)(?:<br>|$)", row[2].strip()):
                found[row[1], name] = text
    return found


def table() -> list[str]:
    """Rows of the document: one for each package whose names changed."""
    before, after, instead = json.loads(BEFORE.read_text()), now(), used_instead()
    lines = ["| package | as before | gone -> use instead | new |", "| --- | --- | --- | --- |"]
    for package in sorted(before.keys() | after.keys()):
        old, new = set(before.get(package, ())), set(after.get(package, ()))
        if old == new:
            continue
        was = next((f" (was `{name}`)" for name, moved in MOVED.items() if moved == package), "")
        kept, added = (", ".join(f"`{name}`" for name in sorted(names)) or "-" for names in (old & new, new - old))
        gone = "<br>".join(f"`{name}` -> {instead.get((package, name), 'nothing')}" for name in sorted(old - new))
        lines.append(f"| `{package}`{was} | {kept} | {gone or '-'} | {added} |")
    return lines


def written() -> str:
    """The document with the table of today."""
    text = DOCUMENT.read_text()
    head, rest = text.split(BEGIN, 1)
    return "\n".join([head + BEGIN, *table(), END + rest.split(END, 1)[1]])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit")
    if commit := parser.parse_args().commit:
        write_atomic(BEFORE, json.dumps(of_commit(commit), indent=1) + "\n")
    write_atomic(DOCUMENT, written())


if __name__ == "__main__":
    main()
