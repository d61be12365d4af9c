"""What a whiteout in an archive does: become overlay's form of it, remove what it names, or nothing."""

from __future__ import annotations

import os
import stat
from typing import Final, Protocol

from sandboxbuild.archive.directories import Directories, Unreachable
from sandboxbuild.archive.nodes import make_whiteout
from sandboxbuild.fstree.whiteout import Whiteout
from sandboxbuild.system.files import link_path, remove_tree

OPAQUE_XATTR: Final = "user.overlay.opaque"
OPAQUE_VALUE: Final = b"y"
_TRUSTED_OPAQUE: Final = "trusted.overlay.opaque"


class Hiding(Protocol):
    """One unpacking's whiteouts. `makes_layer`: the result is a lower directory of an overlay; `leaves_root`: an entry for the
    root changes nothing.
    """

    makes_layer: bool
    leaves_root: bool

    def hide(self, directories: Directories, found: Whiteout) -> None:
        """Do what a whiteout says; it is about lower layers alone, wherever in its own layer it stands."""

    def wrote(self, path: bytes) -> None:
        """The archive itself has put something at `path` (without links)."""

    def replaced_by_directory(self, fd: int) -> None:
        """An open new directory took the place of something that was none."""


class OverlayHiding:
    """Whiteouts as overlay has them: device 0:0, and an attribute on opaque directories (overlayfs.rst)."""

    makes_layer = True
    leaves_root = False

    def hide(self, directories: Directories, found: Whiteout) -> None:
        if found.opaque:
            _set_opaque(directories.reach(found.path, make=True).fd)
            return
        parent, _, name = found.path.rpartition(b"/")
        fd = directories.reach(parent, make=True).fd
        try:
            make_whiteout(fd, name)
        except FileExistsError:
            # This layer has something of the name already: that stays, and what was below goes.
            if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                kept = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                try:
                    _set_opaque(kept)
                finally:
                    os.close(kept)

    def wrote(self, path: bytes) -> None:
        pass

    def replaced_by_directory(self, fd: int) -> None:
        """Without this a directory of a lower layer would shine through one that followed a whiteout or a file."""
        _set_opaque(fd)


class RemovingHiding:
    """Unpacking onto a tree of the lower layers: what a whiteout names is removed, but for what this archive put there."""

    makes_layer = False
    leaves_root = False

    def __init__(self) -> None:
        self._written: set[bytes] = set()

    def hide(self, directories: Directories, found: Whiteout) -> None:
        parent, _, name = found.path.rpartition(b"/")
        try:
            if found.opaque:
                at = directories.reach(found.path, make=False)
                self._prune(at.fd, at.path)
            else:
                at = directories.reach(parent, make=False)
                self._remove(at.fd, name, at.path + b"/" + name if at.path else name)
        except (FileNotFoundError, Unreachable):
            return  # what isn't there needs no hiding
        directories.forget()

    def wrote(self, path: bytes) -> None:
        while path and path not in self._written:
            self._written.add(path)
            path = path.rpartition(b"/")[0]

    def replaced_by_directory(self, fd: int) -> None:
        pass

    def _remove(self, directory_fd: int, name: bytes, path: bytes) -> None:
        """Remove `name` but for what was written by this archive."""
        if path not in self._written:
            remove_tree(directory_fd, name)
            return
        if stat.S_ISDIR(os.lstat(name, dir_fd=directory_fd).st_mode):
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)
            try:
                self._prune(fd, path)
            finally:
                os.close(fd)

    def _prune(self, directory_fd: int, path: bytes) -> None:
        prefix = path + b"/" if path else b""
        for name in map(os.fsencode, os.listdir(link_path(directory_fd))):
            self._remove(directory_fd, name, prefix + name)


class IgnoringHiding:
    """An archive that is no layer, for ADD: what has a whiteout's name is left out, as no layer can hold it."""

    makes_layer = False
    leaves_root = True

    def hide(self, directories: Directories, found: Whiteout) -> None:
        pass

    def wrote(self, path: bytes) -> None:
        pass

    def replaced_by_directory(self, fd: int) -> None:
        pass


def hiding(whiteouts: str) -> Hiding:
    """The Hiding called "overlay", "apply" or "ignore"."""
    if whiteouts == "overlay":
        return OverlayHiding()
    if whiteouts == "apply":
        return RemovingHiding()
    if whiteouts == "ignore":
        return IgnoringHiding()
    raise ValueError(whiteouts)


def _set_opaque(fd: int) -> None:
    """The trusted attribute is the one that gVisor's overlay knows; Linux refuses it to user namespaces and needs it not."""
    os.setxattr(link_path(fd), OPAQUE_XATTR, OPAQUE_VALUE)
    try:
        os.setxattr(link_path(fd), _TRUSTED_OPAQUE, OPAQUE_VALUE)
    except OSError:
        pass
