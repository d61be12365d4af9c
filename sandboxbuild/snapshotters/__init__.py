"""A rootfs to work in, and what changed in it: Snapshotter and Workspace, implemented by overlay and walk."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from sandboxbuild.fstree.changes import Changes


class Workspace(Protocol):
    """One step's rootfs. `root` is an absolute path in the executor's mount namespace at which the merged tree lies.

    `written` is the folder in which lies what the step has written, alone or among what was there before.
    """

    root: str
    written: str

    def changes(self) -> Changes:
        """What differs from the parents, in layer order. Call once, after every process of the step has ended.

        Raises SandboxbuildError on any error of the walk: a path that vanishes is a failure, never a whiteout.
        """

    def commit(self, target: str) -> None:
        """Move this step's changes to `target` (absent, same filesystem) as an unpacked layer, usable as the top parent of a
        later workspace. The workspace can't be used afterwards. Durable once the caller has renamed it into the store.
        """


class Snapshotter(Protocol):
    """Thread-safe. `name` is "overlay" or "walk"."""

    name: str

    def workspace(self, parents: Sequence[str], scratch: str) -> AbstractContextManager[Workspace]:
        """A rootfs made of the unpacked layers `parents`, lowest first, writable; what it needs is made below `scratch`.

        On exit everything of it is unmounted and removed, whatever happened; commit() moves out what is to stay.
        """
