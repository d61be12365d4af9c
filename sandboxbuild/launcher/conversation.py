"""The talk with an executor that may be hostile: one request in, checked events out, and an end in all cases.

A silent executor is bounded by time before its Hello and after its result (a RUN may be silent for hours in between), a
babbling one by frame size and message counts, a dead one is told from a finished one by its result.
"""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable
from typing import IO, Final, Protocol

from sandboxbuild import errors
from sandboxbuild.errors import BuildTimeout, LimitExceeded, ProtocolError, SandboxbuildError
from sandboxbuild.launcher.interruption import Interruption
from sandboxbuild.launcher.messages import read_message
from sandboxbuild.protocol.channel import Hello
from sandboxbuild.protocol.codec import encode
from sandboxbuild.protocol.events import BuildFailed, BuildSucceeded, Event, LogOutput, TransferProgress
from sandboxbuild.protocol.frames import HEADER_BYTES, REQUEST_LIMIT_BYTES, FrameBuffer
from sandboxbuild.protocol.groups import GroupAnswer, GroupLeft, GroupMet, GroupQuestion, GroupWanted, framed
from sandboxbuild.protocol.request import PROTOCOL_VERSION, BuildRequest
from sandboxbuild.runtimes import Sandbox

HELLO_TIMEOUT_S: Final = 60.0
ENDING_TIMEOUT_S: Final = 15.0
TICK_S: Final = 0.1
LOG_TAIL_BYTES: Final = 32 * 1024
MESSAGES_LIMIT: Final = 1_000_000  # other than output and progress, which leave nothing behind in the launcher

ANSWERS_LIMIT_BYTES: Final = 64 * 1024  # that wait for an executor to read them

Observer = Callable[[Event | None], None]  # None is a tick: TICK_S passed without an event


class Steps(Protocol):
    """Who gives each running step its control group."""

    def answer(self, question: GroupQuestion) -> GroupAnswer:
        """Raises ProtocolError for what no executor of ours asks."""

    def news(self) -> list[GroupMet]:
        """What the executor has to hear unasked; called ten times a second and more often."""


class Conversation:
    """One build's talk. `log` is the end of what the executor wrote to its standard error. Used by one thread, once."""

    __slots__ = (
        "_buffer",
        "_deadline",
        "_interruption",
        "_messages",
        "_observe",
        "_outgoing",
        "_sandbox",
        "_state_deadline",
        "_steps",
        "hello",
        "log",
        "result",
    )

    def __init__(
        self,
        sandbox: Sandbox,
        interruption: Interruption,
        observe: Observer,
        *,
        deadline: float | None = None,
        steps: Steps | None = None,
    ) -> None:
        """Without `steps` an executor that asks for a step's control group breaks the rules."""
        self._sandbox = sandbox
        self._steps = steps
        self._interruption = interruption
        self._observe = observe
        self._deadline = deadline
        self._state_deadline: float | None = None
        self._outgoing = memoryview(b"")
        self._buffer = FrameBuffer()
        self._messages = 0
        self.hello: Hello | None = None
        self.result: BuildSucceeded | BuildFailed | None = None
        self.log = bytearray()

    def run(self, request: BuildRequest) -> BuildSucceeded:
        """Talk to the end; the sandbox itself stays the caller's.

        Raises the error that the executor reports, BuildTimeout at `deadline` (of time.monotonic), Interrupted, LimitExceeded
        for an executor that was killed for want of memory, and ProtocolError for one that breaks the rules.
        """
        kills_before = count_oom_kills()
        self._outgoing = memoryview(_framed_request(request))
        self._state_deadline = time.monotonic() + HELLO_TIMEOUT_S
        self._exchange(request.build_id)
        if self.result is None:
            raise self._death(kills_before)
        if isinstance(self.result, BuildFailed):
            raise error_from(self.result)
        return self.result

    def _exchange(self, build_id: str) -> None:
        """Until the executor closes its standard output."""
        stdin, stdout, stderr = self._sandbox.stdin, self._sandbox.stdout, self._sandbox.stderr
        with selectors.DefaultSelector() as selector:
            for stream in (stdin, stdout, stderr):
                os.set_blocking(stream.fileno(), False)
            selector.register(stdin.fileno(), selectors.EVENT_WRITE)
            selector.register(stdout.fileno(), selectors.EVENT_READ)
            selector.register(stderr.fileno(), selectors.EVENT_READ)
            selector.register(self._interruption.fd, selectors.EVENT_READ)
            while True:
                self._check_time()
                self._tell_news()
                if self._outgoing and stdin.fileno() not in selector.get_map():
                    selector.register(stdin.fileno(), selectors.EVENT_WRITE)
                ready = {key.fd for key, _ in selector.select(TICK_S)}
                if stdin.fileno() in ready and not self._send_more(stdin):
                    selector.unregister(stdin.fileno())
                if stderr.fileno() in ready and not self._read_log(stderr):
                    selector.unregister(stderr.fileno())
                if stdout.fileno() not in ready:
                    self._observe(None)
                elif not self._read_events(stdout, build_id):
                    return

    def _check_time(self) -> None:
        self._interruption.check()
        now = time.monotonic()
        if self._deadline is not None and now > self._deadline:
            raise BuildTimeout(
                "the build took longer than its --timeout",
                hint="give it more time, or find the slow step in the progress above",
            )
        if self._state_deadline is not None and now > self._state_deadline:
            raise ProtocolError(
                "the executor did not answer" if self.hello is None else "the executor does not end after its result"
            )

    def _send_more(self, stdin: IO[bytes]) -> bool:
        """Send what the pipe takes. False when all is sent, or nobody reads it (which its death will explain)."""
        try:
            self._outgoing = self._outgoing[os.write(stdin.fileno(), self._outgoing[:65536]) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:
            self._outgoing = memoryview(b"")
            return False
        return bool(self._outgoing)

    def _tell_news(self) -> None:
        for message in self._steps.news() if self._steps and self.hello else ():
            self._say(message)

    def _say(self, answer: GroupAnswer) -> None:
        """Send it when the pipe takes it. Raises ProtocolError for an executor that asks and doesn't listen."""
        if len(self._outgoing) > ANSWERS_LIMIT_BYTES:
            raise ProtocolError("the executor doesn't read what it is told")
        self._outgoing = memoryview(bytes(self._outgoing) + framed(answer))

    def _read_log(self, stderr: IO[bytes]) -> bool:
        data = os.read(stderr.fileno(), 65536)
        self.log += data
        del self.log[:-LOG_TAIL_BYTES]
        return bool(data)

    def _read_events(self, stdout: IO[bytes], build_id: str) -> bool:
        data = os.read(stdout.fileno(), 65536)
        for payload in self._buffer.feed(data):
            self._receive(payload, build_id)
        return bool(data)

    def _receive(self, payload: bytes, build_id: str) -> None:
        message = read_message(payload)
        if isinstance(message, Hello):
            self._greet(message, build_id)
            return
        if self.hello is None or self.result is not None:
            raise ProtocolError(
                f"the executor sent {type(message).__name__} {'before its Hello' if self.hello is None else 'after its result'}"
            )
        if not isinstance(message, (LogOutput, TransferProgress)):
            self._messages += 1
            if self._messages > MESSAGES_LIMIT:
                raise ProtocolError(f"the executor sent more than {MESSAGES_LIMIT} messages")
        if isinstance(message, (GroupWanted, GroupLeft)):
            if self._steps is None:
                raise ProtocolError("the executor asks for a step's cgroup, and there are none in this build")
            self._say(self._steps.answer(message))
            return
        if isinstance(message, (BuildSucceeded, BuildFailed)):
            self.result = message
            self._state_deadline = time.monotonic() + ENDING_TIMEOUT_S
        self._observe(message)

    def _greet(self, hello: Hello, build_id: str) -> None:
        if self.hello is not None:
            raise ProtocolError("the executor said Hello twice")
        if hello.version != PROTOCOL_VERSION or hello.build_id != build_id:
            raise ProtocolError(
                f"the executor speaks version {hello.version} of the protocol for another build, not version {PROTOCOL_VERSION}"
            )
        self.hello = hello
        self._state_deadline = None

    def _death(self, oom_kills_before: int) -> SandboxbuildError:
        """Why the channel ended without a result."""
        try:
            status = self._sandbox.wait(5.0)
        except TimeoutError:
            return ProtocolError("the executor closed its channel without a result")
        if status == 137 and count_oom_kills() > oom_kills_before:
            return LimitExceeded(
                "the build ran out of memory, and the kernel killed the executor",
                hint="give the machine more memory, or --jobs=1",
            )
        if status > 128:
            return SandboxbuildError(
                f"the executor was killed by signal {status - 128}", hint="nothing of the build is left; run it again"
            )
        last = bytes(self.log).decode("utf-8", "replace").strip().rpartition("\n")[2]
        return ProtocolError(f"the executor ended with status {status} and no result: {last or 'it said nothing'}")


def _framed_request(request: BuildRequest) -> bytes:
    payload = encode(request)
    if len(payload) > REQUEST_LIMIT_BYTES:
        raise LimitExceeded(f"the request has {len(payload)} bytes, and the limit is {REQUEST_LIMIT_BYTES}")
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


_REPORTED: Final = {
    cls.__name__: cls
    for cls in (
        errors.UsageError,
        errors.InputError,
        errors.ContextError,
        errors.PolicyError,
        errors.RegistryError,
        errors.IntegrityError,
        errors.IsolationError,
        errors.LimitExceeded,
        errors.BuildTimeout,
        errors.ProtocolError,
    )
}


def error_from(failed: BuildFailed) -> SandboxbuildError:
    """The executor's failure as an exception of ours; the exit code is that of the class, whatever the executor says."""
    if failed.error == "StepFailed":
        return errors.StepFailed(failed.message, status=failed.status, span=failed.span, source=failed.source, hint=failed.hint)
    if failed.error == "DockerfileError":
        return errors.DockerfileError(failed.message, span=failed.span, source=failed.source, hint=failed.hint)
    return _REPORTED.get(failed.error, SandboxbuildError)(failed.message, hint=failed.hint)


def count_oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since boot (proc_vmstat, oom_kill); 0 where it doesn't say."""
    try:
        with open("/proc/vmstat", "rb") as stream:
            for line in stream:
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
