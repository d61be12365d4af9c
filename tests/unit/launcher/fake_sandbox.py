"""A Sandbox whose executor is a function in a thread, for tests of what the launcher does with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import IO

Script = Callable[[IO[bytes], IO[bytes], IO[bytes]], int]


class FakeSandbox:
    """Runs `script(stdin, stdout, stderr)` and ends with the status that it returns. Implements runtimes.Sandbox."""

    def __init__(self, script: Script) -> None:
        inner_stdin, outer_stdin = os.pipe()
        outer_stdout, inner_stdout = os.pipe()
        outer_stderr, inner_stderr = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(outer_stdin, "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(outer_stdout, "rb", buffering=0)
        self.stderr: IO[bytes] = os.fdopen(outer_stderr, "rb", buffering=0)
        self.pid = 0
        self.killed = threading.Event()
        self.closed = False
        self.status = 0
        self._inner = (os.fdopen(inner_stdin, "rb"), os.fdopen(inner_stdout, "wb"), os.fdopen(inner_stderr, "wb"))
        self._thread = threading.Thread(target=self._run, args=(script,), daemon=True)
        self._thread.start()

    def _run(self, script: Script) -> None:
        try:
            self.status = script(*self._inner)
        except (OSError, ValueError):
            self.status = 1
        finally:
            for stream in self._inner:
                try:
                    stream.close()
                except OSError:
                    pass

    def wait(self, timeout_s: float | None = None) -> int:
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError
        return self.status

    def kill(self) -> None:
        self.killed.set()

    def close(self) -> None:
        self.kill()
        for stream in (self.stdin, self.stdout, self.stderr):
            stream.close()
        self.closed = True
