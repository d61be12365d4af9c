"""The executor's entry point: a request comes in on standard input, events go out on standard output, the end is
always said."""

from __future__ import annotations

import os
import sys
import threading
import traceback

from sandboxbuild.errors import (
    DockerfileError,
    Interrupted,
    LimitExceeded,
    SandboxbuildError,
    StepFailed,
)
from sandboxbuild.executor.channel import EventChannel
from sandboxbuild.executor.run import StepRunner, Zygote
from sandboxbuild.executor.stepgroups import AskedGroups
from sandboxbuild.protocol.channel import EventWriter, read_request
from sandboxbuild.protocol.events import BuildFailed
from sandboxbuild.protocol.frames import FrameBuffer
from sandboxbuild.protocol.request import BuildRequest
from sandboxbuild.system.capabilities import take_identity

OUT_OF_DISK = frozenset({28, 122})  # ENOSPC, EDQUOT


def main() -> int:
    """Always ends with BuildSucceeded or BuildFailed, unless it is killed; the exit status is 0 then."""
    take_identity()
    zygote = Zygote.start()
    runner = StepRunner(zygote)
    request = read_request(sys.stdin.buffer)
    writer = EventWriter(sys.stdout.buffer, request.build_id)
    channel = EventChannel(writer.write)
    groups = AskedGroups(writer.ask)
    _listen_to_the_launcher(groups)
    try:
        _build(request, runner, channel, groups)
    except Exception as error:  # the one place where everything that went wrong is said
        channel.emit(failure(error, channel.failed_vertex))
    return 0


def _build(request: BuildRequest, runner: StepRunner, channel: EventChannel, groups: AskedGroups) -> None:
    from sandboxbuild.executor.build import build  # after the zygote, which stays small

    channel.emit(build(request, runner, channel, groups if request.step_groups else None))


def failure(error: Exception, vertex: int) -> BuildFailed:
    """What a user is told of an error. One that we didn't foresee is a bug, and its trace goes to the log."""
    if isinstance(error, SandboxbuildError):
        known = error
    elif isinstance(error, OSError) and error.errno in OUT_OF_DISK:
        known = LimitExceeded(f"the disk is full: {error.filename or 'the store'}", hint="free space, or `sandboxbuild prune`")
    elif isinstance(error, MemoryError):
        known = LimitExceeded("the executor is out of memory")
    else:
        traceback.print_exception(error, file=sys.stderr)
        known = SandboxbuildError(f"{type(error).__name__}: {error}", hint="this is a bug of sandboxbuild; please report it")
    located = known if isinstance(known, (DockerfileError, StepFailed)) else None
    return BuildFailed(
        error=public_name(known),
        exit_code=known.exit_code,
        message=known.message,
        hint=known.hint,
        span=located.span if located else None,
        source=located.source if located else "",
        vertex=vertex,
        status=known.status if isinstance(known, StepFailed) else 0,
        tail=b"",
    )


def public_name(error: SandboxbuildError) -> str:
    """The class by which the launcher knows it: the error's own, or the nearest above that lives in `errors`."""
    return next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == SandboxbuildError.__module__)


def _listen_to_the_launcher(groups: AskedGroups) -> None:
    """Take its answers, and end at once, with all that is below, when it closes standard input or dies."""

    def listen() -> None:
        heard = FrameBuffer()
        try:
            while data := os.read(0, 4096):
                for payload in heard.feed(data):
                    groups.hear(payload)
        finally:
            os._exit(Interrupted("", signal_number=15).exit_code)

    threading.Thread(target=listen, name="launcher-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
