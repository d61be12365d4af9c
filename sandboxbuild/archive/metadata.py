"""Owner, mode, attributes and times of what was just made: through descriptors, in the one order that keeps them all.

chown(2) clears set-id bits and file capabilities, so it comes first; writing clears them too, so content comes before.
"""

from __future__ import annotations

import errno
import os
import stat

from sandboxbuild.archive.directories import shown
from sandboxbuild.archive.scan import CAPABILITY_STAND_IN, CAPABILITY_XATTR, keeps_xattr
from sandboxbuild.errors import IsolationError, SandboxbuildError
from sandboxbuild.system.files import link_path

_LARGEST_ID = 0xFFFFFFFE  # 0xFFFFFFFF means "leave it" to chown(2)
_UNMAPPED = (errno.EINVAL, errno.EPERM, errno.EOVERFLOW)


class Metadata:
    """What an entry's inode is to have; `path` is for messages."""

    __slots__ = ("gid", "mode", "mtime_ns", "path", "uid", "xattrs")

    def __init__(
        self, path: bytes, mode: int, uid: int, gid: int, mtime_ns: int, xattrs: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        self.path = path
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.xattrs = xattrs


def settle(fd: int, wanted: Metadata) -> None:
    """Give an open file or directory (not O_PATH) its metadata, times last. Raises SandboxbuildError, OSError."""
    try:
        os.fchown(fd, wanted.uid, wanted.gid)
    except (OSError, OverflowError) as error:
        raise _unmapped(error, wanted) from error
    os.fchmod(fd, wanted.mode)
    for name, value in wanted.xattrs:
        if keeps_xattr(name):
            _set_xattr(fd, name, value, wanted.path)
    os.utime(fd, ns=(wanted.mtime_ns, wanted.mtime_ns))


def settle_link(directory_fd: int, name: bytes, wanted: Metadata) -> None:
    """Give a symbolic link its owner and times; it has no mode, and no attributes that a layer keeps."""
    try:
        os.chown(name, wanted.uid, wanted.gid, dir_fd=directory_fd, follow_symlinks=False)
    except (OSError, OverflowError) as error:
        raise _unmapped(error, wanted) from error
    os.utime(name, ns=(wanted.mtime_ns, wanted.mtime_ns), dir_fd=directory_fd, follow_symlinks=False)


def settle_node(directory_fd: int, name: bytes, wanted: Metadata) -> None:
    """Give a FIFO, a device or its stand-in its owner, mode and times, without opening it."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
    try:
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        place = link_path(fd)
        try:
            os.chown(place, wanted.uid, wanted.gid)
        except (OSError, OverflowError) as error:
            raise _unmapped(error, wanted) from error
        os.chmod(place, wanted.mode)
        os.utime(place, ns=(wanted.mtime_ns, wanted.mtime_ns))
    finally:
        os.close(fd)


def check_ids(uid: int, gid: int, path: bytes) -> None:
    """Refuse ids that no Linux has; chown(2) would take one of them for "leave it as it is"."""
    if uid > _LARGEST_ID or gid > _LARGEST_ID:
        raise IsolationError(f"{shown(path)} belongs to {uid}:{gid}, which is no user of Linux")


def _unmapped(error: OSError | OverflowError, wanted: Metadata) -> Exception:
    if isinstance(error, OSError) and error.errno not in _UNMAPPED:
        return error
    return IsolationError(
        f"{shown(wanted.path)} belongs to {wanted.uid}:{wanted.gid}, an owner that this build can't give a file",
        hint="root's builds have the ids below 2^28, a user's those of subuid(5), and without subordinate ids only 0",
    )


def _set_xattr(fd: int, name: str, value: bytes, path: bytes) -> None:
    try:
        os.setxattr(fd, name, value)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        if name == CAPABILITY_XATTR and error.errno == errno.EOPNOTSUPP:
            os.setxattr(fd, CAPABILITY_STAND_IN, value)  # gVisor has no file capabilities; the layer keeps them
            return
        raise SandboxbuildError(
            f"{shown(path)} can't get its attribute {name!a}: {error.strerror}",
            hint="the store has to lie on a filesystem that holds extended attributes",
        ) from error
