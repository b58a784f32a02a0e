"""The URL of a database, looked at before it is used."""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from rlrs.extras import install
from rlrs.messages import shown
from rlrs.settings import ConfigError


def check_url(text: str, *, written: bool = True) -> None:
    """See that a database URL is one, and that its driver is installed; no connection is made, no file.

    Args:
        text: the URL.
        written: a SQLite file will be written to, and not read alone.

    Raises:
        ConfigError: no URL, or of a kind of database that there is not, or of a SQLite file that cannot be.
        ImportError: its driver is not installed; the message says what to install.

    >>> check_url("sqlite:///trials.db")
    >>> check_url("oops://host/trials")
    Traceback (most recent call last):
    rlrs.settings.base.ConfigError: storage: no kind of database is called 'oops'; postgresql+psycopg is one
    """
    try:
        url = make_url(text)
        dialect = url.get_dialect()
    except ArgumentError as error:
        if not isinstance(error, NoSuchModuleError):  # without the text: it may hold a password
            raise ConfigError(
                "storage: should be a database URL, such as postgresql+psycopg://USER@HOST/DATABASE: what was given is "
                "none"
            ) from None
        name = shown(text.partition("://")[0])
        raise ConfigError(f"storage: no kind of database is called {name}; postgresql+psycopg is one") from None
    try:
        dialect.import_dbapi()
    except ImportError as error:
        hint = install("postgresql") if url.get_backend_name() == "postgresql" else "install its driver"
        raise ImportError(f"the database {url.drivername} needs a library: {hint} ({error})") from None
    if written and url.get_backend_name() == "sqlite":
        _check_file(url)


def _check_file(url: URL) -> None:
    """See that a SQLite file is there, or can be made."""
    name = url.database or ""
    if name in ("", ":memory:"):
        raise ConfigError("storage: should name a file that outlives this process, such as sqlite:///shared.db")
    if name.startswith("file:"):  # a URI of SQLite's own
        return
    path = Path(name).absolute()
    if path.is_dir():
        raise ConfigError(f"storage: {shown(str(path), 200)} is a folder, and should be a SQLite file")
    if not path.parent.is_dir():
        raise ConfigError(f"storage: {shown(str(path), 200)}: there is no folder {shown(str(path.parent), 200)}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"storage: {shown(str(path), 200)} cannot be written to")
