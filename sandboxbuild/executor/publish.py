"""Pushing while the build goes on: a layer leaves as soon as it is made, the manifest when all have arrived."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sandboxbuild.executor.channel import EventChannel, Vertex
from sandboxbuild.executor.layers import LayerRef
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.reference import Reference, parse_reference
from sandboxbuild.protocol.events import PushCompleted
from sandboxbuild.registry import Transport
from sandboxbuild.registry.push import Destination, Document, PushBlob, PushSession, Source
from sandboxbuild.registry.repository import Repository
from sandboxbuild.store import Store


def destinations(transport: Transport, names: Sequence[str]) -> tuple[Destination, ...]:
    """One Destination for each repository that `names` have, with its tags in order."""
    tags: dict[tuple[str, str], list[str]] = {}
    for reference in map(parse_reference, names):
        tags.setdefault((reference.registry, reference.repository), []).append(_tag(reference))
    return tuple(Destination(Repository(transport, *key), tuple(found)) for key, found in tags.items())


def _tag(reference: Reference) -> str:
    return reference.tag or "latest"


class Publisher:
    """The push of one build. `layer` may be called from any thread and before `finish`; `abort` waits for what is under way."""

    def __init__(self, store: Store, transport: Transport, channel: EventChannel, names: Sequence[str]) -> None:
        self._store = store
        self._channel = channel
        self._vertex: Vertex | None = None
        self._session = PushSession(destinations(transport, names), on_progress=self._progress) if names else None

    def layer(self, layer: LayerRef) -> None:
        """Begin to push a layer whose blob is in the store."""
        self._blob(layer.descriptor, (layer.remote,) if layer.remote else ())

    def finish(self, root: Document, blobs: Sequence[Descriptor], children: Sequence[Document] = ()) -> None:
        """Push the blobs that are left, wait for all, and set the tags. Raises RegistryError."""
        if self._session is None:
            return
        with self._channel.vertex("push", "push to the registry") as vertex:
            self._vertex = vertex
            for blob in blobs:
                self._blob(blob, ())
            for pushed in self._session.finish(root, children):
                self._channel.emit(PushCompleted(pushed.reference, pushed.digest, pushed.uploaded_bytes, pushed.mounted_blobs))

    def abort(self) -> None:
        if self._session is not None:
            self._session.abort()

    def _blob(self, descriptor: Descriptor, origins: tuple[tuple[str, str], ...]) -> None:
        if self._session is not None:
            self._session.enqueue(PushBlob(descriptor, lambda offset: self._open(descriptor.digest, offset), origins))

    def _open(self, digest: str, offset: int) -> Source:
        stream = self._store.blobs.open(digest)
        os.lseek(stream.fileno(), offset, os.SEEK_SET)
        return stream

    def _progress(self, digest: str, current: int, total: int) -> None:
        if self._vertex is not None:
            self._vertex.progress(digest[7:19], "push", current, total)
