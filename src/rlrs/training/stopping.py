"""Stopping a run from outside: at the end of a step, with its state saved."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

EXIT_CODE = 75
"""EX_TEMPFAIL of sysexits.h, "try again": the run was asked to stop and has saved; the same command goes on."""


class Stopped(Exception):  # noqa: N818  no error: what was asked for
    """A run was asked to stop and has saved; `step` is how many steps are done, `signal` the name of who asked."""

    def __init__(self, step: int, signal: str | None) -> None:
        super().__init__(f"stopped by {signal or 'another rank'} after step {step}, saved")
        self.step, self.signal = step, signal


class StopFlag:
    """Set by a signal; a run looks at it after every step."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """SIGTERM and SIGINT set the flag; a second SIGINT raises KeyboardInterrupt, for a step that does not end.

    >>> with stop_on_signals() as flag:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     print(bool(flag), flag.signal)
    True SIGTERM
    """
    flag = StopFlag()

    def stop(number: int, frame: FrameType | None) -> None:
        if flag and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.signal = signal.Signals(number).name

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
