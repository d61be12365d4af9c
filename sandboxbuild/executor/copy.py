"""Carries out FileActions below a root: by descriptors, through no symlink, each file a new inode.

The decisions are `plan.copying`'s. Owners are always set, as the executor's own id is no image's; modes after owners, since
chown(2) clears setuid; file capabilities after both; directories' times when all is written.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Final, assert_never

from sandboxbuild.archive.metadata import Metadata, settle, settle_link, settle_node
from sandboxbuild.archive.nodes import make_node
from sandboxbuild.archive.scan import keeps_xattr
from sandboxbuild.errors import ContextError, InputError, LimitExceeded, SandboxbuildError
from sandboxbuild.fstree.actions import (
    FileAction,
    MakeDirectory,
    MakeHardlink,
    MakeNode,
    MakeSymlink,
    Remove,
    SetMetadata,
    UnpackArchive,
    WriteBytes,
    WriteFile,
)
from sandboxbuild.fstree.paths import name_of, parent_of
from sandboxbuild.system.clock import wall_ns
from sandboxbuild.system.files import copy_range, hard_link, link_path, open_beneath, remove_tree, write_all

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SOURCE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
_KEPT_OPEN: Final = 64
_NO_XATTRS: Final = (errno.EOPNOTSUPP, errno.ENOSYS)

Xattrs = tuple[tuple[str, bytes], ...]


def apply_actions(root: str, actions: Iterable[FileAction], sources: Sequence[int]) -> None:
    """Carry out `actions` below the directory `root`, in order.

    `sources[i]` is a directory descriptor of the tree that the actions call origin i (any number for inline files). Not
    atomic: after an error the root holds part of the result and is to be thrown away. Raises ContextError if a source changed
    since the actions were decided, InputError for what can't be made, LimitExceeded for a full disk.
    """
    root_fd = os.open(root, _DIRECTORY | os.O_CLOEXEC)
    try:
        with _Writer(root_fd, sources) as writer:
            for action in actions:
                writer.apply(action)
            writer.set_directory_times()
    finally:
        os.close(root_fd)


class _Writer:
    def __init__(self, root_fd: int, sources: Sequence[int]) -> None:
        self._root_fd = root_fd
        self._sources = sources
        self._open: dict[bytes, int] = {}
        self._times: dict[bytes, int] = {}

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()

    def apply(self, action: FileAction) -> None:
        try:
            self._apply(action)
        except OSError as error:
            raise _translated(error, action) from error

    def set_directory_times(self) -> None:
        """Deepest first, so that no change in a directory comes after its time was set."""
        for path, mtime_ns in sorted(self._times.items(), reverse=True):
            try:
                os.utime(self._directory(path), ns=(mtime_ns, mtime_ns))
            except NotADirectoryError:
                continue  # SetMetadata of a file, or an archive put something else there
            except OSError as error:
                raise SandboxbuildError(f"the time of {_shown(path)} can't be set: {error.strerror}") from error

    def _apply(self, action: FileAction) -> None:
        match action:
            case MakeDirectory():
                self._make_directory(action)
            case SetMetadata():
                self._set_metadata(action)
            case Remove():
                self._remove(action.path)
            case WriteFile():
                self._write_file(action)
            case WriteBytes():
                self._write_bytes(action)
            case MakeSymlink():
                self._make_symlink(action)
            case MakeHardlink():
                self._make_hardlink(action)
            case MakeNode():
                self._make_node(action)
            case UnpackArchive():
                self._unpack(action)
            case _:
                assert_never(action)

    def _make_directory(self, action: MakeDirectory) -> None:
        try:
            os.mkdir(name_of(action.path), 0o700, dir_fd=self._parent(action.path))
        except FileExistsError:
            # An archive of the same ADD may have brought it; anything but a directory fails just below.
            self._directory(action.path)
            return
        settle(self._directory(action.path), _metadata(action, action.mtime_ns or 0, action.xattrs))
        self._times[action.path] = action.mtime_ns if action.mtime_ns is not None else wall_ns()

    def _set_metadata(self, action: SetMetadata) -> None:
        fd = open_beneath(self._root_fd, action.path or b".", os.O_PATH | os.O_NOFOLLOW)
        try:
            place = link_path(fd)
            if action.uid is not None or action.gid is not None:
                os.chown(place, -1 if action.uid is None else action.uid, -1 if action.gid is None else action.gid)
            if action.mode is not None:
                os.chmod(place, action.mode)
            _set_xattrs(place, action.xattrs)
            if action.mtime_ns is not None:
                os.utime(place, ns=(action.mtime_ns, action.mtime_ns))
                self._times[action.path] = action.mtime_ns
        finally:
            os.close(fd)

    def _write_file(self, action: WriteFile) -> None:
        source_fd = self._open_source(action)
        try:
            fd = self._create(action.path)
            try:
                _copy_content(source_fd, fd, os.fstat(source_fd))
                settle(fd, _metadata(action, action.mtime_ns, action.source.xattrs))
            finally:
                os.close(fd)
            _check_unchanged(os.fstat(source_fd), action)
        finally:
            os.close(source_fd)

    def _open_source(self, action: WriteFile | UnpackArchive) -> int:
        path = action.source.path
        try:
            fd = open_beneath(self._sources[action.origin], path, _SOURCE)
        except OSError as error:
            raise ContextError(f"{_shown(path)} can't be read: {error.strerror}") from error
        try:
            _check_unchanged(os.fstat(fd), action)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _write_bytes(self, action: WriteBytes) -> None:
        fd = self._create(action.path)
        try:
            write_all(fd, action.content)
            settle(fd, _metadata(action, action.mtime_ns))
        finally:
            os.close(fd)

    def _create(self, path: bytes) -> int:
        parent_fd, name = self._parent(path), name_of(path)
        try:
            return os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd)
        except FileExistsError:
            self._clear(path)
            return os.open(name, _NEW_FILE, 0o600, dir_fd=parent_fd)

    def _make_symlink(self, action: MakeSymlink) -> None:
        self._clear(action.path)
        parent_fd, name = self._parent(action.path), name_of(action.path)
        os.symlink(action.target, name, dir_fd=parent_fd)
        settle_link(parent_fd, name, _metadata(action, action.mtime_ns))

    def _make_hardlink(self, action: MakeHardlink) -> None:
        self._clear(action.path)
        # Two directories at once: the first is held by a duplicate, as reaching the second may close it.
        existing_fd = os.dup(self._parent(action.existing))
        try:
            hard_link(existing_fd, name_of(action.existing), self._parent(action.path), name_of(action.path))
        finally:
            os.close(existing_fd)

    def _make_node(self, action: MakeNode) -> None:
        self._clear(action.path)
        parent_fd, name = self._parent(action.path), name_of(action.path)
        make_node(parent_fd, name, stat.S_IFMT(action.mode), action.rdev)
        settle_node(parent_fd, name, _metadata(action, action.mtime_ns))

    def _clear(self, path: bytes) -> None:
        """Unlink the file or link at `path`, if any; a directory there is an error (IsADirectoryError)."""
        try:
            os.unlink(name_of(path), dir_fd=self._parent(path))
        except FileNotFoundError:
            pass

    def _remove(self, path: bytes) -> None:
        self._forget()
        remove_tree(self._parent(path), name_of(path))

    def _unpack(self, action: UnpackArchive) -> None:
        from sandboxbuild.archive.archives import unpack_archive

        self._forget()
        source_fd = self._open_source(action)
        try:
            # BuildKit unpacks with the destination as root, so an absolute link below it means a place below it.
            unpack_archive(source_fd, self._directory(action.path), b"", uid=action.uid, gid=action.gid, clamps=True)
        finally:
            os.close(source_fd)

    def _parent(self, path: bytes) -> int:
        return self._directory(parent_of(path))

    def _directory(self, path: bytes) -> int:
        if not path:
            return self._root_fd
        found = self._open.get(path)
        if found is None:
            while len(self._open) >= _KEPT_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            found = self._open[path] = open_beneath(self._root_fd, path, _DIRECTORY)
        return found

    def _forget(self) -> None:
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()


def _copy_content(source_fd: int, fd: int, status: os.stat_result) -> None:
    """Copy bytes, and keep holes where the source has fewer blocks than its size needs (lseek(2), SEEK_DATA)."""
    if status.st_blocks * 512 >= status.st_size:
        copy_range(source_fd, fd, status.st_size)
        return
    position = 0
    while position < status.st_size:
        try:
            start = os.lseek(source_fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                break
            raise
        position = os.lseek(source_fd, start, os.SEEK_HOLE)
        os.lseek(source_fd, start, os.SEEK_SET)
        os.lseek(fd, start, os.SEEK_SET)
        copy_range(source_fd, fd, position - start)
    os.ftruncate(fd, status.st_size)


def _metadata(
    action: MakeDirectory | WriteFile | WriteBytes | MakeSymlink | MakeNode, mtime_ns: int, xattrs: Xattrs = ()
) -> Metadata:
    mode = 0 if isinstance(action, MakeSymlink) else stat.S_IMODE(action.mode)
    return Metadata(action.path, mode, action.uid, action.gid, mtime_ns, xattrs)


def _set_xattrs(place: str, xattrs: Xattrs) -> None:
    for name, value in xattrs:
        if not keeps_xattr(name):
            continue
        try:
            os.setxattr(place, name, value)
        except OSError as error:
            if error.errno not in _NO_XATTRS:
                raise


def _check_unchanged(status: os.stat_result, action: WriteFile | UnpackArchive) -> None:
    """The key was computed from the entry: content that changed since must not be filed under it."""
    entry = action.source
    same = stat.S_ISREG(status.st_mode) and status.st_size == entry.size_bytes and status.st_mtime_ns == entry.mtime_ns
    if entry.inode != (0, 0):
        same = same and (status.st_dev, status.st_ino) == entry.inode
    if not same:
        raise ContextError(f"{_shown(entry.path)} changed while it was being copied", hint="build from files at rest")


def _translated(error: OSError, action: FileAction) -> SandboxbuildError:
    place = _shown(action.path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LimitExceeded(f"no space left for {place}")
    if error.errno == errno.EINVAL and not isinstance(action, MakeHardlink | Remove):
        return InputError(f"{place} can't be made with its owner", hint="its owner is no id of this build (see subuid(5))")
    if isinstance(error, IsADirectoryError):
        return InputError(f"cannot replace the directory {place} by a file")
    if isinstance(error, NotADirectoryError):
        return InputError(f"{place}: not a directory")
    return InputError(f"{place} can't be made: {error.strerror}")


def _shown(path: bytes) -> str:
    return "/" + path.decode("utf-8", "backslashreplace")
