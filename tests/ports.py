"""Ports for the process groups of tests."""

import contextlib
import os
import socket


def free_port():
    """A port that nobody listens on, below those that the system hands to outgoing connections (from 32768)."""
    while True:
        port = 20_000 + int.from_bytes(os.urandom(2)) % 12_000
        with contextlib.closing(socket.socket()) as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
