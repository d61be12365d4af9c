"""A build's own folder in the store, `tmp/<build>`: everything begins there, and what is finished is renamed out of it."""

from __future__ import annotations

import os
import threading

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
        """Remove the folder if nothing is in it, and give up the lease. Idempotent."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                try:
                    os.rmdir(self.build_id, dir_fd=self.root.folder("tmp"))
                except OSError:
                    pass  # another process of this build still works there; prune clears what the dead leave
            if self._lease is not None:
                self._lease.close()
                self._lease = None

    def remove(self, name: str) -> None:
        """Remove something from the folder, with all below it."""
        remove_tree(self.fd, name)

    def _made(self) -> int:
        tmp = self.root.folder("tmp")
        try:
            return self.root.make_folder(tmp, self.build_id)
        except FileExistsError:
            return os.open(self.build_id, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tmp)
