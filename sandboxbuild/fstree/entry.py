"""Entry: what lstat, readlink and listxattr say of one path, as a value."""

from __future__ import annotations

import stat
from typing import NamedTuple


class Entry(NamedTuple):
    """One file, directory, link or device.

    `path` is relative to the tree's root, bytes as the kernel has them, without a leading slash; b"" is the root.
    `mode` is st_mode whole (type and permission bits). `inode` is (st_dev, st_ino): equal pairs are hard links; (0, 0) is
    unknown. `rdev` is (major, minor) of a device. `xattrs` are sorted (name, value) pairs, overlay's own ones left out.
    """

    path: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    size_bytes: int = 0
    mtime_ns: int = 0
    link_target: bytes = b""
    rdev: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[str, bytes], ...] = ()
    inode: tuple[int, int] = (0, 0)
    link_count: int = 1
    ctime_ns: int = 0

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def is_device(self) -> bool:
        return stat.S_ISCHR(self.mode) or stat.S_ISBLK(self.mode)

    @property
    def permissions(self) -> int:
        return stat.S_IMODE(self.mode)
