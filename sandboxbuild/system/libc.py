"""The C library's door to the kernel, for the calls that Python's os module lacks. The only importer of ctypes.

Each function is one system call, raises OSError, and knows nothing of images. Numbers above 423 are the same on every
architecture (syscalls(2)); older calls go through glibc's own wrappers where those exist.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
AT_SYMLINK_NOFOLLOW: Final = 0x100

_lib = ctypes.CDLL(None, use_errno=True)
_syscall = _lib.syscall
_syscall.restype = ctypes.c_long

_MACHINE: Final = os.uname().machine
# pivot_root, keyctl, seccomp, rt_sigaction: their numbers differ by architecture; -1 is ENOSYS.
_NR_BY_MACHINE: Final = {
    "x86_64": (155, 250, 317, 13),
    "aarch64": (41, 219, 277, 134),
    "riscv64": (41, 219, 277, 134),
    "ppc64le": (203, 271, 358, 173),
    "s390x": (217, 280, 348, 174),
}
_NR_PIVOT_ROOT, _NR_KEYCTL, _NR_SECCOMP, _NR_RT_SIGACTION = _NR_BY_MACHINE.get(_MACHINE, (-1, -1, -1, -1))
_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429
_NR_FSOPEN: Final = 430
_NR_FSCONFIG: Final = 431
_NR_FSMOUNT: Final = 432
_NR_CLOSE_RANGE: Final = 436
_NR_OPENAT2: Final = 437
_NR_MOUNT_SETATTR: Final = 442

_SOL_SOCKET, _SO_ATTACH_FILTER = 1, 26  # asm-generic/socket.h
_OpenHow = ctypes.c_uint64 * 3
_MountAttr = ctypes.c_uint64 * 4


def _error(filename: str | bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), filename)


def _call(number: int, *args: object) -> int:
    """One raw system call. Integers pass as longs: the kernel reads all 64 bits of a register."""
    result = int(_syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in args)))
    if result < 0:
        raise _error()
    return result


def _path(path: str | bytes | None) -> ctypes.c_char_p:
    encoded = None if path is None else os.fsencode(path)
    if encoded is not None and b"\0" in encoded:
        raise ValueError("a path holds a zero byte")
    return ctypes.c_char_p(encoded)


def openat2(dir_fd: int, path: str | bytes, flags: int, mode: int, resolve: int) -> int:
    """openat2(2), Linux 5.6. O_CLOEXEC is always set."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    fd = int(
        _syscall(
            ctypes.c_long(_NR_OPENAT2),
            ctypes.c_long(dir_fd),
            _path(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
    )
    if fd < 0:
        raise _error(path)
    return fd


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None) -> None:
    """mount(2)."""
    if _lib.mount(_path(source), _path(target), _path(kind), ctypes.c_ulong(flags), _path(options)) != 0:
        raise _error(target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)."""
    if _lib.umount2(_path(target), ctypes.c_int(flags)) != 0:
        raise _error(target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _call(_NR_PIVOT_ROOT, _path(new_root), _path(put_old))


def open_tree(dir_fd: int, path: str, flags: int) -> int:
    """open_tree(2), Linux 5.2."""
    return _call(_NR_OPEN_TREE, dir_fd, _path(path), flags)


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """move_mount(2), Linux 5.2."""
    _call(_NR_MOVE_MOUNT, from_fd, _path(from_path), to_fd, _path(to_path), flags)


def fsopen(kind: str, flags: int) -> int:
    """fsopen(2), Linux 5.2."""
    return _call(_NR_FSOPEN, _path(kind), flags)


def fsconfig(fs_fd: int, command: int, key: str | None, value: str | None, aux: int = 0) -> None:
    """fsconfig(2), Linux 5.2."""
    _call(_NR_FSCONFIG, fs_fd, command, _path(key), _path(value), aux)


def fsmount(fs_fd: int, flags: int, attributes: int) -> int:
    """fsmount(2), Linux 5.2."""
    return _call(_NR_FSMOUNT, fs_fd, flags, attributes)


def mount_setattr(dir_fd: int, path: str, flags: int, *, attr_set: int = 0, attr_clear: int = 0, userns_fd: int = 0) -> None:
    """mount_setattr(2), Linux 5.12. `userns_fd` counts only with MOUNT_ATTR_IDMAP in `attr_set`."""
    attributes = _MountAttr(attr_set, attr_clear, 0, userns_fd)
    _call(
        _NR_MOUNT_SETATTR,
        dir_fd,
        _path(path),
        flags,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def unshare(flags: int) -> None:
    """unshare(2)."""
    if _lib.unshare(ctypes.c_int(flags)) != 0:
        raise _error()


def setns(fd: int, kind: int) -> None:
    """setns(2)."""
    if _lib.setns(ctypes.c_int(fd), ctypes.c_int(kind)) != 0:
        raise _error()


def sethostname(name: bytes) -> None:
    """sethostname(2)."""
    if _lib.sethostname(ctypes.c_char_p(name), ctypes.c_size_t(len(name))) != 0:
        raise _error()


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) with integer arguments."""
    result = int(_lib.prctl(ctypes.c_int(option), *(ctypes.c_ulong(a) for a in (arg2, arg3, arg4, arg5))))
    if result < 0:
        raise _error()
    return result


def prctl_text(option: int, text: bytes) -> None:
    """prctl(2) with a string as its argument."""
    if _lib.prctl(ctypes.c_int(option), ctypes.c_char_p(text), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise _error()


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2), version 3: the calling thread's sets as bit masks."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    low, high = 0xFFFFFFFF, 32
    sets = (effective, permitted, inheritable)
    body = (ctypes.c_uint32 * 6)(*(s & low for s in sets), *(s >> high for s in sets))
    if _lib.capset(ctypes.byref(header), ctypes.byref(body)) != 0:
        raise _error()


def keyctl(operation: int, arg2: int = 0) -> int:
    """keyctl(2) for operations of one argument (a null pointer counts as 0)."""
    return _call(_NR_KEYCTL, operation, arg2, 0, 0, 0)


def seccomp(operation: int, flags: int, program: bytes) -> None:
    """seccomp(2) with a program made of `struct sock_filter`s, 8 bytes each."""
    _call(_NR_SECCOMP, operation, flags, ctypes.byref(_bpf_program(program)))


def attach_filter(fd: int, program: bytes) -> None:
    """setsockopt(2), SO_ATTACH_FILTER: only packets that the program takes come to the socket (socket(7))."""
    block = _bpf_program(program)
    if _lib.setsockopt(fd, _SOL_SOCKET, _SO_ATTACH_FILTER, ctypes.byref(block), ctypes.c_uint(ctypes.sizeof(block))) != 0:
        raise _error()


def _bpf_program(program: bytes) -> ctypes.Structure:
    """struct sock_fprog over an array of `struct sock_filter`s, which it keeps alive."""

    class _Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.c_char_p))

    if not program or len(program) % 8 or len(program) // 8 > 0xFFFF:
        raise ValueError("a BPF program is a non-empty array of 8-byte instructions")
    return _Program(len(program) // 8, program)


def close_range(first: int, last: int) -> None:
    """close_range(2), Linux 5.9."""
    _call(_NR_CLOSE_RANGE, first, last, 0)


def default_signal(number: int) -> None:
    """rt_sigaction(2) to SIG_DFL, for the two signals that the C library keeps from its callers."""
    _call(_NR_RT_SIGACTION, number, (ctypes.c_uint64 * 8)(), None, 8)


def renameat2(old_dir_fd: int, old: bytes, new_dir_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2); flags 1 is RENAME_NOREPLACE, 2 RENAME_EXCHANGE."""
    if _lib.renameat2(ctypes.c_int(old_dir_fd), _path(old), ctypes.c_int(new_dir_fd), _path(new), ctypes.c_uint(flags)) != 0:
        raise _error(new)


def syncfs(fd: int) -> None:
    """syncfs(2)."""
    if _lib.syncfs(ctypes.c_int(fd)) != 0:
        raise _error()
