"""The layers below a step as the one tree that an overlay makes of them, read without mounting anything.

Layers are in the store's form: a character device 0:0 hides its name, `user.overlay.opaque` on a directory what lies under it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from sandboxbuild.archive.hiding import OPAQUE_VALUE, OPAQUE_XATTR
from sandboxbuild.archive.nodes import is_whiteout
from sandboxbuild.archive.scan import read_descriptor, read_entry
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.system.files import link_path, open_beneath

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
EMPTY_ROOT = Entry(b"", stat.S_IFDIR | 0o755)


class Found(NamedTuple):
    """A path of the merged tree. `layers` are numbers of layers, topmost first: those that a directory is merged from, or the
    one that a file lies in.
    """

    entry: Entry
    layers: tuple[int, ...]


class LowerTree:
    """The merged tree of `parents`, unpacked layers, lowest first. A context manager. Not thread-safe."""

    def __init__(self, parents: Sequence[str]) -> None:
        self._roots: list[int] = []
        try:
            for path in reversed(parents):
                self._roots.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            self.__exit__()
            raise

    def __enter__(self) -> LowerTree:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._roots:
            os.close(fd)
        self._roots = []

    def root(self) -> Found:
        """The root; of no layers it is an empty directory, 0755 and root's."""
        if not self._roots:
            return Found(EMPTY_ROOT, ())
        fd = self.open(0, b"", _DIRECTORY)
        try:
            return Found(read_descriptor(fd, b""), tuple(range(len(self._roots))))
        finally:
            os.close(fd)

    def open(self, layer: int, path: bytes, flags: int) -> int:
        """Open `path` in one layer, following no link."""
        return open_beneath(self._roots[layer], path or b".", flags | os.O_CLOEXEC)

    def directory(self, path: bytes, layers: Sequence[int]) -> LowerDirectory:
        """The directory at `path`, merged from those layers (of none: empty)."""
        return LowerDirectory(self, path, layers)


class LowerDirectory:
    """A directory of the merged tree, open. A context manager."""

    def __init__(self, tree: LowerTree, path: bytes, layers: Sequence[int]) -> None:
        self._prefix = path + b"/" if path else b""
        self._parts: list[tuple[int, int]] = []
        try:
            for layer in layers:
                self._parts.append((layer, tree.open(layer, path, _DIRECTORY)))
        except OSError:
            self.__exit__()
            raise

    def __enter__(self) -> LowerDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        for _layer, fd in self._parts:
            os.close(fd)
        self._parts = []

    def names(self) -> set[bytes]:
        """All names in any layer's part of it, hidden ones too: find() says which those are."""
        return {os.fsencode(name) for _, fd in self._parts for name in os.listdir(fd)}

    def find(self, name: bytes) -> Found | None:
        """What the merged directory has under `name`. A socket counts as nothing, for no layer holds one."""
        top: Entry | None = None
        layers: list[int] = []
        for layer, fd in self._parts:
            try:
                status = os.lstat(name, dir_fd=fd)
            except FileNotFoundError:
                continue
            if is_whiteout(status) or stat.S_ISSOCK(status.st_mode):
                break
            if not stat.S_ISDIR(status.st_mode):
                if top is None:
                    return Found(read_entry(fd, name, self._prefix + name), (layer,))
                break
            top = top or read_entry(fd, name, self._prefix + name)
            layers.append(layer)
            if is_opaque(fd, name):
                break
        return Found(top, tuple(layers)) if top else None


def is_opaque(directory_fd: int, name: bytes) -> bool:
    """Whether the directory `name` hides what lower layers have in it. gVisor's overlay knows the second attribute alone."""
    place = b"%b/%b" % (link_path(directory_fd).encode(), name)
    for attribute in (OPAQUE_XATTR, "trusted.overlay.opaque"):
        try:
            if os.getxattr(place, attribute, follow_symlinks=False) == OPAQUE_VALUE:
                return True
        except OSError:
            continue
    return False
