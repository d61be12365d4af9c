"""Capabilities of the calling process: names, masks, and setting all five sets rather than keeping them (capabilities(7))."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from typing import Final

from sandboxbuild.system import libc

# Bit numbers are positions: include/uapi/linux/capability.h.
NAMES: Final = (
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
)
SYS_ADMIN: Final = 1 << NAMES.index("SYS_ADMIN")

# The id that a program started as 0 is to take by itself, from a runtime that gives capabilities to nobody else.
IDENTITY_VARIABLE: Final = "SANDBOXBUILD_IDENTITY"

_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT = 23, 24, 8, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4


def mask(names: Iterable[str]) -> int:
    """Capabilities without CAP_ as a bit mask. Raises ValueError for a name that isn't one."""
    result = 0
    for name in names:
        if name not in NAMES:
            raise ValueError(f"no capability is called {name!r}")
        result |= 1 << NAMES.index(name)
    return result


def last_of_kernel() -> int:
    """The highest capability that this kernel knows."""
    number = len(NAMES) - 1
    while _in_bounding_set(number + 1) is not None:
        number += 1
    while number and _in_bounding_set(number) is None:
        number -= 1
    return number


def _in_bounding_set(number: int) -> bool | None:
    try:
        return libc.prctl(_PR_CAPBSET_READ, number) == 1
    except OSError as error:
        if error.errno == errno.EINVAL:
            return None
        raise


def limit_bounding_set(allowed: int) -> None:
    """Drop from the bounding set all that is not in `allowed`, unknown newer ones too. Needs SETPCAP."""
    for number in range(last_of_kernel() + 1):
        if not allowed >> number & 1 and _in_bounding_set(number):
            libc.prctl(_PR_CAPBSET_DROP, number)


def set_own(allowed: int) -> None:
    """Permitted and effective become exactly `allowed`; inheritable and ambient become empty."""
    clear_ambient()
    libc.capset(allowed, allowed, 0)


def clear_ambient() -> None:
    """EINVAL is a kernel without an ambient set, such as gVisor's: then there is nothing to clear."""
    try:
        libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def keep_across_exec() -> None:
    """Keep every capability that the process may have when a program starts that is neither root's nor marked (ambient)."""
    everything = (1 << last_of_kernel() + 1) - 1
    libc.capset(everything, everything, everything)
    for number in range(everything.bit_length()):
        libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number)


def take_identity() -> None:
    """Become the id that the environment names, if any, with every capability that uid 0 had; the variable is gone then."""
    identity = int(os.environ.pop(IDENTITY_VARIABLE, "0"))
    if not identity or os.geteuid() == identity:
        return
    os.setgroups([])
    libc.prctl(_PR_SET_KEEPCAPS, 1)
    os.setresgid(identity, identity, identity)
    os.setresuid(identity, identity, identity)
    everything = (1 << last_of_kernel() + 1) - 1
    libc.capset(everything, everything, 0)
