"""Opening, copying and removing below a directory descriptor, so that no path from outside is ever resolved from the root.

Where the kernel has no openat2(2) (before 5.6, gVisor) the same rules are kept by walking component by component with
descriptors: `walk.py`. Nothing here checks path strings: a check on a string is a race.
"""

from __future__ import annotations

import errno
import os
import stat
from itertools import islice
from typing import Final, NamedTuple

from sandboxbuild.system import libc

RESOLVE_NO_XDEV: Final = 0x01
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

_IN_ROOT: Final = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_ATTEMPTS: Final = 64  # openat2(2): EAGAIN when a rename elsewhere made the answer uncertain
_MAX_DEPTH: Final = 256  # of descriptors that are open at once
_NAMES_AT_ONCE: Final = 4096
_COPY_CHUNK: Final = 1 << 20


def open_in_root(root_fd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open `path` as a process whose root is `root_fd` would: links and `..` are followed and never lead out of it.

    Absolute and relative paths mean the same. The last component is followed too, unless `flags` has O_NOFOLLOW; with
    O_CREAT a dangling link creates its target inside the root. Raises OSError; the descriptor is close-on-exec.
    """
    return _resolve(root_fd, path, flags, mode, _IN_ROOT)


def open_beneath(root_fd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """Open the relative `path` below `root_fd`; any symbolic link is ELOOP, `..` out of it or an absolute path EXDEV."""
    return _resolve(root_fd, path, flags, mode, _BENEATH)


def _resolve(root_fd: int, path: str | bytes, flags: int, mode: int, resolve: int) -> int:
    # openat2(2): a mode without O_CREAT or O_TMPFILE is EINVAL.
    wants_mode = flags & os.O_CREAT or flags & os.O_TMPFILE == os.O_TMPFILE
    for attempt in range(_ATTEMPTS):
        try:
            return libc.openat2(root_fd, path or b".", flags, mode & 0o7777 if wants_mode else 0, resolve)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                break
            if error.errno != errno.EAGAIN or attempt == _ATTEMPTS - 1:
                raise
    from sandboxbuild.system import walk

    return walk.open_walking(root_fd, os.fsencode(path), flags, mode, in_root=resolve == _IN_ROOT)


def open_directory(name: str | bytes, dir_fd: int | None = None) -> int:
    """Open the directory `name`, a single component, for listing. A link is ENOTDIR, wherever it leads.

    In two steps, as gVisor (runsc of 2024-07) follows a link where O_DIRECTORY and O_NOFOLLOW come without O_PATH.
    """
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
    finally:
        os.close(place)


def real_directory(root: str, path: str) -> str:
    """Where the directory `path` of the tree `root` really is, as open_in_root finds it. Raises OSError."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = open_in_root(root_fd, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(root_fd)
    try:
        return os.readlink(link_path(found))
    finally:
        os.close(found)


def make_directories(root_fd: int, path: str | bytes, mode: int = 0o755) -> int:
    """Make the relative `path` below `root_fd`, following no link, and open it. What exists is left as it is."""
    current = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)
    for part in os.fsencode(path).split(b"/"):
        if part in (b"", b"."):
            continue
        try:
            following = _make_one(current, part, mode)
        finally:
            os.close(current)
        current = following
    return current


def _make_one(parent_fd: int, name: bytes, mode: int) -> int:
    if name == b"..":
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    try:
        os.mkdir(name, mode, dir_fd=parent_fd)
    except FileExistsError:
        pass
    return open_beneath(parent_fd, name, os.O_PATH | os.O_DIRECTORY)


def link_path(fd: int) -> str:
    """A path that names an open file whatever happens to its name, for calls that take no descriptor (proc_pid_fd(5))."""
    return f"/proc/self/fd/{fd}"


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """Write every byte of `data`, however many calls it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_limited(fd: int, limit_bytes: int) -> bytes:
    """Read to the end of `fd`. Raises OSError EFBIG once there is more than `limit_bytes`."""
    chunks: list[bytes] = []
    left = limit_bytes + 1
    while left:
        chunk = os.read(fd, min(left, _COPY_CHUNK))
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        left -= len(chunk)
    raise OSError(errno.EFBIG, f"more than {limit_bytes} bytes")


def write_file(parent_fd: int, name: str | bytes, data: bytes, mode: int) -> None:
    """Make the new file `name` with exactly `mode`, whatever the umask. Raises FileExistsError; never follows a link."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent_fd)
    try:
        write_all(fd, data)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def hard_link(source_fd: int, source: bytes, target_fd: int, name: bytes) -> None:
    """link(2) that follows no link, and changes nothing but the number of names.

    gVisor's overlay gives what is linked to whoever links it: then its owner and mode are put back. Raises OSError.
    """
    before = os.lstat(source, dir_fd=source_fd)
    os.link(source, name, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
    after = os.lstat(name, dir_fd=target_fd)
    if (after.st_uid, after.st_gid) != (before.st_uid, before.st_gid):
        os.chown(name, before.st_uid, before.st_gid, dir_fd=target_fd, follow_symlinks=False)
        if not stat.S_ISLNK(before.st_mode):
            os.chmod(name, stat.S_IMODE(before.st_mode), dir_fd=target_fd)


def copy_range(src_fd: int, dst_fd: int, count: int) -> int:
    """Copy up to `count` bytes between two file offsets, inside the kernel where it can; returns how many there were."""
    left = count
    while left:
        copied = _copy_once(src_fd, dst_fd, left)
        if copied == 0:
            break
        left -= copied
    return count - left


def _copy_once(src_fd: int, dst_fd: int, count: int) -> int:
    try:
        return os.copy_file_range(src_fd, dst_fd, count)
    except OSError as error:
        # copy_file_range(2): other filesystems, pipes, sealed or unsupported files.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM):
            raise
    data = os.read(src_fd, min(count, _COPY_CHUNK))
    write_all(dst_fd, data)
    return len(data)


def fsync_directory(path: str | bytes | int) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path if not isinstance(path, int) else link_path(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_tree(parent_fd: int, name: str | bytes) -> None:
    """Remove `name` below `parent_fd` and all that is in it; absent is fine. Never follows a link, never recurses in Python.

    A directory that its owner can't search or write is opened up first. Other filesystems mounted below raise EBUSY. A tree may
    be as deep and as wide as it likes: what lies too deep is first moved up to its top, and names are read some at a time.
    """
    name = os.fsencode(name)
    if b"/" in name or name in (b"", b".", b".."):
        raise ValueError("remove_tree takes one name")
    if not _unlink(parent_fd, name):
        removal = _Removal(parent_fd)
        try:
            removal.run(name)
        finally:
            removal.close()


class _Emptied(NamedTuple):
    """An open directory that is being emptied, and those of its names that were read and are still to be removed."""

    fd: int
    name: bytes
    names: list[bytes]


class _Removal:
    """One removal: the directories from the top down to where it is."""

    def __init__(self, parent_fd: int) -> None:
        self._parent_fd = parent_fd
        self._stack: list[_Emptied] = []
        self._moved = 0

    def run(self, name: bytes) -> None:
        self._enter(self._parent_fd, name)
        while self._stack:
            self._go_on()

    def _enter(self, parent_fd: int, name: bytes) -> None:
        self._stack.append(_Emptied(_open_to_empty(parent_fd, name), name, []))

    def _go_on(self) -> None:
        """Until there is a directory to enter, or this one is gone."""
        here = self._stack[-1]
        while names := here.names or self._read_names(here):
            name = names.pop()
            if not _unlink(here.fd, name):
                if len(self._stack) < _MAX_DEPTH or not self._move_up(here.fd, name):
                    self._enter(here.fd, name)
                return
        self._stack.pop()
        os.close(here.fd)
        os.rmdir(here.name, dir_fd=self._stack[-1].fd if self._stack else self._parent_fd)

    def _read_names(self, here: _Emptied) -> list[bytes]:
        with os.scandir(here.fd) as entries:
            here.names.extend(os.fsencode(entry.name) for entry in islice(entries, _NAMES_AT_ONCE))
        return here.names

    def _move_up(self, fd: int, name: bytes) -> bool:
        """Whether the directory could be moved to the top, where it is found by and by: an overlay can't move what lies in a
        lower layer (EXDEV).
        """
        os.close(_open_to_empty(fd, name))  # a directory that changes its parent is written to
        top = self._stack[0].fd
        while True:
            self._moved += 1
            try:
                os.rename(name, b".deep-%d" % self._moved, src_dir_fd=fd, dst_dir_fd=top)
            except FileExistsError:
                continue
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.ENOTDIR):
                    continue
                if error.errno == errno.EXDEV:
                    return False
                raise
            return True

    def close(self) -> None:
        for directory in self._stack:
            os.close(directory.fd)


def _unlink(parent_fd: int, name: bytes) -> bool:
    """Whether `name` is gone now; False means that it is a directory."""
    try:
        os.unlink(name, dir_fd=parent_fd)
    except FileNotFoundError:
        return True
    except (IsADirectoryError, PermissionError) as error:
        try:
            is_directory = stat.S_ISDIR(os.lstat(name, dir_fd=parent_fd).st_mode)
        except FileNotFoundError:
            return True
        if is_directory:
            return False
        raise error from None
    return True


def _open_to_empty(parent_fd: int, name: bytes) -> int:
    try:
        fd = open_directory(name, parent_fd)
    except PermissionError:
        _open_up(parent_fd, name)
        return open_directory(name, parent_fd)
    if os.fstat(fd).st_mode & 0o700 != 0o700:
        try:
            os.fchmod(fd, 0o700)
        except PermissionError:
            pass  # a capability may let the removal pass all the same; if not, it says so itself
    return fd


def _open_up(parent_fd: int, name: bytes) -> None:
    """chmod without a read permission and without following a link: through an O_PATH descriptor."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        os.chmod(link_path(fd), 0o700)
    finally:
        os.close(fd)
