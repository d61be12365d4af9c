"""Mount points in a stranger's rootfs: found or made by descriptor, and taken away again without a trace."""

from __future__ import annotations

import errno
import os
import stat

from sandboxbuild.executor.stepspec import Stub
from sandboxbuild.system import files

_MAX_LINKS = 40  # path_resolution(7)
_MAX_PARTS = 1024


class MadeStub:
    """A Stub with a descriptor of the directory that it is in."""

    __slots__ = ("parent_fd", "stub")

    def __init__(self, stub: Stub, parent_fd: int) -> None:
        self.stub = stub
        self.parent_fd = parent_fd


def open_target(root_fd: int, path: str, *, directory: bool, made: list[MadeStub]) -> int:
    """An O_PATH descriptor of the mount point `path` in the rootfs, made with its parents where it is missing.

    Links are followed inside the root, dangling ones too. What is made is added to `made`. Raises OSError: ENOTDIR or EISDIR
    where something of the other kind is in the way.
    """
    try:
        fd = files.open_in_root(root_fd, path, os.O_PATH)
    except FileNotFoundError:
        fd = _make(root_fd, os.fsencode(path), directory, made)
    if stat.S_ISDIR(os.fstat(fd).st_mode) != directory:
        os.close(fd)
        number = errno.ENOTDIR if directory else errno.EISDIR
        raise OSError(number, os.strerror(number), path)
    return fd


def _make(root_fd: int, path: bytes, directory: bool, made: list[MadeStub]) -> int:
    """Walk to `path`, making what is missing. `reached` never holds a link, so each look starts at the root and is checked."""
    pending = _reversed_parts(path)
    reached: list[bytes] = []
    links = 0
    while pending:
        name = pending.pop()
        if name == b"..":
            del reached[-1:]
            continue
        found = _look(root_fd, [*reached, name])
        if found is None:
            _make_one(root_fd, reached, name, directory or bool(pending), made)
        elif isinstance(found, bytes):
            links += 1
            if links > _MAX_LINKS or len(pending) > _MAX_PARTS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if found.startswith(b"/"):
                reached.clear()
            pending.extend(_reversed_parts(found))
            continue
        reached.append(name)
    return files.open_beneath(root_fd, b"/".join(reached) or b".", os.O_PATH)


def _reversed_parts(path: bytes) -> list[bytes]:
    return [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]


def _look(root_fd: int, parts: list[bytes]) -> bytes | bool | None:
    """The text of a link, True for anything else, None for nothing."""
    try:
        # openat2(2): O_PATH with O_NOFOLLOW gives a link itself, even where links are refused on the way.
        fd = files.open_beneath(root_fd, b"/".join(parts), os.O_PATH | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else True
    finally:
        os.close(fd)


def _make_one(root_fd: int, reached: list[bytes], name: bytes, directory: bool, made: list[MadeStub]) -> None:
    parent = files.open_beneath(root_fd, b"/".join(reached) or b".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = os.fstat(parent).st_mtime_ns
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            files.write_file(parent, name, b"", 0o644)
        own = os.lstat(name, dir_fd=parent)
        stub = Stub(name, directory, own.st_ino, own.st_mtime_ns, before, os.fstat(parent).st_mtime_ns)
    except BaseException:
        os.close(parent)
        raise
    made.append(MadeStub(stub, parent))


def remove_stubs(made: list[MadeStub]) -> None:
    """Take away, last first, each stub that is still empty and ours, and give its directory the times that it had.

    By the descriptor of the directory: where a step has moved or replaced it, nothing else is touched. Closes the descriptors.
    """
    for entry in reversed(made):
        try:
            _remove(entry.stub, entry.parent_fd)
        except OSError:
            pass  # gone, or filled by the step: then it stays as the step's own
        finally:
            os.close(entry.parent_fd)


def _remove(stub: Stub, parent_fd: int) -> None:
    own = os.lstat(stub.name, dir_fd=parent_fd)
    if own.st_ino != stub.inode or stat.S_ISDIR(own.st_mode) != stub.is_directory:
        return
    parent = os.fstat(parent_fd)
    if stub.is_directory:
        os.rmdir(stub.name, dir_fd=parent_fd)
    elif own.st_size == 0 and own.st_mtime_ns == stub.changed_ns:
        os.unlink(stub.name, dir_fd=parent_fd)
    else:
        return
    untouched = parent.st_mtime_ns == stub.parent_after_ns
    mtime_ns = stub.parent_before_ns if untouched else parent.st_mtime_ns
    os.utime(parent_fd, ns=(parent.st_atime_ns, mtime_ns))
