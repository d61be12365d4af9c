"""Named images: which manifest or index a name stands for, one small file for each name.

What these files say comes from the executor: names and descriptors are checked again whenever they are read.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from sandboxbuild.errors import IntegrityError, SandboxbuildError, UsageError
from sandboxbuild.oci.config import MAX_CONFIG_BYTES, ImageConfig, decode_config
from sandboxbuild.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor, decode_descriptor, encode_descriptor
from sandboxbuild.oci.digest import is_digest, parse_digest
from sandboxbuild.oci.documents import MAX_DOCUMENT_BYTES, encode_document, parse_document
from sandboxbuild.oci.manifest import Index, Manifest, decode, decode_manifest
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.store.blobs import Blobs
from sandboxbuild.store.layout import read_small
from sandboxbuild.store.leases import using
from sandboxbuild.store.scratch import Scratch

FOLDER: Final = "images"
_MAX_BYTES: Final = 64 * 1024
_PREFIX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{4,64})", re.ASCII)
_FILE: Final = re.compile(r"[0-9a-f]{64}\.json", re.ASCII)


class StoredImage(NamedTuple):
    """A name and what it stands for. `name` is a normalised reference, or the digest of an image that was given no name."""

    name: str
    descriptor: Descriptor
    used_ns: int

    @property
    def is_named(self) -> bool:
        return not is_digest(self.name)


class Images:
    """Thread-safe, and safe with other processes: the last to set a name wins."""

    __slots__ = ("_blobs", "_scratch")

    def __init__(self, scratch: Scratch, blobs: Blobs) -> None:
        self._scratch = scratch
        self._blobs = blobs

    def tag(self, name: str, descriptor: Descriptor) -> StoredImage:
        """Let `name` (any reference, or the image's own digest) stand for a manifest or index that is in the store.

        Raises UsageError for what is no name, IntegrityError if the manifest isn't there.
        """
        normal = _normal(name)
        if not self._blobs.has(descriptor.digest):
            raise IntegrityError(f"{descriptor.digest} is not in the store, so it can't be named {normal}")
        self._blobs.touch(self.reachable(descriptor))
        document = {"name": normal, "descriptor": encode_descriptor(descriptor)}
        with using(self._scratch.root):
            self._scratch.write_small(FOLDER, _file_name(normal), encode_document(document))
        image = self._read(_file_name(normal))
        return image if image is not None else StoredImage(normal, descriptor, 0)

    def find(self, name_or_digest: str) -> StoredImage | None:
        """The image of that name, else of that digest (of manifest or config), whole or its first four hex digits or more.

        What is found is marked as used. Raises UsageError if digits stand for several images.
        """
        found = self._found(name_or_digest)
        if found is not None:
            self._touch(found)
        return found

    def _found(self, name_or_digest: str) -> StoredImage | None:
        images = self.list()
        match = _PREFIX.fullmatch(name_or_digest)
        if not is_digest(name_or_digest):
            try:
                wanted = _normal(name_or_digest)
            except UsageError:
                if match is None:
                    raise
                wanted = ""
            for image in images:
                if image.name == wanted:
                    return image
        return None if match is None else self._by_digits(images, match.group(1), name_or_digest)

    def list(self) -> tuple[StoredImage, ...]:
        """All images, by name."""
        fd = self._scratch.root.reopened(FOLDER)
        try:
            files = [name for name in os.listdir(fd) if _FILE.fullmatch(name)]
        finally:
            os.close(fd)
        found = (self._read(name) for name in files)
        return tuple(sorted(image for image in found if image is not None))

    def remove(self, name: str) -> bool:
        """Forget a name; whether it was there. What it stood for goes with the next prune."""
        try:
            os.unlink(_file_name(_normal(name)), dir_fd=self._scratch.root.folder(FOLDER))
        except FileNotFoundError:
            return False
        return True

    def file_of(self, name: str) -> str:
        """The file of a name that list() gave."""
        return _file_name(name)

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        """The manifest or index, verified. Raises IntegrityError, RegistryError."""
        return decode(self._blobs.read(descriptor.digest, MAX_DOCUMENT_BYTES), descriptor.media_type)

    def config(self, manifest: Manifest) -> ImageConfig:
        """The config of a manifest, verified."""
        return decode_config(self._blobs.read(manifest.config.digest, MAX_CONFIG_BYTES))

    def manifests(self, descriptor: Descriptor) -> Iterator[tuple[Descriptor, Manifest]]:
        """The manifests that a descriptor leads to: itself, or those of its index. Raises IntegrityError if one is missing.

        What is no image (attestations, whose platform is unknown/unknown) is left out.
        """
        document = self.document(descriptor)
        if isinstance(document, Manifest):
            yield descriptor, document
            return
        for child in document.manifests:
            if child.media_type in MANIFEST_TYPES and child.platform != "unknown/unknown":
                yield child, decode_manifest(self._blobs.read(child.digest, MAX_DOCUMENT_BYTES), child.media_type)

    def reachable(self, descriptor: Descriptor) -> dict[str, int]:
        """All blobs that the image is made of, and their sizes; those of them that can't be read lead no further."""
        found = {descriptor.digest: descriptor.size_bytes}
        pending = [descriptor]
        while pending:
            current = pending.pop()
            children = self._children(current)
            if current.media_type in INDEX_TYPES:
                pending.extend(child for child in children if child.digest not in found)
            found.update((child.digest, child.size_bytes) for child in children)
        return found

    def _touch(self, image: StoredImage) -> None:
        try:
            os.utime(_file_name(image.name), dir_fd=self._scratch.root.folder(FOLDER), follow_symlinks=False)
        except OSError:
            pass  # a store that we may only read

    def _children(self, descriptor: Descriptor) -> tuple[Descriptor, ...]:
        try:
            document = self.document(descriptor)
        except SandboxbuildError:
            return ()
        return document.manifests if isinstance(document, Index) else (document.config, *document.layers)

    def _by_digits(self, images: tuple[StoredImage, ...], digits: str, text: str) -> StoredImage | None:
        prefix = f"sha256:{digits}"
        found = {image.descriptor.digest: image for image in images if image.descriptor.digest.startswith(prefix)}
        if not found:
            found = {image.descriptor.digest: image for image in images if self._has_config(image, prefix)}
        if len(found) > 1:
            raise UsageError(f"{text} stands for {len(found)} images", hint="give more digits, or a name")
        return next(iter(found.values()), None)

    def _has_config(self, image: StoredImage, prefix: str) -> bool:
        try:
            return any(manifest.config.digest.startswith(prefix) for _, manifest in self.manifests(image.descriptor))
        except SandboxbuildError:
            return False

    def _read(self, file_name: str) -> StoredImage | None:
        """None for a file that is torn, or that says something else than its name does."""
        folder = self._scratch.root.folder(FOLDER)
        try:
            fields = parse_document(read_small(folder, file_name, _MAX_BYTES), "the image's entry", _MAX_BYTES)
            descriptor = fields.object("descriptor")
            name = _normal(fields.text("name"))
            if descriptor is None or _file_name(name) != file_name:
                return None
            used_ns = os.stat(file_name, dir_fd=folder, follow_symlinks=False).st_mtime_ns
            return StoredImage(name, decode_descriptor(descriptor), used_ns)
        except (SandboxbuildError, OSError):
            return None


def _normal(name: str) -> str:
    return parse_digest(name) if is_digest(name) else str(parse_reference(name))


def _file_name(normal: str) -> str:
    return hashlib.sha256(normal.encode()).hexdigest() + ".json"
