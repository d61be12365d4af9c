"""The push of a stored image: blobs, then manifests, to repositories that a transport reaches."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence

from sandboxbuild.exporters.contents import blobs_of
from sandboxbuild.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from sandboxbuild.oci.documents import MAX_DOCUMENT_BYTES
from sandboxbuild.registry.push import Destination, Document, Progress, PushBlob, Pushed, PushSession, no_progress
from sandboxbuild.store import Store


def push(
    store: Store, image: Descriptor, destinations: Sequence[Destination], on_progress: Progress = no_progress
) -> tuple[Pushed, ...]:
    """Push `image` (a manifest or an index) and all that it is made of. Raises RegistryError, IntegrityError, PolicyError."""
    root, *rest = blobs_of(store, image)
    # Manifests before the indexes that name them: a registry may refuse an index whose parts it lacks.
    documents = [_document(store, blob) for kinds in (MANIFEST_TYPES, INDEX_TYPES) for blob in rest if blob.media_type in kinds]
    first = _document(store, root)
    session = PushSession(destinations, on_progress=on_progress)
    for blob in rest:
        if blob.media_type not in MANIFEST_TYPES | INDEX_TYPES:
            session.enqueue(_blob(store, blob))
    return session.finish(first, documents)


def _document(store: Store, blob: Descriptor) -> Document:
    return Document(blob.media_type, store.blobs.read(blob.digest, MAX_DOCUMENT_BYTES))


def _blob(store: Store, blob: Descriptor) -> PushBlob:
    return PushBlob(blob, lambda offset: _open(store, blob.digest, offset))


def _open(store: Store, digest: str, offset: int) -> io.FileIO:
    """Not verified here: the registry refuses bytes of another digest (distribution-spec, pushing blobs)."""
    stream = store.blobs.open(digest)
    os.lseek(stream.fileno(), offset, os.SEEK_SET)
    return stream
