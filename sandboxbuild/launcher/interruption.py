"""Interruption: SIGINT, SIGTERM and SIGHUP as something that the build looks at when it can clean up after itself.

A signal wakes the selector of the conversation and raises nothing by itself, so that no lock, process or mount is lost half-way
through its making. Long work of the launcher's own runs in `raising()`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

from sandboxbuild.errors import Interrupted

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Catches the signals while it is entered; outside of the main thread, where Python allows no handlers, it catches none.

    `count` is how many came. `fd` becomes readable when one does.
    """

    __slots__ = ("_previous", "_previous_wakeup", "_raises", "_write_fd", "count", "fd", "first")

    def __init__(self) -> None:
        self.count = 0
        self.first = 0
        self.fd = self._write_fd = -1
        self._raises = False
        self._previous: dict[int, Any] = {}
        self._previous_wakeup = -1

    def __enter__(self) -> Interruption:
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        if threading.current_thread() is threading.main_thread():
            self._previous_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous:
            signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self.fd)
        os.close(self._write_fd)

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.count:
            raise Interrupted(f"stopped by {signal.Signals(self.first).name}", signal_number=self.first)

    @property
    def is_impatient(self) -> bool:
        """Somebody asked twice."""
        return self.count > 1

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, a signal raises Interrupted where it comes; for work that is safe to leave at any point."""
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.first = self.first or number
        if self._raises:
            self._raises = False
            self.check()
