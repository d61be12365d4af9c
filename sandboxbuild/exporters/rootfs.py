"""The image's filesystem itself: below a directory, or as one tar.

The tar says what the image says. In a directory of this machine a stranger's image must not become a door: device nodes are
left out, set-id bits and file capabilities go unless the directory is root's alone, and a normal user gets all files as
their own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final, cast

from sandboxbuild.archive import member as kinds
from sandboxbuild.archive.hiding import RemovingHiding
from sandboxbuild.archive.member import CHUNK, ArchiveLimits, TarMember
from sandboxbuild.archive.reader import TarReader
from sandboxbuild.archive.unpack import Unpacker
from sandboxbuild.errors import IntegrityError
from sandboxbuild.exporters import Exported, Output
from sandboxbuild.exporters.contents import PlatformImage, one_image, platform_images
from sandboxbuild.exporters.destination import destination_errors, new_directory, opened, present_directory
from sandboxbuild.exporters.flatten import FlatTree
from sandboxbuild.exporters.tarfiles import TarFile
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.store import Store

_DEVICES: Final = frozenset({kinds.CHARACTER_DEVICE, kinds.BLOCK_DEVICE})
_SET_IDS: Final = stat.S_ISUID | stat.S_ISGID
_ZEROS: Final = bytes(CHUNK)


def export(store: Store, image: Descriptor, output: Output) -> Exported:
    """Exporter. Of an index each platform gets a folder such as linux_arm64, as in BuildKit, unless one is chosen."""
    images = (one_image(store, image, output.platform),) if output.platform else platform_images(store, image)
    parts = {_folder(found): found for found in images} if len(images) > 1 else {"": images[0]}
    if output.is_tar:
        with opened(output) as write:
            tar = TarFile(write)
            for folder, found in parts.items():
                _write_tar(tar, store, found, folder)
            tar.finish()
        return Exported(output.destination)
    return Exported(output.destination, _export_directory(store, parts, output.destination))


def _folder(image: PlatformImage) -> str:
    return image.platform.replace("/", "_")


def _write_tar(tar: TarFile, store: Store, image: PlatformImage, folder: str) -> None:
    prefix = os.fsencode(folder) + b"/" if folder else b""
    if folder:
        tar.directory(folder)
    tree = FlatTree(store, image.image.layers)
    try:
        while (found := tree.next_member()) is not None:
            if found.path:
                link = prefix + found.link_target if found.kind == kinds.HARD_LINK else found.link_target
                tar.member(found._replace(path=prefix + found.path, link_target=link), _content(tree, found))
    finally:
        tree.close()


def _content(tree: FlatTree, found: TarMember) -> Iterator[bytes | memoryview]:
    """A file's bytes, holes written out."""
    if found.segments is None:
        while piece := tree.piece():
            yield piece
        return
    at, piece = 0, memoryview(b"")
    for offset, length in found.segments:
        yield from _zeros(offset - at)
        at = offset + length
        while length:
            piece = piece or tree.piece()
            yield piece[:length]
            taken = min(length, len(piece))
            length, piece = length - taken, piece[taken:]
    yield from _zeros(found.size_bytes - at)


def _zeros(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ZEROS[:count]
        count -= CHUNK


def _export_directory(store: Store, parts: dict[str, PlatformImage], destination: str) -> tuple[str, ...]:
    is_root = os.geteuid() == 0
    if os.path.lexists(destination):
        guard = _Guard(keep_owners=is_root, keep_set_ids=is_root and _is_private(destination))
        with present_directory(destination) as folder:
            return _unpack_parts(store, parts, folder, guard)
    with new_directory(destination, 0o700 if is_root else 0o755) as folder:
        return _unpack_parts(store, parts, folder, _Guard(keep_owners=is_root, keep_set_ids=is_root))


def _is_private(path: str) -> bool:
    """Whether nobody but root can reach what is in the directory."""
    with destination_errors(path):
        status = os.stat(path)
    return status.st_uid == 0 and not status.st_mode & 0o077


def _unpack_parts(store: Store, parts: dict[str, PlatformImage], folder: str, guard: _Guard) -> tuple[str, ...]:
    for name, image in parts.items():
        target = os.path.join(folder, name) if name else folder
        with destination_errors(target):
            os.makedirs(target, exist_ok=True)
            _unpack(store, image, target, guard)
    return guard.warnings()


def _unpack(store: Store, image: PlatformImage, target: str, guard: _Guard) -> None:
    limits = ArchiveLimits()
    tree = FlatTree(store, image.image.layers, limits)
    root_fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # The Unpacker asks its reader for members and pieces alone, which is what a guarded tree has.
        reader = cast(TarReader, _GuardedTree(tree, guard))
        owner = None if guard.keep_owners else (os.geteuid(), os.getegid())
        unpacker = Unpacker(root_fd, reader, hiding=_KeepsRoot(), limits=limits, error=IntegrityError, owner=owner)
        try:
            unpacker.run()
        finally:
            unpacker.close()
    finally:
        os.close(root_fd)
        tree.close()


class _KeepsRoot(RemovingHiding):
    """The destination's own mode and owner are the operator's."""

    leaves_root = True


class _Guard:
    """What of an image is kept from this machine's filesystem, and how much that was."""

    def __init__(self, *, keep_owners: bool, keep_set_ids: bool) -> None:
        self.keep_owners = keep_owners
        self._keep_set_ids = keep_set_ids
        self._devices = 0
        self._set_ids = 0

    def filtered(self, found: TarMember) -> TarMember | None:
        if found.kind in _DEVICES:
            self._devices += 1
            return None
        if self._keep_set_ids:
            return found
        if not self.keep_owners and found.kind == kinds.DIRECTORY:
            found = found._replace(mode=found.mode | 0o700)  # or a normal user could not fill it
        xattrs = tuple(xattr for xattr in found.xattrs if xattr[0].startswith("user."))
        has_set_id = found.kind != kinds.DIRECTORY and found.mode & _SET_IDS
        self._set_ids += bool(has_set_id or xattrs != found.xattrs)
        return found._replace(mode=found.mode & ~_SET_IDS if has_set_id else found.mode, xattrs=xattrs)

    def warnings(self) -> tuple[str, ...]:
        found = []
        if self._devices:
            found.append(f"{self._devices} device nodes were left out")
        if self._set_ids:
            found.append(f"{self._set_ids} files lost set-id bits or capabilities, as the directory isn't root's alone")
        return tuple(found)


class _GuardedTree:
    """A FlatTree without what the guard keeps out."""

    def __init__(self, tree: FlatTree, guard: _Guard) -> None:
        self._tree = tree
        self._guard = guard
        self.piece = tree.piece

    def next_member(self) -> TarMember | None:
        while (found := self._tree.next_member()) is not None:
            kept = self._guard.filtered(found)
            if kept is not None:
                return kept
        return None
