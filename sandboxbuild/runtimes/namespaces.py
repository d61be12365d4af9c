"""The plain driver: the kernel's own namespaces, no runtime installed, root or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import IdRange, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.enter import clone_source
from sandboxbuild.runtimes.helper import DOCTOR, HelperSandbox, expect, start_helper
from sandboxbuild.system import cgroups, channels, idmap, namespaces

NamespacesSandbox = HelperSandbox


class NamespacesRuntime:
    """Runtime over unshare(2). `python` is the interpreter that runs the helper, on the host and with the launcher's rights:
    never one from a folder that a sandbox can write to.
    """

    name = "namespaces"

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def launch(self, spec: SandboxSpec) -> HelperSandbox:
        """Start the executor; returns when its program has been executed. Raises IsolationError."""
        sandbox, channel = start_helper(self._python, "enter")
        try:
            cgroups.join(spec.cgroups, sandbox.pid)
            _arrange(spec, sandbox.pid, channel)
        except BaseException:
            sandbox.close()
            raise
        return sandbox


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
    expect(channel, "unshared")
    _write_maps(pid, spec, privileged=privileged, groups_denied=groups_denied)
    clones = _clone_mounts(spec.mounts, pid) if privileged else []
    try:
        channel.send(("mapped",), clones)
    finally:
        for fd in clones:
            os.close(fd)
    expect(channel, "started")


def _identical(ranges: Sequence[IdRange]) -> list[tuple[int, int, int]]:
    """Inside ids to themselves. An extent must lie in one extent of the parent's map (user_namespaces(7)), so the cuts stay."""
    return [(entry.inside, entry.inside, entry.length) for entry in ranges]


def _write_maps(pid: int, spec: SandboxSpec, *, privileged: bool, groups_denied: bool) -> None:
    try:
        if privileged or groups_denied:
            namespaces.write_maps(pid, spec.uid_ranges, spec.gid_ranges, deny_setgroups=groups_denied)
        else:
            _map_with_tools(pid, spec)
    except OSError as error:
        raise IsolationError(f"the sandbox's ids can't be mapped: {error.strerror}", hint=DOCTOR) from error


def _map_with_tools(pid: int, spec: SandboxSpec) -> None:
    """By the set-user-id programs of the shadow suite, which check /etc/subuid and /etc/subgid."""
    tools = idmap.newuidmap_paths()
    if tools is None:
        raise IsolationError("newuidmap and newgidmap are missing", hint="install the package uidmap (Debian) or shadow-utils")
    for tool, ranges in zip(tools, (spec.uid_ranges, spec.gid_ranges), strict=True):
        text = _output_of([tool, str(pid), *(str(number) for entry in ranges for number in entry)])
        if text is not None:
            raise IsolationError(f"{os.path.basename(tool)} refused: {text}", hint=DOCTOR)


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
        raise IsolationError(f"{mount.source} can't be mounted into the sandbox: {error.strerror}", hint=DOCTOR) from error


def id_ranges(plan: idmap.IdPlan) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]]:
    """The uid and gid ranges of a SandboxSpec."""
    return tuple(IdRange(*entry) for entry in plan.uids), tuple(IdRange(*entry) for entry in plan.gids)
