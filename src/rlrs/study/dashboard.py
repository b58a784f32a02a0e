"""A study's trials in optuna-dashboard, on this machine alone."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from rlrs.extras import install
from rlrs.study.directory import StudyError


def serve(folder: Path, port: int, storage: str | None, ready: Callable[[str], None]) -> None:
    """Serve the dashboard on the loopback address until Ctrl-C.

    Args:
        folder: a study's run directory.
        port: 0 takes a free one.
        storage: database URL of a shared study; the run directory's own file if None.
        ready: called with the page's address.

    Raises:
        StudyError: no trials there, or a port that cannot be had.
        ImportError: the extra `dashboard` is not installed.
    """
    if find_spec("optuna_dashboard") is None:
        raise ImportError(f"rlrs dashboard needs the library optuna-dashboard: {install('dashboard')}")
    import optuna
    import optuna_dashboard

    from rlrs.search.store import optuna_url

    path = folder / "trials.db"
    if storage is None and not path.is_file():
        raise StudyError(f"{path}: there is none; name the run directory of a study whose search has begun")
    trials = optuna.storages.RDBStorage(optuna_url(storage or path))

    class Threads(ThreadingMixIn, WSGIServer):
        # In threads of their own: a request that is being answered when Ctrl-C comes would swallow it.
        daemon_threads = True

    class Quiet(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    try:
        # On the loopback address: the dashboard can change a study and asks nobody who they are.
        server = make_server("127.0.0.1", port, optuna_dashboard.wsgi(trials), Threads, Quiet)
    except OSError as error:
        raise StudyError(f"port {port} cannot be had: {error.strerror}; name another with --port") from None
    ready(f"http://127.0.0.1:{server.server_port}/")
    with server:
        server.serve_forever()
