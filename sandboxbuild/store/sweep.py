"""Carrying removals out, while builds are at work in the same store.

Under the lock that makes every user wait, each item is looked at once more: one that was used since it was listed stays. What
goes is renamed into a trash folder (a rename is all that the others have to wait for) and removed from there by descriptors.
After a crash the trash lies in the scratch folder of a dead build, as all leftovers do.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import IsolationError
from sandboxbuild.store.disk import fresh_name
from sandboxbuild.store.inventory import Item
from sandboxbuild.store.layout import is_plain_name
from sandboxbuild.store.leases import is_live, removing
from sandboxbuild.store.scratch import Scratch

Remove = Callable[[str], object]  # takes an absolute path; for trees whose owners the caller is not
_BATCH: Final = 32


class Pruned(NamedTuple):
    """What was removed: counts, and bytes as they were on disk."""

    blobs: int = 0
    layers: int = 0
    steps: int = 0
    images: int = 0
    leftovers: int = 0
    freed_bytes: int = 0


def remove_items(scratch: Scratch, items: Sequence[Item], remove: Remove | None) -> Pruned:
    """Remove those of `items` that nobody has used since they were listed."""
    gone: list[Item] = []
    for start in range(0, len(items), _BATCH):
        trash = fresh_name("trash")
        os.mkdir(trash, 0o700, dir_fd=scratch.fd)
        with removing(scratch.root):
            gone += [item for item in items[start : start + _BATCH] if _move_away(scratch, item, trash)]
        _destroy(scratch, trash, remove)
    counts = Counter(item.kind for item in gone)
    freed_bytes = sum(item.size_bytes for item in gone)
    return Pruned(counts["blob"], counts["layer"], counts["step"], counts["image"], 0, freed_bytes)


def clear_leftovers(scratch: Scratch, remove: Remove | None) -> int:
    """Remove the scratch folders of builds that are over, however they ended; gives how many there were."""
    fd = scratch.root.reopened("tmp")
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    dead = [name for name in names if name != scratch.build_id and not (is_plain_name(name) and is_live(scratch.root, name))]
    for name in dead:
        trash = fresh_name("trash")
        try:
            os.rename(name, trash, src_dir_fd=scratch.root.folder("tmp"), dst_dir_fd=scratch.fd)
        except OSError:
            continue  # another process clears it at this moment, or it isn't ours to clear
        _destroy(scratch, trash, remove)
    return len(dead)


def discard(scratch: Scratch, items: Iterable[Item], remove: Remove | None) -> None:
    """Remove `items` whoever uses them."""
    trash = fresh_name("trash")
    os.mkdir(trash, 0o700, dir_fd=scratch.fd)
    for item in items:
        _rename(scratch, item, trash)
    _destroy(scratch, trash, remove)


def _move_away(scratch: Scratch, item: Item, trash: str) -> bool:
    try:
        status = os.stat(item.file, dir_fd=scratch.root.folder(item.folder), follow_symlinks=False)
    except FileNotFoundError:
        return False
    return status.st_mtime_ns == item.used_ns and _rename(scratch, item, trash)


def _rename(scratch: Scratch, item: Item, trash: str) -> bool:
    try:
        os.rename(
            item.file, f"{trash}/{fresh_name(item.kind)}", src_dir_fd=scratch.root.folder(item.folder), dst_dir_fd=scratch.fd
        )
    except FileNotFoundError:
        return False
    return True


def _destroy(scratch: Scratch, trash: str, remove: Remove | None) -> None:
    path = f"{scratch.path}/{trash}"
    if remove is not None:
        remove(path)
        return
    try:
        scratch.remove(trash)
    except PermissionError as error:
        raise IsolationError(
            f"{path} holds unpacked layers of other user ids, which this user can't remove",
            hint="they go when a build with these ids clears the store, or remove the store as root",
        ) from error
