"""The directories into which an archive is unpacked, by descriptor: one component at a time, below one root.

Each step is an openat with O_NOFOLLOW from a descriptor reached the same way, so nothing that happens to names meanwhile
leads out of the root. A symlink among the parents is walked by its text, `/` and `..` meaning the root's, and must lead to a
directory that is there: packages for merged /usr do that (lib -> usr/lib, then lib/x), while a link to where there is
nothing is how an archive tries to write elsewhere.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final, NamedTuple, Protocol

from sandboxbuild.archive.nodes import is_whiteout

_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_KEPT: Final = 128
_MAX_LINKS: Final = 40  # path_resolution(7)
_MAX_PARTS: Final = 4096


class Unreachable(Exception):
    """A parent that can't be had; the text completes "X: ..."."""


class Reached(NamedTuple):
    """A directory: its path without links, and a descriptor (O_PATH) that stays open until the next call."""

    path: bytes
    fd: int


class MakesParents(Protocol):
    def make_parent(self, directory_fd: int, name: bytes, path: bytes, *, replace: bool) -> None:
        """Make the directory `name` that an archive takes for granted; with `replace` a whiteout stands in its place."""

    def has_directory(self, path: bytes) -> bool:
        """Whether a lower layer has a directory there, so that a link may lead to it."""


class Directories:
    """Finds and makes directories below `root_fd`, which is borrowed. A context manager, to close what it holds."""

    def __init__(self, root_fd: int, parents: MakesParents) -> None:
        self._root_fd = root_fd
        self._parents = parents
        self._open: dict[bytes, int] = {}

    def __enter__(self) -> Directories:
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop all descriptors: some directory was removed or replaced."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def forget_below(self, path: bytes) -> None:
        """Drop the descriptors of `path` and of all below it: it is about to be removed."""
        for name in [name for name in self._open if name == path or name.startswith(path + b"/")]:
            os.close(self._open.pop(name))

    def reach(self, path: bytes, *, make: bool) -> Reached:
        """The directory that `path` (clean, relative) means; what is missing is made, if `make`. Raises Unreachable."""
        fd = self._open.get(path) if path else self._root_fd
        if fd is not None:
            return Reached(path, fd)
        self._trim()
        return self._walk(path, make)

    def reach_strictly(self, path: bytes) -> int | None:
        """The descriptor of `path` if it is a directory still and no link is on the way, else None. Makes nothing."""
        fd = self._open.get(path) if path else self._root_fd
        if fd is not None:
            return fd
        self._trim()
        fd = self._root_fd
        at = b""
        for part in path.split(b"/"):
            at = at + b"/" + part if at else part
            following = self._open.get(at)
            if following is None:
                try:
                    following = self._open[at] = os.open(part, _FLAGS, dir_fd=fd)
                except (FileNotFoundError, NotADirectoryError):
                    return None
            fd = following
        return fd

    def _trim(self) -> None:
        """Close the oldest descriptors; called before a walk, as the walk itself needs those that it meets."""
        while len(self._open) > _KEPT:
            os.close(self._open.pop(next(iter(self._open))))

    def _walk(self, path: bytes, make: bool) -> Reached:
        pending = path.split(b"/")[::-1]
        done: list[bytes] = []
        ordinary = len(pending)  # how many of `pending`, from its start, are the archive's own words and not a link's
        links = 0
        fd = self._root_fd
        while pending:
            name = pending.pop()
            from_link = len(pending) >= ordinary
            ordinary = min(ordinary, len(pending))
            if name in (b"", b"."):
                continue
            if name == b"..":
                fd = self._step_back(done)
                continue
            here = b"/".join((*done, name))
            following = self._open.get(here)
            if following is None:
                following, target = self._enter(fd, name, here, make, from_link)
                if target is not None:
                    links += 1
                    if links > _MAX_LINKS or len(pending) > _MAX_PARTS:
                        raise Unreachable("it lies below links that lead in circles")
                    if target.startswith(b"/"):
                        done, fd = [], self._root_fd
                    pending.extend(target.split(b"/")[::-1])
                    continue
                self._open[here] = following
            fd = following
            done.append(name)
        return Reached(b"/".join(done), fd)

    def _step_back(self, done: list[bytes]) -> int:
        """Leave the last directory of `done`; its parent was opened on the way here, so it is at hand."""
        if done:
            done.pop()
        return self._open[b"/".join(done)] if done else self._root_fd

    def _enter(self, fd: int, name: bytes, here: bytes, make: bool, from_link: bool) -> tuple[int, bytes | None]:
        """Open the directory `name`, made if need be: its descriptor. Or, for a link: -1 and the link's text."""
        try:
            return os.open(name, _FLAGS, dir_fd=fd), None
        except (FileNotFoundError, NotADirectoryError):
            pass
        try:
            status = os.lstat(name, dir_fd=fd)
        except FileNotFoundError:
            self._make(fd, name, here, make, from_link, replace=False)
            return os.open(name, _FLAGS, dir_fd=fd), None
        if stat.S_ISLNK(status.st_mode):
            return -1, os.readlink(name, dir_fd=fd)
        if not is_whiteout(status):
            raise Unreachable(f"{shown(here)}, above it, is no directory")
        self._make(fd, name, here, make, from_link, replace=True)
        return os.open(name, _FLAGS, dir_fd=fd), None

    def _make(self, fd: int, name: bytes, here: bytes, make: bool, from_link: bool, *, replace: bool) -> None:
        if from_link and not self._parents.has_directory(here):
            raise Unreachable(f"it lies below a link that leads to {shown(here)}, and no such directory is there")
        if not make:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), here)
        self._parents.make_parent(fd, name, here, replace=replace)


def shown(path: bytes) -> str:
    """A path for a message: printable, whatever is in it."""
    return ascii(path.decode("utf-8", "backslashreplace"))[1:-1]
