"""Cache mounts: folders in the store that outlive a build, by id; shared, private or locked, between builds as well."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sandboxbuild.errors import LimitExceeded
from sandboxbuild.executor.copy import apply_actions
from sandboxbuild.executor.trees import DirectoryTree
from sandboxbuild.fstree.tree import FileTree
from sandboxbuild.plan.copying import copy_actions
from sandboxbuild.plan.keys import encode
from sandboxbuild.plan.operations import CacheMount, ContextSource, CopyOp
from sandboxbuild.system.locks import exclusive, try_exclusive

PRIVATE_LIMIT: Final = 1000


class CacheMounts:
    """The folders below `folder`, one for each id, named by its digest, so that no id leads elsewhere (CVE-2024-9675)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    @contextmanager
    def hold(self, mount: CacheMount) -> Iterator[str]:
        """The mount's directory, held as its sharing says: `locked` waits for others, `private` takes one that nobody has."""
        os.makedirs(self._folder, mode=0o700, exist_ok=True)
        name = os.path.join(self._folder, cache_name(mount))
        if mount.sharing == "shared":
            yield _made(name, mount)
        elif mount.sharing == "locked":
            with self._lock(name), exclusive(f"{name}.lock"):
                yield _made(name, mount)
        else:
            yield from self._private(name, mount)

    def _private(self, name: str, mount: CacheMount) -> Iterator[str]:
        for number in range(PRIVATE_LIMIT):
            own = f"{name}.{number}" if number else name
            lock = self._lock(own)
            if not lock.acquire(blocking=False):
                continue
            try:
                with try_exclusive(f"{own}.lock") as taken:
                    if taken:
                        yield _made(own, mount)
                        return
            finally:
                lock.release()
        raise LimitExceeded(f"the cache {mount.cache_id!r} is used by {PRIVATE_LIMIT} steps at once")

    def _lock(self, name: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(name, threading.Lock())

    def seed(self, path: str, source: str, source_path: str) -> None:
        """Fill an empty cache with what `source_path` holds in the tree at `source`."""
        descriptor = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            op = CopyOp((ContextSource(),), ((source_path,),), "/")
            with DirectoryTree(descriptor) as tree:
                actions = copy_actions(op, [tree], FileTree(), owner=None, now_ns=0)
            apply_actions(path, actions, [descriptor])
        finally:
            os.close(descriptor)


def cache_name(mount: CacheMount) -> str:
    """The folder of a mount: as in BuildKit, another owner, mode or seed is another cache, though the id be the same."""
    fields = (mount.cache_id, mount.uid, mount.gid, mount.mode, mount.source, mount.source_path)
    return hashlib.sha256(encode(fields)).hexdigest()


def _made(path: str, mount: CacheMount) -> str:
    """The directory, made with the mount's owner and mode if it isn't there."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return path
    os.chown(path, mount.uid, mount.gid)
    os.chmod(path, mount.mode)
    return path
