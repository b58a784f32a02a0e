"""The page opened in a browser whose command line, which every user of the machine can read, has no token."""

from __future__ import annotations

import html
import os
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol


class Opens(Protocol):
    """Opens an address in the browser."""

    def __call__(self, url: str) -> None:
        """Open it."""
        ...


@contextmanager
def by_file() -> Iterator[Opens]:
    """Opens an address by way of a file that leads there and that its owner alone can read; removed at the end."""
    files: list[Path] = []

    def opens(url: str) -> None:
        descriptor, name = tempfile.mkstemp(prefix="rlrs-watch-", suffix=".html")  # 0600
        files.append(Path(name))
        address = html.escape(url)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(
                f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
                f'<a href="{address}">rlrs watch</a>\n'
            )
        webbrowser.open(Path(name).as_uri())

    try:
        yield opens
    finally:
        for file in files:
            file.unlink(missing_ok=True)
