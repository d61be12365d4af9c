"""[syscalls]: which filter a step gets. The filters themselves are files in the moby JSON format."""

from __future__ import annotations

import posixpath
import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, model_validator

from sandboxbuild.policy.isolation import SyscallChoice
from sandboxbuild.policy.network import Section

_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,63}", re.ASCII)

# Calls that reach outside a step's confinement, or deep into the kernel; no policy opens them.
NEVER: Final = frozenset(
    """acct add_key bpf clock_settime clone3 create_module delete_module finit_module fsconfig fsmount fsopen fspick init_module
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kexec_file_load kexec_load keyctl mount mount_setattr move_mount
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_vm_readv process_vm_writev quotactl quotactl_fd
    reboot request_key setns settimeofday swapoff swapon syslog umount umount2 unshare userfaultfd vhangup""".split()  # noqa: SIM905
)


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a system call")
    return name


def _check_file(path: str) -> str:
    if not path or "\0" in path or not path.endswith(".json"):
        raise ValueError(f"{path!r} is no file in the moby JSON format")
    return path


def _check_allowed(name: str) -> str:
    if _check_name(name) in NEVER:
        raise ValueError(f"{name} is never allowed to a step")
    return name


Names = list[Annotated[str, AfterValidator(_check_name)]]
Allowable = list[Annotated[str, AfterValidator(_check_allowed)]]


class Syscalls(Section):
    """A packaged filter, or a file; `deny` takes calls away from it, `allow` adds some."""

    profile: Literal["default", "strict"] | None = None
    file: Annotated[str, AfterValidator(_check_file)] | None = None
    allow: Allowable = []
    deny: Names = []

    @model_validator(mode="after")
    def _agrees(self) -> Syscalls:
        if self.profile and self.file:
            raise ValueError("profile and file are both given")
        both = set(self.allow) & set(self.deny)
        if both:
            raise ValueError(f"{min(both)} is allowed and denied")
        return self

    def value(self, folder: str) -> SyscallChoice:
        """A relative file is relative to the policy's folder."""
        file = posixpath.normpath(posixpath.join(folder, self.file)) if self.file else ""
        return SyscallChoice("" if file else self.profile or "default", file, tuple(self.allow), tuple(self.deny))
