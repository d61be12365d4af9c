"""What the executor says it built, checked against the store: a digest is believed when its bytes have been hashed here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sandboxbuild.errors import IntegrityError, ProtocolError
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.documents import MAX_DOCUMENT_BYTES
from sandboxbuild.oci.manifest import Index, Manifest, decode
from sandboxbuild.protocol.events import BuildSucceeded, PushCompleted
from sandboxbuild.store import Store


def verify_result(
    store: Store, result: BuildSucceeded, *, names: Sequence[str], pushes: Sequence[str], pushed: Iterable[PushCompleted]
) -> Descriptor:
    """The descriptor of the image, whose manifests and configs have been read and hashed, and whose layers are there.

    Layers are hashed by whoever reads them (exporters, the next build). Raises ProtocolError where the executor claims other
    names or pushes than were asked for, IntegrityError where the store doesn't hold what it claims.
    """
    if tuple(result.names) != tuple(names):
        raise ProtocolError(f"the executor named the image {', '.join(result.names) or 'nothing'}, which was not asked for")
    claimed = {push.reference: push.digest for push in pushed}
    if set(claimed) != set(pushes) or any(digest != result.digest for digest in claimed.values()):
        raise ProtocolError("the executor did not push what was asked for")
    descriptor = Descriptor(result.media_type, result.digest, result.size_bytes)
    document = _read_document(store, descriptor)
    manifests = [document] if isinstance(document, Manifest) else [_read_manifest(store, child) for child in document.manifests]
    for manifest in manifests:
        _check_manifest(store, manifest)
    configs = {manifest.config.digest for manifest in manifests}
    if result.config_digest not in configs and not (isinstance(document, Index) and not result.config_digest):
        raise IntegrityError(f"the executor claims the config {result.config_digest}, and the image has another")
    return descriptor


def _read_document(store: Store, descriptor: Descriptor) -> Manifest | Index:
    data = store.blobs.read(descriptor.digest, MAX_DOCUMENT_BYTES)
    if len(data) != descriptor.size_bytes:
        raise IntegrityError(f"{descriptor.digest} has {len(data)} bytes, not {descriptor.size_bytes}")
    return decode(data, descriptor.media_type)


def _read_manifest(store: Store, descriptor: Descriptor) -> Manifest:
    document = _read_document(store, descriptor)
    if not isinstance(document, Manifest):
        raise IntegrityError(f"{descriptor.digest} is an index within an index")
    return document


def _check_manifest(store: Store, manifest: Manifest) -> None:
    """The config's bytes are its digest's; each layer is there with its size."""
    config = store.blobs.read(manifest.config.digest, MAX_DOCUMENT_BYTES)
    if len(config) != manifest.config.size_bytes:
        raise IntegrityError(f"the config {manifest.config.digest} has {len(config)} bytes, not {manifest.config.size_bytes}")
    for layer in manifest.layers:
        if not store.blobs.has(layer.digest, layer.size_bytes):
            raise IntegrityError(f"the layer {layer.digest} is not in the store with {layer.size_bytes} bytes")
