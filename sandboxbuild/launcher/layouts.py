"""Named contexts that are images in an OCI layout: their blobs are verified on their way into the store.

Source: image-spec image-layout.md. The layout is the operator's by its path, and a stranger's by its content.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Final, NamedTuple

from sandboxbuild.errors import ContextError, IntegrityError, RegistryError
from sandboxbuild.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from sandboxbuild.oci.digest import algorithm_of, encoded_of, is_digest, parse_digest
from sandboxbuild.oci.documents import MAX_DOCUMENT_BYTES
from sandboxbuild.oci.manifest import Index, Manifest, decode
from sandboxbuild.store import Store
from sandboxbuild.system.files import open_in_root, read_limited

SCHEME: Final = "oci-layout://"
REF_NAME: Final = "org.opencontainers.image.ref.name"
_DEFAULT_TAG: Final = "latest"
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_CHUNK: Final = 1 << 20
_DEPTH: Final = 4
_DOCUMENTS: Final = 500


class LayoutImage(NamedTuple):
    """An image of a layout: the folder, and a tag or digest ("" for the tag latest, or the only image)."""

    folder: str
    selector: str = ""


def parse_layout(text: str) -> LayoutImage:
    """`oci-layout://DIR[:TAG|@DIGEST]`. Raises ContextError."""
    path = text.removeprefix(SCHEME)
    folder, at, digest = path.partition("@")
    if at:
        if not is_digest(digest):
            raise ContextError(f"{text!r} has a malformed digest")
        return LayoutImage(folder, digest)
    head, colon, tag = path.rpartition(":")
    if colon and "/" not in tag and not os.path.isdir(path):
        if not _TAG.fullmatch(tag):
            raise ContextError(f"{text!r} has a malformed tag")
        return LayoutImage(head, tag)
    return LayoutImage(path)


def load_image(image: LayoutImage, store: Store) -> Descriptor:
    """Copy the image's documents and blobs into the store; gives the descriptor of its manifest or index.

    An index's images that the layout lacks are left out, as it may hold one platform alone. Raises ContextError,
    IntegrityError for bytes that aren't what their digest says.
    """
    try:
        root = os.open(image.folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ContextError(f"the OCI layout {image.folder!r} can't be opened: {error.strerror}") from error
    try:
        return _Layout(root, image, store).load()
    finally:
        os.close(root)


class _Layout:
    def __init__(self, root: int, image: LayoutImage, store: Store) -> None:
        self._root = root
        self._image = image
        self._store = store
        self._documents = 0

    def load(self) -> Descriptor:
        index = self._index()
        chosen = self._chosen(index)
        self._copy(chosen, 0)
        return chosen

    def _index(self) -> Index:
        descriptor = self._open("index.json")
        if descriptor is None:
            raise ContextError(f"{self._image.folder!r} is no OCI layout: it has no index.json")
        try:
            document = decode(read_limited(descriptor, MAX_DOCUMENT_BYTES), "")
        except (OSError, RegistryError) as error:
            raise ContextError(f"the index.json of {self._image.folder!r} is malformed: {error}") from error
        finally:
            os.close(descriptor)
        if not isinstance(document, Index):
            raise ContextError(f"the index.json of {self._image.folder!r} is no index")
        return document

    def _chosen(self, index: Index) -> Descriptor:
        selector = self._image.selector
        images = [child for child in index.manifests if child.media_type in (*MANIFEST_TYPES, *INDEX_TYPES)]
        if is_digest(selector):
            found = [child for child in images if child.digest == selector]
        else:
            found = [child for child in images if dict(child.annotations).get(REF_NAME) == (selector or _DEFAULT_TAG)]
            found = found or (images if not selector and len(images) == 1 else [])
        if not found:
            raise ContextError(f"the OCI layout {self._image.folder!r} has no image {selector or _DEFAULT_TAG!r}")
        return found[0]

    def _copy(self, descriptor: Descriptor, depth: int) -> None:
        self._documents += 1
        if depth > _DEPTH or self._documents > _DOCUMENTS:
            raise ContextError(f"the OCI layout {self._image.folder!r} has an index of too many indexes")
        if not self._copy_blob(descriptor):
            raise ContextError(f"the OCI layout {self._image.folder!r} lacks the blob {descriptor.digest}")
        document = decode(self._store.blobs.read(descriptor.digest, MAX_DOCUMENT_BYTES), descriptor.media_type)
        if isinstance(document, Manifest):
            for blob in (document.config, *document.layers):
                if not self._copy_blob(blob):
                    raise ContextError(f"the OCI layout {self._image.folder!r} lacks the blob {blob.digest}")
            return
        for child in document.manifests:
            if child.media_type in (*MANIFEST_TYPES, *INDEX_TYPES) and self._has(child):
                self._copy(child, depth + 1)

    def _has(self, descriptor: Descriptor) -> bool:
        opened = self._open(_blob_path(descriptor))
        if opened is not None:
            os.close(opened)
        return opened is not None

    def _copy_blob(self, descriptor: Descriptor) -> bool:
        """Whether the layout, or the store, has the blob."""
        if self._store.blobs.has(descriptor.digest, descriptor.size_bytes):
            return True
        opened = self._open(_blob_path(descriptor))
        if opened is None:
            return False
        try:
            if os.fstat(opened).st_size != descriptor.size_bytes:
                raise IntegrityError(f"{descriptor.digest} has another size in the layout than its descriptor says")
            with self._store.blobs.ingest(algorithm=algorithm_of(descriptor.digest)) as ingest:
                while chunk := os.read(opened, _CHUNK):
                    ingest.write(chunk)
                ingest.commit(descriptor.digest)
        finally:
            os.close(opened)
        return True

    def _open(self, path: str) -> int | None:
        """A regular file of the layout; links lead nowhere outside of it."""
        try:
            opened = open_in_root(self._root, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            return None
        if stat.S_ISREG(os.fstat(opened).st_mode):
            return opened
        os.close(opened)
        return None


def _blob_path(descriptor: Descriptor) -> str:
    digest = parse_digest(descriptor.digest)
    return f"blobs/{algorithm_of(digest)}/{encoded_of(digest)}"
