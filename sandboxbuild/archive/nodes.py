"""Devices in trees where none can be made: a user namespace has no right to mknod, so an empty file stands in for one.

The stand-in carries what it stands for in an extended attribute; scanning reads it back as the device.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

PLACEHOLDER_XATTR: Final = "user.sandboxbuild.node"
_LETTERS: Final = {stat.S_IFCHR: b"c", stat.S_IFBLK: b"b"}
_MAX_MAJOR: Final = (1 << 12) - 1
_MAX_MINOR: Final = (1 << 20) - 1


def make_node(directory_fd: int, name: bytes, kind: int, rdev: tuple[int, int]) -> None:
    """Make the FIFO or device `name`; `kind` is S_IFIFO, S_IFCHR or S_IFBLK. Its owner, mode and times are the caller's to set.

    A device becomes a stand-in where the kernel refuses; 0:0 always does, as that number means a whiteout to overlay.
    Raises FileExistsError; ValueError for numbers that Linux doesn't have.
    """
    if not (0 <= rdev[0] <= _MAX_MAJOR and 0 <= rdev[1] <= _MAX_MINOR):
        raise ValueError(f"no device has the number {rdev[0]}:{rdev[1]}")
    if kind == stat.S_IFIFO:
        os.mkfifo(name, 0o600, dir_fd=directory_fd)
        return
    if rdev != (0, 0):
        try:
            os.mknod(name, kind | 0o600, os.makedev(*rdev), dir_fd=directory_fd)
            return
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP):
                raise
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=directory_fd)
    try:
        os.setxattr(fd, PLACEHOLDER_XATTR, b"%b %d %d" % (_LETTERS[kind], *rdev))
    finally:
        os.close(fd)


def make_whiteout(directory_fd: int, name: bytes) -> None:
    """Make a character device 0:0, which hides `name` of lower layers; no right is needed (mknod(2), Linux 5.8)."""
    os.mknod(name, stat.S_IFCHR, 0, dir_fd=directory_fd)


def is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def read_placeholder(value: bytes) -> tuple[int, tuple[int, int]] | None:
    """The type bits and device number that a stand-in's attribute holds, or None if a stranger wrote it."""
    letter, _, numbers = value.partition(b" ")
    major, _, minor = numbers.partition(b" ")
    kind = {b"c": stat.S_IFCHR, b"b": stat.S_IFBLK}.get(letter)
    if kind is None or not (major.isdigit() and minor.isdigit()) or len(numbers) > 16:
        return None
    rdev = int(major), int(minor)
    return (kind, rdev) if rdev[0] <= _MAX_MAJOR and rdev[1] <= _MAX_MINOR else None
