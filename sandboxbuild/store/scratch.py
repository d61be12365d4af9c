"""A build's own folder in the store, `tmp/<build>`: everything begins there, and what is finished is renamed out of it."""

from __future__ import annotations

import os
import threading

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.store.disk import fresh_name, write_small
from sandboxbuild.store.layout import Root
from sandboxbuild.store.leases import Lease
from sandboxbuild.system.files import remove_tree


class Scratch:
    """Takes the build's lease when it is first needed, and makes the folder. Thread-safe."""

    __slots__ = ("_fd", "_lease", "_lock", "build_id", "root")

    def __init__(self, root: Root, build_id: str = "") -> None:
        self.root = root
        self.build_id = build_id or fresh_name(f"pid{os.getpid()}")
        self._lease: Lease | None = None
        self._fd = -1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Take the lease now. Idempotent."""
        with self._lock:
            if self._lease is None:
                self._lease = Lease(self.root, self.build_id)

    @property
    def fd(self) -> int:
        """A descriptor of the folder."""
        if self._fd < 0:
            self.hold()
            with self._lock:
                if self._fd < 0:
                    self._fd = self._made()
        return self._fd

    @property
    def path(self) -> str:
        """The folder's path; it is there."""
        assert self.fd >= 0
        return os.path.join(self.root.path, "tmp", self.build_id)

    def write_small(self, folder: str, name: str, data: bytes) -> None:
        """Put a small file into one of the store's folders at once."""
        write_small(self.root, self.fd, self.root.folder(folder), name, data)

    def close(self) -> None:
        """Give up the lease; the last process of the build to do so removes the folder. Idempotent."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            if self._lease is not None:
                self._lease.close(self._clear)
                self._lease = None

    def remove(self, name: str) -> None:
        """Remove something from the folder, with all below it."""
        remove_tree(self.fd, name)

    def _clear(self) -> None:
        try:
            remove_tree(self.root.folder("tmp"), self.build_id)
        except (OSError, SandboxbuildError):
            pass  # what a normal user may not remove, or what is no folder any more, is prune's

    def _made(self) -> int:
        tmp = self.root.folder("tmp")
        try:
            return self.root.make_folder(tmp, self.build_id)
        except FileExistsError:
            return os.open(self.build_id, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmp)
