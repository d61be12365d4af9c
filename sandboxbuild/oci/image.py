"""Image and Layer: read-only views of one image, put together from its manifest and config."""

from __future__ import annotations

from typing import NamedTuple

from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.digest import chain_ids
from sandboxbuild.oci.manifest import Manifest


class Layer(NamedTuple):
    """A layer as it is transferred, the digest of its tar, and the ChainID of it with all below."""

    descriptor: Descriptor
    diff_id: str
    chain_id: str


class Image(NamedTuple):
    """`layers` bottom first; as many as `config.diff_ids`. `annotations` are the manifest's."""

    config: ImageConfig
    layers: tuple[Layer, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()

    @property
    def chain_id(self) -> str:
        """Of the whole filesystem; "" for an image without layers."""
        return self.layers[-1].chain_id if self.layers else ""

    @property
    def size_bytes(self) -> int:
        """Of all layers as they are transferred."""
        return sum(layer.descriptor.size_bytes for layer in self.layers)


def image_of(manifest: Manifest, config: ImageConfig) -> Image:
    """Raises IntegrityError if manifest and config don't tell of the same layers."""
    if len(manifest.layers) != len(config.diff_ids):
        raise IntegrityError(f"the manifest has {len(manifest.layers)} layers and its config tells of {len(config.diff_ids)}")
    layers = map(Layer, manifest.layers, config.diff_ids, chain_ids(config.diff_ids))
    return Image(config, tuple(layers), manifest.annotations)
