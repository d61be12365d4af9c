"""The plain driver: the kernel's own namespaces, no runtime installed, root or not."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import IdRange, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.enter import clone_source
from sandboxbuild.runtimes.helper import DOCTOR, HelperSandbox, expect, start_helper
from sandboxbuild.runtimes.idmaps import has_single_id, identical, write_maps
from sandboxbuild.system import cgroups, channels, idmap

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
    channel.send(
        {
            "argv": list(spec.argv),
            "environment": dict(spec.environment),
            "gids": [tuple(entry) for entry in identical(spec.gid_ranges)],
            "groups_denied": has_single_id(spec),
            "identity": spec.identity,
            "mounts": [(mount.source, mount.target, mount.writable) for mount in spec.mounts],
            "network": spec.network,
            "uids": [tuple(entry) for entry in identical(spec.uid_ranges)],
        }
    )
    expect(channel, "unshared")
    write_maps(pid, spec)
    clones = _clone_mounts(spec.mounts, pid) if privileged else []
    try:
        channel.send(("mapped",), clones)
    finally:
        for fd in clones:
            os.close(fd)
    expect(channel, "started")


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
