"""After a power loss: nothing here is fsynced, so what was written shortly before may be torn. Blobs can tell by their digest,
unpacked layers can't: those that may not have reached the disk are dropped and unpacked again when they are needed.

`boot.json` holds the kernel's boot id, and a time before which everything was on disk: the kernel writes back what is dirty
for 30 s (vm.dirty_expire_centisecs), so what is older than two minutes when a store is opened in the same boot is settled.
"""

from __future__ import annotations

import json
import os
import time
from typing import Final

from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.store.blobs import Blobs
from sandboxbuild.store.images import Images
from sandboxbuild.store.inventory import Item, inventory
from sandboxbuild.store.layers import MADE
from sandboxbuild.store.layout import Root, read_small
from sandboxbuild.store.scratch import Scratch
from sandboxbuild.store.sweep import Remove, discard

_FILE: Final = "boot.json"
_FOLDER: Final = "cache"
_SETTLE_NS: Final = 120 * 10**9
_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"


def boot_id() -> str:
    """The kernel's name for the time since it started; "" where it doesn't say."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read(64).strip()
    except OSError:
        return ""


def recover(scratch: Scratch, blobs: Blobs, images: Images, remove: Remove | None, boot: str, now_ns: int) -> int:
    """Drop what a power loss may have torn, if this is another boot than the last; gives how many things were dropped."""
    last_boot, settled_ns = _last(scratch.root)
    dropped = 0
    if last_boot and boot and last_boot != boot:
        dropped = _drop_unsettled(scratch, blobs, images, remove, settled_ns)
        settled_ns = now_ns
    document = {"boot_id": boot, "settled_ns": max(settled_ns, now_ns - _SETTLE_NS)}
    scratch.write_small(_FOLDER, _FILE, json.dumps(document, sort_keys=True).encode())
    return dropped


def _last(root: Root) -> tuple[str, int]:
    try:
        document = json.loads(read_small(root.folder(_FOLDER), _FILE, 4096))
        return str(document["boot_id"]), int(document["settled_ns"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


def _drop_unsettled(scratch: Scratch, blobs: Blobs, images: Images, remove: Remove | None, settled_ns: int) -> int:
    items = inventory(scratch.root, images)
    layers = [item for item in items if item.kind == "layer" and _made_ns(scratch.root, item.file) >= settled_ns]
    discard(scratch, layers, remove)
    torn = [item for item in items if item.kind == "blob" and item.used_ns >= settled_ns and not _is_whole(blobs, item)]
    return len(layers) + len(torn)


def _made_ns(root: Root, name: str) -> int:
    """When a layer was committed; one that doesn't say was committed just now."""
    try:
        return os.stat(f"{name}/{MADE}", dir_fd=root.folder("layers"), follow_symlinks=False).st_mtime_ns
    except OSError:
        return time.time_ns()


def _is_whole(blobs: Blobs, item: Item) -> bool:
    """Reading it removes it if it is torn."""
    try:
        with blobs.open(item.key) as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
        for _ in blobs.stream(Descriptor("", item.key, size_bytes)):
            pass
    except IntegrityError:
        return False
    return True
