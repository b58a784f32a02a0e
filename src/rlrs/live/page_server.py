"""The page on the loopback address, behind a token.

Whoever has the token reads what the watcher shows, and nothing else: paths of requests never become paths of files. A
site in the same browser can neither guess the token nor, by a name that it lets point here, pass the check of `Host`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rlrs.live.live_page import page
from rlrs.live.watcher import Watcher

_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_SHIPPED = {
    "plotly.js": ("rlrs.report", "plotly-basic.min.js", "text/javascript"),
    "live.js": ("rlrs.live", "live.js", "text/javascript"),
    "live.css": ("rlrs.live", "live.css", "text/css"),
}


class LiveError(ValueError):
    """A page that cannot be served; one line."""


class LiveServer(ThreadingHTTPServer):
    """Serves one watcher's page; a request is answered in a thread of its own.

    Args:
        watcher: what is shown.
        port: on 127.0.0.1; 0 takes a free one.

    Raises:
        LiveError: the port cannot be had.
    """

    daemon_threads = True

    def __init__(self, watcher: Watcher, port: int) -> None:
        self.watcher = watcher
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Answer)
        except OSError as error:
            raise LiveError(f"port {port} cannot be had: {error.strerror}; name another with --port") from None

    @property
    def url(self) -> str:
        """Of the page, token included."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a browser that went away in the middle of an answer."""


class _Answer(BaseHTTPRequestHandler):
    server: LiveServer  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "rlrs", ""
    timeout = 60

    def do_GET(self) -> None:
        hosts = {f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")}
        parts = urlsplit(self.path)
        _, token, *rest = [*parts.path.split("/"), ""]
        if self.headers.get("Host", "").lower() not in hosts:
            return self._send(HTTPStatus.FORBIDDEN, b"the Host of this request is not this machine\n")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            return self._send(HTTPStatus.FORBIDDEN, b"open the address that rlrs watch printed, with its token\n")
        name, asked = rest[0], parse_qs(parts.query)
        if rest == [""]:  # the page's own addresses are relative to the slash
            return self._send(HTTPStatus.PERMANENT_REDIRECT, b"", location=f"/{token}/")
        if rest[1:] not in ([""], []):
            return self._send(HTTPStatus.NOT_FOUND, b"no such page\n")
        if name in _SHIPPED:
            kind, data = _SHIPPED[name][2], _shipped(name)
        elif name == "":
            kind, data = "text/html", page(self.server.watcher).encode()
        elif (found := self._data(name, asked)) is not None:
            kind, data = "application/json", json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
        else:
            return self._send(HTTPStatus.NOT_FOUND, b"no such page\n")
        return self._send(HTTPStatus.OK, data, kind)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _data(self, name: str, asked: dict[str, list[str]]) -> dict[str, Any] | None:
        if name == "overview.json":
            return self.server.watcher.overview()
        if name == "detail.json":
            return self.server.watcher.detail(asked.get("item", [""])[0], asked.get("run", [None])[0]) or {
                "kind": "gone"
            }
        return None

    def _send(self, status: HTTPStatus, data: bytes, kind: str = "text/plain", location: str = "") -> None:
        tag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
        unchanged = status == HTTPStatus.OK and self.headers.get("If-None-Match") == tag
        self.send_response(HTTPStatus.NOT_MODIFIED if unchanged else status)
        for header, value in _HEADERS.items():
            self.send_header(header, value)
        if location:
            self.send_header("Location", location)
        if status == HTTPStatus.OK:
            self.send_header("ETag", tag)
        if not unchanged:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if not unchanged and self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # the token is in every request


@cache
def _shipped(name: str) -> bytes:
    package, file, _ = _SHIPPED[name]
    return (files(package) / "templates" / file).read_bytes()


def serve_live(watcher: Watcher, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C.

    Args:
        watcher: what is shown.
        port: on 127.0.0.1; 0 takes a free one.
        ready: called with the page's address once it answers.

    Raises:
        LiveError: the port cannot be had.
    """
    with LiveServer(watcher, port) as server:
        ready(server.url)
        server.serve_forever(poll_interval=0.2)
