"""The id maps of a sandbox's outer user namespace, as the launcher writes them: by itself, or by newuidmap(1) for a user."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import IdRange, SandboxSpec
from sandboxbuild.runtimes.helper import DOCTOR
from sandboxbuild.system import idmap, namespaces


def has_single_id(spec: SandboxSpec) -> bool:
    """Whether a user maps no id but his own: then nobody in the sandbox may call setgroups(2)."""
    return os.geteuid() != 0 and sum(entry.length for entry in spec.gid_ranges) == 1


def identical(ranges: Sequence[IdRange]) -> tuple[IdRange, ...]:
    """Inside ids to themselves. An extent must lie in one extent of the parent's map (user_namespaces(7)), so the cuts stay."""
    return tuple(IdRange(entry.inside, entry.inside, entry.length) for entry in ranges)


def write_maps(pid: int, spec: SandboxSpec) -> None:
    """Map the ids of `spec` in the new user namespace of `pid`. Raises IsolationError."""
    try:
        if os.geteuid() == 0 or has_single_id(spec):
            namespaces.write_maps(pid, spec.uid_ranges, spec.gid_ranges, deny_setgroups=has_single_id(spec))
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
