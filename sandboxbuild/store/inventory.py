"""What is in a store: each thing with its size, its last use and the blobs it keeps; and the sums that `du` shows."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.oci.digest import chain_ids
from sandboxbuild.store import cache
from sandboxbuild.store.cache import decode_record
from sandboxbuild.store.images import Images, StoredImage
from sandboxbuild.store.layers import MADE, TREE
from sandboxbuild.store.layout import Root, read_small

_HEX: Final = {"sha256": re.compile(r"[0-9a-f]{64}", re.ASCII), "sha512": re.compile(r"[0-9a-f]{128}", re.ASCII)}
_BLOCK: Final = 512  # st_blocks, stat(2)


class Item(NamedTuple):
    """One thing that can be removed. `kind` is blob, layer, step or image.

    `folder` and `file` say where it lies. `key` is the digest of a blob, the ChainID of a layer or the name of an image.
    `blobs` are the digests that a step or an image keeps, `chains` the unpacked layers that belong to it.
    """

    kind: str
    key: str
    folder: str
    file: str
    size_bytes: int
    used_ns: int
    blobs: frozenset[str] = frozenset()
    chains: frozenset[str] = frozenset()


class Usage(NamedTuple):
    """Bytes on disk and counts. `shared_bytes` are those of blobs that several images or steps keep; `reclaimable_bytes` of
    all that no named image keeps."""

    blobs_bytes: int
    blobs: int
    layers_bytes: int
    layers: int
    cache_bytes: int
    steps: int
    images: int
    shared_bytes: int
    reclaimable_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.blobs_bytes + self.layers_bytes + self.cache_bytes


def usage_of(items: Iterable[Item]) -> Usage:
    """The sums over an inventory."""
    by_kind: dict[str, list[Item]] = {"blob": [], "layer": [], "step": [], "image": []}
    for item in items:
        by_kind[item.kind].append(item)
    keepers = Counter(digest for item in by_kind["step"] + by_kind["image"] for digest in item.blobs)
    kept = {digest for item in by_kind["image"] for digest in item.blobs}
    sizes = {kind: sum(item.size_bytes for item in found) for kind, found in by_kind.items()}
    return Usage(
        blobs_bytes=sizes["blob"],
        blobs=len(by_kind["blob"]),
        layers_bytes=sizes["layer"],
        layers=len(by_kind["layer"]),
        cache_bytes=sizes["step"] + sizes["image"],
        steps=len(by_kind["step"]),
        images=len(by_kind["image"]),
        shared_bytes=sum(blob.size_bytes for blob in by_kind["blob"] if keepers[blob.key] > 1),
        reclaimable_bytes=sizes["layer"]
        + sizes["step"]
        + sum(blob.size_bytes for blob in by_kind["blob"] if blob.key not in kept),
    )


def inventory(root: Root, images: Images) -> tuple[Item, ...]:
    """All that is in the store; what vanishes while it is listed is left out. Marks nothing as used."""
    return (*_blobs(root), *_layers(root), *_steps(root), *_images(root, images))


def _listed(root: Root, folder: str, pattern: re.Pattern[str]) -> Iterator[tuple[str, os.stat_result]]:
    fd = root.reopened(folder)
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if pattern.fullmatch(entry.name):
                    try:
                        yield entry.name, entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        continue
    finally:
        os.close(fd)


def _blobs(root: Root) -> Iterator[Item]:
    for algorithm, pattern in _HEX.items():
        folder = f"blobs/{algorithm}"
        for name, status in _listed(root, folder, pattern):
            yield Item("blob", f"{algorithm}:{name}", folder, name, status.st_blocks * _BLOCK, status.st_mtime_ns)


def _layers(root: Root) -> Iterator[Item]:
    for name, status in _listed(root, "layers", _HEX["sha256"]):
        yield Item("layer", f"sha256:{name}", "layers", name, _layer_size(root, name), status.st_mtime_ns)


def _steps(root: Root) -> Iterator[Item]:
    folder = root.folder(cache.FOLDER)
    for name, status in _listed(root, cache.FOLDER, _HEX["sha256"]):
        try:
            record = decode_record(read_small(folder, name))
        except OSError:
            record = None  # torn or no file at all: it keeps nothing, and goes when its turn comes
        blobs = frozenset() if record is None or record.layer is None else frozenset({record.layer.digest})
        chains = frozenset() if record is None or not record.chain_id else frozenset({record.chain_id})
        size_bytes = status.st_blocks * _BLOCK
        yield Item("step", name, cache.FOLDER, name, size_bytes, status.st_mtime_ns, blobs, chains)


def _images(root: Root, images: Images) -> Iterator[Item]:
    folder = root.folder("images")
    for image in images.list():
        file = images.file_of(image.name)
        try:
            status = os.stat(file, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue
        blobs = frozenset(images.reachable(image.descriptor))
        size_bytes = status.st_blocks * _BLOCK
        yield Item("image", image.name, "images", file, size_bytes, status.st_mtime_ns, blobs, _chains(images, image))


def _chains(images: Images, image: StoredImage) -> frozenset[str]:
    """The ChainIDs of all of the image's layers, of each platform."""
    found: set[str] = set()
    try:
        for _, manifest in images.manifests(image.descriptor):
            found.update(chain_ids(images.config(manifest).diff_ids))
    except SandboxbuildError:
        pass  # a part of it is missing: then its unpacked layers are worth no more than their last use
    return frozenset(found)


def _layer_size(root: Root, name: str) -> int:
    """What the commit noted, else what a walk finds."""
    try:
        wrapper = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root.folder("layers"))
    except OSError:
        return 0
    try:
        noted = _noted_size(wrapper)
        return tree_size(wrapper, TREE) if noted is None else noted
    finally:
        os.close(wrapper)


def _noted_size(wrapper_fd: int) -> int | None:
    try:
        text = read_small(wrapper_fd, MADE, 32)
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def tree_size(parent_fd: int, name: str) -> int:
    """Bytes on disk below a directory, hard links counted once; what may not be read counts nothing. Follows no link."""
    total = 0
    seen: set[int] = set()
    try:
        for _, _, names, fd in os.fwalk(name, dir_fd=parent_fd):
            total += os.fstat(fd).st_blocks * _BLOCK
            for file in names:
                total += _file_size(fd, file, seen)
    except (OSError, RecursionError):
        pass  # it is being removed, or nested as deep as nothing but an attack is
    return total


def _file_size(folder_fd: int, name: str, seen: set[int]) -> int:
    try:
        status = os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except OSError:
        return 0
    if status.st_nlink > 1:
        if status.st_ino in seen:
            return 0
        seen.add(status.st_ino)
    return status.st_blocks * _BLOCK
