"""What to remove from a store: a pure decision over its inventory, least recently used first.

- Without a limit: blobs that no named image and no cached step keeps, and unpacked layers that belong to none.
- `everything`: all but the named images and what they are made of.
- `older_than_ns`: only what was last used before that moment.
- `keep_bytes`: only until that much is left; where all else doesn't suffice, named images go too, the longest unused first.

Whatever a live build may be using (used since the first of them began) stays in any case.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sandboxbuild.store.inventory import Item


class Limits(NamedTuple):
    """None is no limit. `protected_ns`: what was used at this time or later stays."""

    keep_bytes: int | None = None
    older_than_ns: int | None = None
    everything: bool = False
    protected_ns: int | None = None


def choose_removals(items: Sequence[Item], limits: Limits) -> tuple[Item, ...]:
    """The items to remove, in the order in which to do it: what keeps a blob goes before the blob."""
    if limits.keep_bytes is None and limits.older_than_ns is None and not limits.everything:
        return _garbage(items, limits)
    excess = None if limits.keep_bytes is None else sum(item.size_bytes for item in items) - limits.keep_bytes
    sweep = _Sweep(items, limits, excess)
    sweep.run(item for item in items if item.kind != "image")
    if limits.keep_bytes is not None:
        sweep.run(item for item in items if item.kind == "image")
    return tuple(sweep.removed)


def _garbage(items: Sequence[Item], limits: Limits) -> tuple[Item, ...]:
    kept = {name for item in items for name in item.blobs | item.chains}
    unkept = [item for item in items if item.kind in ("blob", "layer") and item.key not in kept]
    return tuple(item for item in sorted(unkept, key=_by_use) if not _is_protected(item, limits))


def _by_use(item: Item) -> tuple[int, str]:
    return (item.used_ns, item.key)


def _is_protected(item: Item, limits: Limits) -> bool:
    return limits.protected_ns is not None and item.used_ns >= limits.protected_ns


class _Sweep:
    """Takes items away until enough is gone. A blob's turn comes when nothing keeps it any more."""

    def __init__(self, items: Sequence[Item], limits: Limits, excess_bytes: int | None) -> None:
        self.removed: list[Item] = []
        self._limits = limits
        self._excess_bytes = excess_bytes
        self._blobs = {item.key: item for item in items if item.kind == "blob"}
        self._keepers = Counter(digest for item in items for digest in item.blobs)

    def run(self, candidates: Iterable[Item]) -> None:
        queue = [(_by_use(item), item) for item in candidates if item.kind != "blob" or not self._keepers[item.key]]
        heapq.heapify(queue)
        while queue and not self._is_enough():
            item = heapq.heappop(queue)[1]
            if not self._may_go(item):
                continue
            self._remove(item)
            for digest in sorted(item.blobs):
                self._keepers[digest] -= 1
                blob = self._blobs.get(digest)
                if blob is not None and not self._keepers[digest]:
                    heapq.heappush(queue, (_by_use(blob), blob))

    def _is_enough(self) -> bool:
        return self._excess_bytes is not None and self._excess_bytes <= 0

    def _may_go(self, item: Item) -> bool:
        too_young = self._limits.older_than_ns is not None and item.used_ns >= self._limits.older_than_ns
        return not too_young and not _is_protected(item, self._limits)

    def _remove(self, item: Item) -> None:
        self.removed.append(item)
        if self._excess_bytes is not None:
            self._excess_bytes -= item.size_bytes
