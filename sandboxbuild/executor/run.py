"""One RUN as the executor sees it: hand the spec to a supervisor, carry its output, wait for its end, tidy up the rootfs."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sandboxbuild.errors import IsolationError, SandboxbuildError
from sandboxbuild.executor.mountpoints import MadeStub, remove_stubs
from sandboxbuild.executor.stepgroups import StepGroup
from sandboxbuild.executor.stepspec import StepMount, StepOutcome, StepSpec, Stub, to_message
from sandboxbuild.executor.zygote import Zygote
from sandboxbuild.system import channels

__all__ = ["StepMount", "StepOutcome", "StepRunner", "StepSpec", "Zygote"]

_CHUNK: Final = 64 * 1024
_LOOK_MS: Final = 200
_READABLE: Final = select.POLLIN | select.POLLHUP | select.POLLERR

OnOutput = Callable[[int, bytes], None]
OnListeners = Callable[[list[int]], None]
Look = Callable[[], str]


class StepRunner:
    """Runs steps, several at a time from several threads, each by a fork of the zygote."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._lock = threading.Lock()

    def run(
        self,
        spec: StepSpec,
        on_output: OnOutput,
        *,
        on_listeners: OnListeners | None = None,
        cancel_fd: int | None = None,
        look: Look | None = None,
        group: StepGroup | None = None,
    ) -> StepOutcome:
        """Run one step to its end; when this returns, every process of it is gone.

        `on_output(1 or 2, chunk)` is called here, in this thread, and a slow one slows the step. `on_listeners` gets the
        sockets of `spec.listen`, in order and its own to close, before the program starts. When `cancel_fd` turns readable the
        step is killed, as it is when `look`, called every now and then and once at the end, names a limit that it has passed.
        All of it runs in `group`, which has the last word on what was passed there.
        Raises IsolationError where the step's sandbox can't be made; what a callback raises kills the step.
        """
        started = time.monotonic_ns()
        conversation = self._start(spec, group)
        try:
            conversation.follow(on_output, on_listeners, cancel_fd, _both(look, group))
        except BaseException:
            conversation.kill()
            raise
        finally:
            conversation.finish()
            met = group.leave() if group else ""
        return conversation.outcome(time.monotonic_ns() - started, met)

    def _start(self, spec: StepSpec, group: StepGroup | None) -> _Conversation:
        ours, theirs = channels.pair()
        (out_r, out_w), (err_r, err_w), (go_r, go_w) = (os.pipe() for _ in range(3))
        conversation = _Conversation(spec, ours, {out_r: 1, err_r: 2}, go_w)
        try:
            with self._lock:
                self._zygote.fork_step(spec.network != "host", (out_w, err_w, theirs.fileno(), go_r))
            failure = None
        except OSError as error:
            failure = error
        finally:
            theirs.close()
            _close_all((out_w, err_w, go_r))
        if failure is not None:
            conversation.finish()
            raise IsolationError(f"no step can be started: {failure.strerror}") from failure
        try:
            if group is not None:
                group.enter(*conversation.supervisor())
            conversation.begin()
        except BaseException:
            conversation.call_off()
            conversation.finish()
            if group is not None:
                group.leave()
            raise
        return conversation


def _both(look: Look | None, group: StepGroup | None) -> Look | None:
    """What the step wrote, and what its group says."""
    if group is None:
        return look
    return lambda: (look() if look else "") or group.met()


class _Conversation:
    """What goes on between the executor and one step."""

    def __init__(self, spec: StepSpec, channel: channels.Channel, streams: dict[int, int], go_w: int) -> None:
        self._spec = spec
        self._channel = channel
        self._streams = streams  # descriptor -> 1 or 2
        self._go_w = go_w
        self._poll = select.poll()
        self._status: int | None = None
        self._leftover = 0
        self._message = ""
        self._broken = ""
        self._ended_by = ""
        self._output_bytes = 0
        self._over = False
        self._made: list[MadeStub] = []

    def supervisor(self) -> tuple[int, int]:
        """Its pid, and the inode of the pid namespace in which that is its pid. Raises IsolationError."""
        received = self._channel.receive()
        match received[0] if received else ("broken", "its supervisor ended without a word"):
            case ["here", pid, namespace]:
                return pid, namespace
            case [_, text]:
                raise IsolationError(f"the step's sandbox can't be made: {text}")
        raise IsolationError("the step's sandbox can't be made")

    def begin(self) -> None:
        """Raises IsolationError."""
        try:
            self._channel.send(to_message(self._spec))
        except OSError as error:
            raise IsolationError(f"no step can be started: {error.strerror}") from error

    def call_off(self) -> None:
        """In place of begin()."""
        try:
            self._channel.send(None)
        except OSError:
            pass  # its end is on the way already

    def follow(self, on_output: OnOutput, on_listeners: OnListeners | None, cancel_fd: int | None, look: Look | None) -> None:
        """Serve the step until its supervisor has said that everything of it is gone, and read what the pipes still hold."""
        deadline = time.monotonic() + self._spec.timeout_s if self._spec.timeout_s else None
        for fd in (*self._streams, self._channel.fileno(), *([cancel_fd] if cancel_fd is not None else [])):
            self._poll.register(fd, select.POLLIN)
        while not self._over:
            ready = [fd for fd, _ in self._poll.poll(_wait_ms(deadline, looks=look is not None))]
            if look is not None and not self._ended_by and (limit := look()):
                self._stop(limit)
            if deadline is not None and time.monotonic() >= deadline:
                deadline = None
                self._stop("timeout")
            if cancel_fd in ready:
                self._poll.unregister(cancel_fd)
                self._stop("cancel")
            for fd in ready:
                if fd in self._streams:
                    self._carry(fd, on_output)
            if self._channel.fileno() in ready:
                self._listen(on_listeners)
        self._drain(on_output)

    def _stop(self, reason: str) -> None:
        self._ended_by = self._ended_by or reason
        self.kill()

    def kill(self) -> None:
        try:
            self._channel.send(("kill",))
        except OSError:
            pass  # its end is on the way already

    def _carry(self, fd: int, on_output: OnOutput) -> None:
        chunk = os.read(fd, _CHUNK)
        if not chunk:
            self._poll.unregister(fd)
            del self._streams[fd]
            os.close(fd)
            return
        limit = self._spec.isolation.output_bytes
        self._output_bytes += len(chunk)
        if limit and self._output_bytes > limit:
            if not self._ended_by:
                self._stop("output")
            return
        on_output(self._streams[fd], chunk)

    def _drain(self, on_output: OnOutput) -> None:
        """The step's processes are gone: what the pipes hold is all there will be, even if a descriptor survives somewhere."""
        for fd in list(self._streams):
            os.set_blocking(fd, False)
            try:
                while fd in self._streams:
                    self._carry(fd, on_output)
            except BlockingIOError:
                pass

    def _listen(self, on_listeners: OnListeners | None) -> None:
        try:
            received = self._channel.receive()
        except OSError:
            received = None
        if received is None:
            self._broken = self._broken or "its supervisor ended without a word"
            self._over = True
            return
        self._understand(received[0], received[1], on_listeners)

    def _understand(self, message: Sequence[Any], descriptors: list[int], on_listeners: OnListeners | None) -> None:
        match message:
            case ["here", _, _]:
                pass  # for a step with a group
            case ["stubs", stubs]:
                self._made = [MadeStub(Stub(*stub), fd) for stub, fd in zip(stubs, descriptors, strict=True)]
            case ["listeners"]:
                if on_listeners is None:
                    raise SandboxbuildError("a step with listeners needs somebody who takes them")
                on_listeners(descriptors)
                os.write(self._go_w, b"g")
            case ["refused", status, text]:
                self._status, self._message = status, text
            case ["broken", text]:
                self._broken = text
            case ["ended", status, leftover]:
                self._status = status if self._status is None else self._status
                self._leftover = leftover
            case ["done"]:
                self._over = True

    def finish(self) -> None:
        """Wait for the supervisor's end, remove the stubs, close everything."""
        while not self._over:
            self._listen(_close_all)
        remove_stubs(self._made)
        self._channel.close()
        for fd in (*self._streams, self._go_w):
            os.close(fd)

    def outcome(self, duration_ns: int, met: str) -> StepOutcome:
        """`met` is the bound of its group that was met, "" for none."""
        ended_by = self._ended_by or met
        if self._broken and not ended_by:
            raise IsolationError(f"the step's sandbox can't be made: {self._broken}")
        status = 137 if self._status is None else self._status
        return StepOutcome(status, duration_ns, self._leftover, self._message, ended_by)


def _wait_ms(deadline: float | None, *, looks: bool) -> int | None:
    waits = [_LOOK_MS] if looks else []
    if deadline is not None:
        waits.append(max(0, int((deadline - time.monotonic()) * 1000) + 1))
    return min(waits, default=None)


def _close_all(descriptors: Sequence[int]) -> None:
    for fd in descriptors:
        os.close(fd)
