"""Namespaces: leaving the caller's, and the id maps of a new user namespace as its parent writes them (user_namespaces(7))."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final

from sandboxbuild.system import libc

NEWNS: Final = 0x00020000
NEWCGROUP: Final = 0x02000000
NEWUTS: Final = 0x04000000
NEWIPC: Final = 0x08000000
NEWUSER: Final = 0x10000000
NEWPID: Final = 0x20000000
NEWNET: Final = 0x40000000

# (inside, outside, length), as a line of /proc/PID/uid_map.
IdMap = Sequence[tuple[int, int, int]]

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER = 1, 4, 15, 38, 36
_KEYCTL_JOIN_SESSION_KEYRING: Final = 1
_C_LIBRARY_SIGNALS: Final = (32, 33)  # nptl(7)


def unshare(flags: int) -> None:
    """Give the calling process new namespaces; NEWPID is for its children. Fails with EINVAL for NEWUSER among threads."""
    libc.unshare(flags)


def map_text(ranges: IdMap) -> str:
    return "".join(f"{inside} {outside} {length}\n" for inside, outside, length in ranges)


def write_maps(pid: int, uids: IdMap, gids: IdMap, *, deny_setgroups: bool = False, proc: str = "/proc") -> None:
    """Write the id maps of `pid`'s new user namespace. Needs CAP_SETUID and CAP_SETGID where the outside ids live.

    A process that maps no more than its own ids needs neither, but has to give up setgroups(2). Raises OSError.
    """
    if deny_setgroups:
        _write(f"{proc}/{pid}/setgroups", "deny")
    _write(f"{proc}/{pid}/gid_map", map_text(gids))
    _write(f"{proc}/{pid}/uid_map", map_text(uids))


def _write(path: str, text: str) -> None:
    # One write: the kernel takes a map whole or not at all.
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def become(identity: int, *, groups_denied: bool = False) -> None:
    """Take `identity` as every uid and gid of the process, with no supplementary group; capabilities stay."""
    if not groups_denied:
        os.setgroups([])
    os.setresgid(identity, identity, identity)
    os.setresuid(identity, identity, identity)


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL when the parent ends; at once if it has already. An id change clears the setting: call after the last one.

    `parent_pid` is what os.getppid() gave before the fork's child could have lost it; a parent in an outer pid namespace is 0.
    """
    libc.prctl(_PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent_pid:
        os._exit(137)


def hide_from_tracers() -> None:
    """Make the process undumpable: its /proc entries belong to root and nobody without privilege over it may trace it."""
    libc.prctl(_PR_SET_DUMPABLE, 0)


def be_traceable() -> None:
    """Undo hide_from_tracers, for the moment in which a parent has to write this process's maps."""
    libc.prctl(_PR_SET_DUMPABLE, 1)


def set_name(name: str) -> None:
    """The name of this thread in ps, at most 15 bytes."""
    libc.prctl_text(_PR_SET_NAME, name.encode()[:15])


def forbid_new_privileges() -> None:
    """no_new_privs: set-user-id files lose their meaning from here on."""
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end."""
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def default_signals() -> None:
    """Every signal does what it does by default, and none is blocked. The main thread only."""
    import signal

    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    for reserved in _C_LIBRARY_SIGNALS:
        try:
            libc.default_signal(reserved)
        except OSError:
            pass  # an architecture whose number we don't know
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def leave_keyring() -> None:
    """A new, empty session keyring, where the kernel has keyrings and lets us."""
    try:
        libc.keyctl(_KEYCTL_JOIN_SESSION_KEYRING)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EDQUOT):
            raise


def close_descriptors(keep: Sequence[int]) -> None:
    """Close every descriptor that is not in `keep`."""
    first = 0
    for fd in [*sorted(set(keep)), 1 << 31]:
        if fd > first:
            _close_between(first, fd - 1)
        first = fd + 1


def _close_between(first: int, last: int) -> None:
    try:
        libc.close_range(first, last)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        os.closerange(first, min(last + 1, limit if limit > 0 else 1 << 20))
