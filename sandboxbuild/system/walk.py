"""openat2 in user space, for kernels without it (Linux before 5.6, gVisor): one component at a time, by descriptor.

Each step opens a name with O_NOFOLLOW below a descriptor that was reached the same way, so a rename or a swapped link can
change what is found but never lead out of the root: `..` goes back along the descriptors that were opened, not through the
filesystem, and a link's text is walked by the same rules.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

_MAX_LINKS: Final = 40  # path_resolution(7)
_MAX_PARTS: Final = 4096
_PATH_FLAGS: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def open_walking(root_fd: int, path: bytes, flags: int, mode: int, *, in_root: bool) -> int:
    """As openat2(2) with RESOLVE_IN_ROOT (`in_root`), else with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS."""
    if b"\0" in path:
        raise ValueError("a path holds a zero byte")
    if not in_root and path.startswith(b"/"):
        raise _error(errno.EXDEV, path)
    trail = [os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)]
    try:
        return _walk(trail, path, flags, mode, in_root)
    finally:
        for fd in trail:
            os.close(fd)


def _walk(trail: list[int], path: bytes, flags: int, mode: int, in_root: bool) -> int:
    pending = _parts(path)
    must_be_directory = path.endswith((b"/", b"/."))
    links = 0
    while pending:
        name = pending.pop()
        if name == b"..":
            _go_up(trail, in_root, path)
            continue
        last = not pending
        if last and (fd := _open_last(trail[-1], name, flags, mode, must_be_directory)) is not None:
            return fd
        target = _step(trail, name)
        if target is None:
            continue
        links += 1
        if not in_root or links > _MAX_LINKS or len(pending) > _MAX_PARTS:
            raise _error(errno.ELOOP, path)
        if target.startswith(b"/"):
            while len(trail) > 1:
                os.close(trail.pop())
        must_be_directory = must_be_directory or (last and target.endswith(b"/"))
        pending.extend(_parts(target))
    return os.open(".", flags & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW) | os.O_CLOEXEC, dir_fd=trail[-1])


def _parts(path: bytes) -> list[bytes]:
    """Components in reverse, so that the next one is at the end."""
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


def _go_up(trail: list[int], in_root: bool, path: bytes) -> None:
    if len(trail) > 1:
        os.close(trail.pop())
    elif not in_root:
        raise _error(errno.EXDEV, path)


def _step(trail: list[int], name: bytes) -> bytes | None:
    """Enter the directory `name`, or return the text of the link that it is. Raises ENOTDIR for anything else."""
    fd = os.open(name, _PATH_FLAGS, dir_fd=trail[-1])
    kind = os.fstat(fd).st_mode
    if stat.S_ISDIR(kind):
        trail.append(fd)
        return None
    try:
        if not stat.S_ISLNK(kind):
            raise _error(errno.ENOTDIR, name)
        return os.fsencode(os.readlink(b"", dir_fd=fd))
    finally:
        os.close(fd)


def _open_last(parent_fd: int, name: bytes, flags: int, mode: int, must_be_directory: bool) -> int | None:
    """Open the last component, or None if it is a link that has to be followed or a directory to enter first."""
    try:
        kind = os.lstat(name, dir_fd=parent_fd).st_mode
    except FileNotFoundError:
        kind = 0
    wants_link = bool(flags & os.O_NOFOLLOW) or flags & (os.O_CREAT | os.O_EXCL) == os.O_CREAT | os.O_EXCL
    if stat.S_ISLNK(kind) and (must_be_directory or not wants_link):
        return None
    if must_be_directory:
        flags |= os.O_DIRECTORY
    if flags & os.O_DIRECTORY and not flags & (os.O_PATH | os.O_TMPFILE ^ os.O_DIRECTORY):
        return _open_directory(parent_fd, name, flags)
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent_fd)


def _open_directory(parent_fd: int, name: bytes, flags: int) -> int:
    """In two steps: gVisor follows a link where O_DIRECTORY and O_NOFOLLOW come without O_PATH (files.open_directory)."""
    place = os.open(name, _PATH_FLAGS | os.O_DIRECTORY, dir_fd=parent_fd)
    try:
        return os.open(".", flags & ~os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)


def _error(number: int, path: bytes) -> OSError:
    return OSError(number, os.strerror(number), path)
