"""The store: blobs by digest, unpacked layers, finished steps and named images, for many builds at once.

`docs/store.md` has the layout on disk, who owns what, and what holds after a crash.
"""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING

from sandboxbuild.errors import IsolationError
from sandboxbuild.store.blobs import Blobs
from sandboxbuild.store.cache import StepCache, StepRecord
from sandboxbuild.store.layers import Layers
from sandboxbuild.store.layout import Root, make_skeleton
from sandboxbuild.store.scratch import Scratch

if TYPE_CHECKING:
    from sandboxbuild.store.hashes import FileHashes
    from sandboxbuild.store.images import Images
    from sandboxbuild.store.inventory import Item, Usage
    from sandboxbuild.store.sweep import Pruned, Remove


class Store:
    """One store on disk. Thread-safe; any number of processes may have it open.

    `build_id` names the build that this process works for: launcher and executor of one build give the same. Without it the
    process counts as a build of its own. Everything that it begins is removed when it and all others of the build are gone.
    """

    def __init__(self, path: str, *, create: bool = True, build_id: str = "", ids: str = "") -> None:
        """Open the store at `path`; with `create`, make what is missing of it for the caller. Raises UsageError."""
        if create:
            make_skeleton(path, os.geteuid(), os.getegid(), ids)
        self.root = Root(path)
        self.path = self.root.path
        self._scratch = Scratch(self.root, build_id)
        self.blobs = Blobs(self._scratch)
        self.layers = Layers(self._scratch)
        self.shared_layers: Layers | None = None
        self.cache = StepCache(self._scratch)
        self._images: Images | None = None
        self._hashes: FileHashes | None = None

    @classmethod
    def create(
        cls, path: str, owner_uid: int, owner_gid: int, *, ids: str = "", build_id: str = "", remove: Remove | None = None
    ) -> Store:
        """Make or open the store as the launcher: owned by the executor's host ids, for the mapping of ids called `ids`.

        Takes the lease, drops what a power loss may have torn, and removes what dead builds left; `remove` as in prune().
        Raises UsageError, IsolationError.
        """
        from sandboxbuild.store.recovery import boot_id, recover

        make_skeleton(path, owner_uid, owner_gid, ids)
        store = cls(path, create=False, build_id=build_id)
        try:
            store.hold()
            recover(store._scratch, store.blobs, store.images, remove, boot_id(), _now_ns())
            store.clear_leftovers(remove=remove)
        except IsolationError:
            pass  # trees that only a user namespace may remove stay until somebody can
        except BaseException:
            store.close()
            raise
        return store

    @property
    def images(self) -> Images:
        if self._images is None:
            from sandboxbuild.store.images import Images

            self._images = Images(self._scratch, self.blobs)
        return self._images

    @property
    def hashes(self) -> FileHashes:
        if self._hashes is None:
            from sandboxbuild.store.hashes import FileHashes

            self._hashes = FileHashes(self._scratch)
        return self._hashes

    def keep_layers_at(self, path: str) -> None:
        """Keep this process's unpacked layers below `path`, for itself: where the store's filesystem can't hold them as they
        are (no whiteouts, no attributes). The store's own are then `shared_layers`, of which only plain ones are of use. Call
        before anything uses `layers`. Raises UsageError.
        """
        make_skeleton(path, os.geteuid(), os.getegid(), "")
        self.shared_layers = self.layers
        self.layers = Layers(Scratch(Root(path), self._scratch.build_id))

    @property
    def scratch(self) -> str:
        """A folder (0700) for whatever this build has under way, on the same mount as all the rest."""
        return self._scratch.path

    def hold(self) -> None:
        """Take the build's lease now: from here to close(), nothing that it uses is pruned. Idempotent."""
        self._scratch.hold()

    def items(self) -> tuple[Item, ...]:
        """Everything in the store with its size and last use."""
        from sandboxbuild.store.images import Images
        from sandboxbuild.store.inventory import inventory

        return inventory(self.root, Images(self._scratch, Blobs(self._scratch, marks_use=False)))

    def usage(self) -> Usage:
        from sandboxbuild.store.inventory import usage_of

        return usage_of(self.items())

    def prune(
        self,
        keep_bytes: int | None = None,
        older_than_s: float | None = None,
        all_unused: bool = False,
        *,
        remove: Remove | None = None,
    ) -> Pruned:
        """Remove what dead builds left and what nobody needs, by the rules of `store.prune`; safe beside live builds.

        `remove` removes a tree by its absolute path: for a user whose unpacked layers have owners that only a user namespace
        can act for.
        """
        from sandboxbuild.store.leases import live_starts
        from sandboxbuild.store.prune import Limits, choose_removals
        from sandboxbuild.store.sweep import clear_leftovers, remove_items

        starts = live_starts(self.root, except_id=self._scratch.build_id)
        leftovers = clear_leftovers(self._scratch, remove)
        limits = Limits(
            keep_bytes,
            None if older_than_s is None else _now_ns() - int(older_than_s * 1e9),
            all_unused,
            min(starts.values(), default=None),
        )
        pruned = remove_items(self._scratch, choose_removals(self.items(), limits), remove)
        return pruned._replace(leftovers=leftovers)

    def clear_leftovers(self, *, remove: Remove | None = None) -> int:
        """Remove what dead builds left under way; gives how many there were."""
        from sandboxbuild.store.sweep import clear_leftovers

        return clear_leftovers(self._scratch, remove)

    def close(self) -> None:
        """Give up the lease. Idempotent; streams and paths that were given out stay usable."""
        if self.root.fd >= 0:
            self._scratch.close()
            self.root.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _now_ns() -> int:
    import time

    return time.time_ns()


__all__ = ["StepRecord", "Store"]
