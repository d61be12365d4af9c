"""The folder in which a gateway's socket lies: short of path, open to one user, and gone after a kill -9 as well.

Each is locked by the launcher that made it, so the next launcher sees which ones nobody needs any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sandboxbuild.errors import IsolationError
from sandboxbuild.system.files import remove_tree

_PREFIX: Final = "sandboxbuild-uplink-"
_NAME: Final = re.compile(_PREFIX + "[0-9a-f]{16}", re.ASCII)  # the parent may be /tmp, where much else has our name
_LONGEST_PARENT: Final = 60  # bytes; the socket's path has to fit into the 108 of sun_path (unix(7))
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def uplink_folder(uid: int, gid: int, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """A new folder that `uid` may enter and nobody else but root; removed with all in it."""
    parent = _parent(environ)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sweep(parent_fd)
        name, folder_fd = _make(parent_fd)
        try:
            if os.geteuid() == 0:
                os.fchown(folder_fd, uid, gid)
                # The socket gets the group, too: a capability of the sandbox counts only where both ids are its own.
                os.fchmod(folder_fd, 0o2700)
            yield f"{parent}/{name}"
        finally:
            remove_tree(parent_fd, name)
            os.close(folder_fd)
    finally:
        os.close(parent_fd)


def _parent(environ: Mapping[str, str]) -> str:
    for folder in (environ.get("XDG_RUNTIME_DIR", ""), "/run", environ.get("TMPDIR", ""), "/tmp"):  # noqa: S108
        if os.path.isabs(folder) and len(os.fsencode(folder)) <= _LONGEST_PARENT and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise IsolationError(
        "there is no folder for the gateway's socket", hint="set TMPDIR to a short path that can be written to"
    )


def _make(parent_fd: int) -> tuple[str, int]:
    """A folder, and its lock; another one where somebody took it for abandoned before it was locked."""
    while True:
        name = _PREFIX + secrets.token_hex(8)
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        except FileNotFoundError:
            continue
        if _lock(fd) and _is_there(parent_fd, name):
            return name, fd
        os.close(fd)


def _sweep(parent_fd: int) -> None:
    """Remove our folders that no live launcher holds."""
    for name in os.listdir(parent_fd):
        if not _NAME.fullmatch(name):
            continue
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent_fd)
        except OSError:
            continue
        try:
            if _may_remove(fd) and _lock(fd):
                remove_tree(parent_fd, name)
        except OSError:
            pass  # somebody else's, or gone already
        finally:
            os.close(fd)


def _may_remove(fd: int) -> bool:
    return os.geteuid() in (0, os.fstat(fd).st_uid)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(parent_fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
