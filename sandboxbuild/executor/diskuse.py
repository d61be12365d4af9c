"""What a step has written: bytes and inodes below the folders that it can write to, looked at while it runs and at its end.

A disk quota would bound it at once; no filesystem gives one to everybody. Looking bounds it by what is written between two
looks, and RLIMIT_FSIZE bounds each file. The tree is a stranger's and changes under us: it is walked by descriptors, links are
never followed, and what vanishes is left out.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from typing import Final

from sandboxbuild.system.files import open_directory

LOOK_S: Final = 0.2
_BLOCK_BYTES: Final = 512  # of st_blocks, stat(2)
_DEPTH_LIMIT: Final = 1000


class DiskUse:
    """Counts against limits of bytes and inodes; 0 is none. What lay in `folders` at first doesn't count."""

    def __init__(self, root: str, folders: Sequence[str], disk_bytes: int, inodes: int) -> None:
        """`root` is the step's own rootfs: what was deleted from it counts as long as it is open."""
        self._root = root
        self._folders = tuple(dict.fromkeys(folders))
        self._before_bytes = self._before_inodes = 0
        self._disk_bytes = disk_bytes
        self._inodes = inodes
        self._next_s = 0.0
        self._before_bytes, self._before_inodes = self._count(bounded=False)

    def exceeded(self) -> str:
        """The limit that has been met, disk or inodes; "" for neither."""
        try:
            used_bytes, used_inodes = self._count(bounded=True)
        except _TooDeep:
            return "inodes" if self._inodes else "disk"
        if self._inodes and used_inodes > self._inodes:
            return "inodes"
        # RLIMIT_FSIZE stops a file at the limit itself; a block is what its end may lack.
        return "disk" if self._disk_bytes and used_bytes + 4096 > self._disk_bytes else ""

    def look(self) -> str:
        """As exceeded(), but "" as long as the last look was a moment ago; large trees are looked at less often."""
        began = time.monotonic()
        if began < self._next_s:
            return ""
        found = self.exceeded()
        now = time.monotonic()
        self._next_s = now + max(LOOK_S, now - began)
        return found

    def _count(self, *, bounded: bool) -> tuple[int, int]:
        """Bytes and inodes that were added; with `bounded` only as far as is needed to know that there are too many."""
        used_bytes, used_inodes = -self._before_bytes, -self._before_inodes
        for size_bytes in self._every_size():
            used_inodes += 1
            used_bytes += size_bytes
            if bounded and (0 < self._inodes < used_inodes or 0 < self._disk_bytes < used_bytes):
                break
        return used_bytes, used_inodes

    def _every_size(self) -> Iterator[int]:
        for folder in self._folders:
            yield from _sizes(folder)
        yield from _deleted(os.stat(self._root).st_dev)


class _TooDeep(Exception):
    """Folders within folders beyond what a walk follows."""


def _sizes(folder: str) -> Iterator[int]:
    """The disk space in bytes of each entry below `folder`; of a file with several links once. Raises _TooDeep."""
    seen: set[tuple[int, int]] = set()
    stack: list[_Listing] = []
    try:
        stack.append(_Listing(folder, None))
        while stack:
            entry = stack[-1].next()
            if entry is None:
                stack.pop().close()
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    stack.append(_Listing(entry.name, stack[-1].fd))
            except OSError:
                continue  # gone meanwhile
            yield _new_size(status, seen)
            if len(stack) > _DEPTH_LIMIT:
                raise _TooDeep
    except OSError:
        return  # the folder itself isn't there
    finally:
        for listing in stack:
            listing.close()


class _Listing:
    """An open folder and what is still to be seen of it, a little at a time: it may have millions of names."""

    __slots__ = ("_entries", "fd")

    def __init__(self, name: str, parent_fd: int | None) -> None:
        self.fd = open_directory(name, parent_fd)
        self._entries = os.scandir(self.fd)

    def next(self) -> os.DirEntry[str] | None:
        try:
            return next(self._entries, None)
        except OSError:
            return None

    def close(self) -> None:
        self._entries.close()
        os.close(self.fd)


def _new_size(status: os.stat_result, seen: set[tuple[int, int]]) -> int:
    if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
        inode = (status.st_dev, status.st_ino)
        if inode in seen:
            return 0
        seen.add(inode)
    return status.st_blocks * _BLOCK_BYTES


def _deleted(device: int) -> Iterator[int]:
    """The disk space of files on `device` without a name that some process still has open: a step's own look at no folder."""
    seen: set[tuple[int, int]] = set()
    for process in filter(str.isdecimal, os.listdir("/proc")):
        folder = f"/proc/{process}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # ended, or none of a step's
        for name in names:
            try:
                status = os.stat(f"{folder}/{name}")
            except OSError:
                continue
            inode = (status.st_dev, status.st_ino)
            if status.st_nlink == 0 and status.st_dev == device and stat.S_ISREG(status.st_mode) and inode not in seen:
                seen.add(inode)
                yield status.st_blocks * _BLOCK_BYTES
