"""Starting a helper process that sets a sandbox up, and the Sandbox that it then stands for: common to the drivers."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from typing import IO, Final

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes.enter import CHANNEL_FD
from sandboxbuild.system import channels

DOCTOR: Final = "`sandboxbuild doctor` says what this host lacks and the command that would mend it"
_PATIENCE_S: Final = 5.0  # for the helper to end a sandbox before it is killed itself
_PACKAGE_PARENT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_BOOT: Final = "import sys; sys.path.insert(0, sys.argv.pop(1)); from sandboxbuild.runtimes import {0}; sys.exit({0}.main())"


def start_helper(python: str, module: str) -> tuple[HelperSandbox, channels.Channel]:
    """The program `module` of this folder as a process of its own, with the sandbox's pipes and a channel to it.

    `python` runs on the host and with the launcher's rights: never one from a folder that a sandbox can write to. Raises
    IsolationError.
    """
    ours, theirs = channels.pair()
    pipes = [os.pipe() for _ in range(3)]
    inner = [pipes[0][0], pipes[1][1], pipes[2][1]]
    outer = [pipes[0][1], pipes[1][0], pipes[2][0]]
    try:
        pid = _spawn(python, module, [*inner, theirs.fileno()])
    except OSError as error:
        ours.close()
        for fd in outer:
            os.close(fd)
        raise IsolationError(f"{python} can't be started: {error.strerror}") from error
    finally:
        theirs.close()
        for fd in inner:
            os.close(fd)
    return HelperSandbox(pid, ours, outer), ours


def _spawn(python: str, module: str, descriptors: Sequence[int]) -> int:
    """Start the helper with `descriptors` as 0, 1, 2 and CHANNEL_FD. No code of ours runs between fork and exec."""
    # The sources may lie where the targets are, so they first move out of the way.
    high = [os.dup(fd) for fd in descriptors]
    moved = [_duplicate_above(fd, CHANNEL_FD + 1) for fd in high]
    for fd in high:
        os.close(fd)
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(moved)]
    try:
        return os.posix_spawn(
            python,
            [python, "-I", "-S", "-E", "-c", _BOOT.format(module), _PACKAGE_PARENT],
            {},
            file_actions=actions,
            setsigmask=(),
            setsigdef=sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}),
        )
    finally:
        for fd in moved:
            os.close(fd)


def _duplicate_above(fd: int, lowest: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, lowest)


def expect(channel: channels.Channel, word: str) -> None:
    """Wait for the helper to say `word`. Raises IsolationError with what it says in place of that."""
    try:
        received = channel.receive()
    except OSError as error:
        raise IsolationError("the helper that sets the sandbox up ended at once", hint=DOCTOR) from error
    if received is None:
        raise IsolationError("the helper that sets the sandbox up ended at once", hint=DOCTOR)
    message = received[0]
    if message[0] == "error":
        raise IsolationError(message[1], hint=message[2] or DOCTOR)
    if message[0] != word:
        raise IsolationError(f"the helper said {message[0]!r} in place of {word!r}")


class HelperSandbox:
    """A sandbox as its helper process; see runtimes.Sandbox. Methods may be called from several threads."""

    def __init__(self, pid: int, channel: channels.Channel, descriptors: Sequence[int]) -> None:
        self.pid = pid
        self.stdin: IO[bytes] = os.fdopen(descriptors[0], "wb", buffering=0)
        self.stdout: IO[bytes] = os.fdopen(descriptors[1], "rb")
        self.stderr: IO[bytes] = os.fdopen(descriptors[2], "rb")
        self._channel = channel
        self._pidfd = os.pidfd_open(pid)
        self._status: int | None = None

    def wait(self, timeout_s: float | None = None) -> int:
        if self._status is None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            if not poll.poll(None if timeout_s is None else max(0, int(timeout_s * 1000))):
                raise TimeoutError("the sandbox is still running")
            self._collect()
        return self._status if self._status is not None else 137

    def _collect(self) -> None:
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return  # another thread has it
        self._status = code if code >= 0 else 128 - code

    def kill(self) -> None:
        """The helper kills pid 1 and waits until its namespace is empty."""
        if self._status is None:
            _quietly(lambda: self._channel.send(("kill",)))

    def close(self) -> None:
        self.kill()
        deadline = time.monotonic() + _PATIENCE_S
        try:
            self.wait(deadline - time.monotonic())
        except TimeoutError:
            _quietly(lambda: signal.pidfd_send_signal(self._pidfd, signal.SIGKILL))
            self.wait()
        for stream in (self.stdin, self.stdout, self.stderr, self._channel):
            _quietly(stream.close)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _quietly(action: Callable[[], object]) -> None:
    try:
        action()
    except (OSError, ValueError):
        pass
