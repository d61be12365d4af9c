"""What an exported image is made of: its blobs in order, verified documents, and the one image that a form can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from sandboxbuild.errors import InputError
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.image import Image, image_of
from sandboxbuild.oci.manifest import Manifest
from sandboxbuild.oci.mutate import platform_of
from sandboxbuild.oci.platform import choose
from sandboxbuild.store import Store


class PlatformImage(NamedTuple):
    """One platform's image: its manifest as described, and both documents. `platform` is os/architecture[/variant]."""

    descriptor: Descriptor
    manifest: Manifest
    image: Image
    platform: str

    @property
    def config(self) -> ImageConfig:
        return self.image.config


def platform_images(store: Store, image: Descriptor) -> tuple[PlatformImage, ...]:
    """The images that `image` leads to, in order. Raises IntegrityError, and InputError where there is none."""
    found = tuple(_platform_images(store, image))
    if not found:
        raise InputError(f"{image.digest} is an index that holds no image")
    return found


def one_image(store: Store, image: Descriptor, platform: str) -> PlatformImage:
    """The image for `platform`, or the first if that is "". Raises InputError if there is none."""
    found = platform_images(store, image)
    position = choose([candidate.platform for candidate in found], platform) if platform else 0
    if position is None:
        raise InputError(f"{image.digest} holds no image for {platform}")
    return found[position]


def blobs_of(store: Store, image: Descriptor) -> tuple[Descriptor, ...]:
    """Every blob of the image, documents first, each once, sorted by digest after the root.

    A layer that may not be passed on (it has `urls`) is left out if the store lacks it (image-spec layer.md,
    Non-Distributable Layers).
    """
    found: dict[str, Descriptor] = {image.digest: image}
    document = store.images.document(image)
    children = (document.config, *document.layers) if isinstance(document, Manifest) else document.manifests
    for child in children:
        if isinstance(document, Manifest):
            if not child.urls or store.blobs.has(child.digest):
                found[child.digest] = child
        else:
            found.update((blob.digest, blob) for blob in blobs_of(store, child))
    rest = sorted(digest for digest in found if digest != image.digest)
    return (image, *(found[digest] for digest in rest))


def _platform_images(store: Store, image: Descriptor) -> Iterator[PlatformImage]:
    for descriptor, manifest in store.images.manifests(image):
        config = store.images.config(manifest)
        yield PlatformImage(descriptor, manifest, image_of(manifest, config), str(platform_of(config)))
