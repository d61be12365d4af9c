"""Base images: a reference becomes a config and layers; no layer is fetched before a step or the result needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from sandboxbuild.errors import ContextError
from sandboxbuild.executor.channel import EventChannel
from sandboxbuild.executor.layers import LayerRef, Readable, Rootfs
from sandboxbuild.oci.config import ImageConfig, decode_config
from sandboxbuild.oci.descriptor import INDEX_TYPES, MANIFEST_TYPES, Descriptor
from sandboxbuild.oci.digest import parse_digest
from sandboxbuild.oci.documents import MAX_DOCUMENT_BYTES
from sandboxbuild.oci.image import image_of
from sandboxbuild.oci.manifest import MAX_MANIFESTS, Manifest, decode
from sandboxbuild.oci.mutate import platform_of
from sandboxbuild.oci.platform import matches, parse_platform
from sandboxbuild.oci.reference import Reference, parse_reference
from sandboxbuild.plan.steps import BaseImage
from sandboxbuild.protocol.events import BaseResolved
from sandboxbuild.registry import Transport
from sandboxbuild.registry.pull import ResolvedImage, resolve_image, stream_unverified
from sandboxbuild.registry.repository import Repository
from sandboxbuild.store import Store

LAYOUT_SCHEME: Final = "oci-layout://"  # followed by the digest under which the store has the image


class ResolvedBase(NamedTuple):
    """A base as found. `digest` is of the manifest or index that the reference named."""

    digest: str
    config: ImageConfig
    rootfs: Rootfs


class Bases:
    """The base images of one build, each resolved once. Thread-safe. Implements layers.BlobSource.

    An image that was built into this store is taken from there, unless a fresh one is asked for; all others are looked up in
    their registry each time, so that a tag which moved is seen.
    """

    def __init__(self, store: Store, transport: Transport, channel: EventChannel, *, platform: str, fresh: bool) -> None:
        self._store = store
        self._transport = transport
        self._channel = channel
        self._platform = platform
        self._fresh = fresh
        self._known: dict[tuple[str, str], ResolvedBase] = {}
        self._lock = threading.Lock()

    def resolve(self, base: BaseImage) -> ResolvedBase:
        """Raises RegistryError when there is no such image, UsageError when the reference is malformed."""
        platform = base.platform or self._platform
        key = (base.reference, platform)
        with self._lock:
            if key not in self._known:
                self._known[key] = self._resolve(base.reference, platform)
            return self._known[key]

    def open_blob(self, remote: tuple[str, str], descriptor: Descriptor, on_bytes: Callable[[int], None]) -> Readable:
        return stream_unverified(Repository(self._transport, *remote), descriptor, on_bytes)

    def _resolve(self, text: str, platform: str) -> ResolvedBase:
        if text.startswith(LAYOUT_SCHEME):
            with self._channel.vertex("base", f"resolve {text}"):
                found = layout_image(self._store, text.removeprefix(LAYOUT_SCHEME), platform)
                self._channel.emit(BaseResolved(text, platform, found.digest))
                return found
        return self._resolve_reference(parse_reference(text), platform)

    def _resolve_reference(self, reference: Reference, platform: str) -> ResolvedBase:
        with self._channel.vertex("base", f"resolve {reference.familiar}"):
            found = None if self._fresh else stored_image(self._store, reference, platform)
            if found is None:
                found = resolved_base(resolve_image(self._transport, reference, parse_platform(platform)))
            self._channel.emit(BaseResolved(str(reference), platform, found.digest))
            return found


def resolved_base(image: ResolvedImage) -> ResolvedBase:
    """Raises IntegrityError where config and manifest don't fit together."""
    config = decode_config(image.config)
    view = image_of(Manifest(image.config_descriptor, image.layers), config)
    remote = (image.host, image.repository)
    return ResolvedBase(
        image.digest, config, Rootfs(tuple(LayerRef(layer.descriptor, layer.diff_id, remote) for layer in view.layers))
    )


def stored_image(store: Store, reference: Reference, platform: str) -> ResolvedBase | None:
    """An image that a build left in this store under that very name, if it is for the platform."""
    for image in store.images.list():
        if image.name == str(reference) and (found := _for_platform(store, image.descriptor, platform)) is not None:
            return found
    return None


def layout_image(store: Store, digest: str, platform: str) -> ResolvedBase:
    """An image that the launcher put into the store for a named context. Raises ContextError for another platform's."""
    content = store.blobs.read(parse_digest(digest), MAX_DOCUMENT_BYTES)
    descriptor = Descriptor(decode(content, "").media_type, digest, len(content))
    found = _for_platform(store, descriptor, platform)
    if found is None:
        raise ContextError(f"the OCI layout has no image {digest} for {platform}")
    return found


def _for_platform(store: Store, root: Descriptor, platform: str) -> ResolvedBase | None:
    """The image of the store that a manifest is, or that an index has, for a platform."""
    wanted = parse_platform(platform)
    for descriptor, manifest in _manifests(store, root):
        config = store.images.config(manifest)
        if matches(platform_of(config), wanted):
            stored = tuple(LayerRef(layer.descriptor, layer.diff_id) for layer in image_of(manifest, config).layers)
            return ResolvedBase(descriptor.digest, config, Rootfs(stored))
    return None


def _manifests(store: Store, root: Descriptor) -> Iterator[tuple[Descriptor, Manifest]]:
    """The manifests that a descriptor leads to, as far as they are here: a layout may hold some platforms of an index alone."""
    pending = [root]
    for _ in range(MAX_MANIFESTS):
        if not pending:
            return
        descriptor = pending.pop(0)
        if descriptor.platform == "unknown/unknown" or not store.blobs.has(descriptor.digest):
            continue
        document = store.images.document(descriptor)
        if isinstance(document, Manifest):
            if store.blobs.has(document.config.digest):
                yield descriptor, document
        else:
            pending += [child for child in document.manifests if child.media_type in (*MANIFEST_TYPES, *INDEX_TYPES)]
