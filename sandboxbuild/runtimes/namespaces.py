"""The plain driver: the kernel's own namespaces, no runtime installed, root or not."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO, Final

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import IdRange, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.enter import CHANNEL_FD, clone_source
from sandboxbuild.system import channels, idmap, namespaces

_PATIENCE_S: Final = 5.0  # for the helper to end a sandbox before it is killed itself
_PACKAGE_PARENT: Final = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_BOOT: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from sandboxbuild.runtimes import enter; sys.exit(enter.main())"
)
_DOCTOR: Final = "`sandboxbuild doctor` says what this host lacks and the command that would mend it"


class NamespacesRuntime:
    """Runtime over unshare(2). `python` is the interpreter that runs the helper, on the host and with the launcher's rights:
    never one from a folder that a sandbox can write to.
    """

    name = "namespaces"

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def launch(self, spec: SandboxSpec) -> NamespacesSandbox:
        """Start the executor; returns when its program has been executed. Raises IsolationError."""
        ours, theirs = channels.pair()
        pipes = [os.pipe() for _ in range(3)]
        inner = [pipes[0][0], pipes[1][1], pipes[2][1]]
        outer = [pipes[0][1], pipes[1][0], pipes[2][0]]
        try:
            pid = self._spawn([*inner, theirs.fileno()])
        except OSError as error:
            ours.close()
            for fd in outer:
                os.close(fd)
            raise IsolationError(f"{self._python} can't be started: {error.strerror}", hint=_DOCTOR) from error
        finally:
            theirs.close()
            for fd in inner:
                os.close(fd)
        sandbox = NamespacesSandbox(pid, ours, outer)
        try:
            _arrange(spec, pid, ours)
        except BaseException:
            sandbox.close()
            raise
        return sandbox

    def _spawn(self, descriptors: Sequence[int]) -> int:
        """Start the helper with `descriptors` as 0, 1, 2 and CHANNEL_FD. No code of ours runs between fork and exec."""
        # The sources may lie where the targets are, so they first move out of the way.
        high = [os.dup(fd) for fd in descriptors]
        moved = [_duplicate_above(fd, CHANNEL_FD + 1) for fd in high]
        for fd in high:
            os.close(fd)
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(moved)]
        try:
            return os.posix_spawn(
                self._python,
                [self._python, "-I", "-S", "-E", "-c", _BOOT, _PACKAGE_PARENT],
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


def _arrange(spec: SandboxSpec, pid: int, channel: channels.Channel) -> None:
    """Speak with the helper until the executor runs."""
    privileged = os.geteuid() == 0
    groups_denied = not privileged and sum(entry.length for entry in spec.gid_ranges) == 1
    channel.send(
        {
            "argv": list(spec.argv),
            "environment": dict(spec.environment),
            "gids": _identical(spec.gid_ranges),
            "groups_denied": groups_denied,
            "identity": spec.identity,
            "mounts": [(mount.source, mount.target, mount.writable) for mount in spec.mounts],
            "network": spec.network,
            "uids": _identical(spec.uid_ranges),
        }
    )
    _expect(channel, "unshared")
    _write_maps(pid, spec, privileged=privileged, groups_denied=groups_denied)
    clones = _clone_mounts(spec.mounts, pid) if privileged else []
    try:
        channel.send(("mapped",), clones)
    finally:
        for fd in clones:
            os.close(fd)
    _expect(channel, "started")


def _identical(ranges: Sequence[IdRange]) -> list[tuple[int, int, int]]:
    """Inside ids to themselves. An extent must lie in one extent of the parent's map (user_namespaces(7)), so the cuts stay."""
    return [(entry.inside, entry.inside, entry.length) for entry in ranges]


def _expect(channel: channels.Channel, word: str) -> None:
    try:
        received = channel.receive()
    except OSError as error:
        raise IsolationError("the helper that sets the sandbox up ended at once", hint=_DOCTOR) from error
    if received is None:
        raise IsolationError("the helper that sets the sandbox up ended at once", hint=_DOCTOR)
    message = received[0]
    if message[0] == "error":
        raise IsolationError(message[1], hint=message[2] or _DOCTOR)
    if message[0] != word:
        raise IsolationError(f"the helper said {message[0]!r} in place of {word!r}", hint="this is a bug of sandboxbuild")


def _write_maps(pid: int, spec: SandboxSpec, *, privileged: bool, groups_denied: bool) -> None:
    try:
        if privileged or groups_denied:
            namespaces.write_maps(pid, spec.uid_ranges, spec.gid_ranges, deny_setgroups=groups_denied)
        else:
            _map_with_tools(pid, spec)
    except OSError as error:
        raise IsolationError(f"the sandbox's ids can't be mapped: {error.strerror}", hint=_DOCTOR) from error


def _map_with_tools(pid: int, spec: SandboxSpec) -> None:
    """By the set-user-id programs of the shadow suite, which check /etc/subuid and /etc/subgid."""
    tools = idmap.newuidmap_paths()
    if tools is None:
        raise IsolationError("newuidmap and newgidmap are missing", hint="install the package uidmap (Debian) or shadow-utils")
    for tool, ranges in zip(tools, (spec.uid_ranges, spec.gid_ranges), strict=True):
        text = _output_of([tool, str(pid), *(str(number) for entry in ranges for number in entry)])
        if text is not None:
            raise IsolationError(f"{os.path.basename(tool)} refused: {text}", hint=_DOCTOR)


def _output_of(argv: list[str]) -> str | None:
    """What a program says when it fails; None if it succeeds."""
    read_end, write_end = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_DUP2, write_end, 2)]
        pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions)
    finally:
        os.close(write_end)
    said = os.read(read_end, 4096).decode(errors="replace").strip()
    os.close(read_end)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if status == 0 else said or f"exit status {status}"


def _clone_mounts(wanted: Sequence[SandboxMount], pid: int) -> list[int]:
    """Detached mounts, made with root's sight of the host: the helper has lost that already."""
    userns = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    clones: list[int] = []
    try:
        for mount in wanted:
            clones.append(_clone_one(mount, userns))
    except BaseException:
        for fd in clones:
            os.close(fd)
        raise
    finally:
        os.close(userns)
    return clones


def _clone_one(mount: SandboxMount, userns: int) -> int:
    try:
        return clone_source(mount.source, mount.writable, userns if mount.idmapped else None)
    except OSError as error:
        if mount.idmapped and os.path.exists(mount.source):
            raise IsolationError(
                f"{mount.source} can't be mounted with mapped ids: {error.strerror}",
                hint="its filesystem or kernel lacks id-mapped mounts; use ext4, xfs, btrfs or tmpfs, or a copy",
            ) from error
        raise IsolationError(f"{mount.source} can't be mounted into the sandbox: {error.strerror}", hint=_DOCTOR) from error


class NamespacesSandbox:
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


def id_ranges(plan: idmap.IdPlan) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]]:
    """The uid and gid ranges of a SandboxSpec."""
    return tuple(IdRange(*entry) for entry in plan.uids), tuple(IdRange(*entry) for entry in plan.gids)
