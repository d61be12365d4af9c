"""New images out of old ones: pure edits, and the documents that an image comes to."""

from __future__ import annotations

from typing import NamedTuple

from sandboxbuild.oci.config import History, ImageConfig, encode_config
from sandboxbuild.oci.descriptor import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, in_format
from sandboxbuild.oci.digest import extend_chain, parse_digest, sha256_digest
from sandboxbuild.oci.image import Image, Layer
from sandboxbuild.oci.manifest import Index, Manifest, encode_index, encode_manifest
from sandboxbuild.oci.platform import Platform


class Assembled(NamedTuple):
    """An image's documents as bytes. `manifest_descriptor` has the image's platform."""

    config: bytes
    config_descriptor: Descriptor
    manifest: bytes
    manifest_descriptor: Descriptor


def append_layer(image: Image, descriptor: Descriptor, diff_id: str, history: History) -> Image:
    """The image with one layer more, and the line that says where it comes from."""
    layer = Layer(descriptor, parse_digest(diff_id), extend_chain(image.chain_id, diff_id))
    config = image.config._replace(
        diff_ids=(*image.config.diff_ids, diff_id),
        history=(*complete_history(image.config), history._replace(empty_layer=False)),
    )
    return image._replace(config=config, layers=(*image.layers, layer))


def append_empty_layer(image: Image, history: History) -> Image:
    """The image with a line of history for an instruction that changed no file."""
    entries = (*complete_history(image.config), history._replace(empty_layer=True))
    return image._replace(config=image.config._replace(history=entries))


def replace_config(image: Image, config: ImageConfig) -> Image:
    """The image with the execution parameters of `config`; layers and history stay those of `image`."""
    return image._replace(config=config._replace(diff_ids=image.config.diff_ids, history=image.config.history))


def rebase(image: Image, old_base: Image, new_base: Image) -> Image:
    """The image's own layers on top of `new_base`. Raises ValueError if `old_base` is not what it was built on."""
    depth = len(old_base.layers)
    if image.config.diff_ids[:depth] != old_base.config.diff_ids:
        raise ValueError("the image was not built on this base")
    own_history = complete_history(image.config)[len(complete_history(old_base.config)) :]
    result = replace_config(new_base, image.config)
    added = iter(image.layers[depth:])
    for entry in own_history:
        if entry.empty_layer:
            result = append_empty_layer(result, entry)
        else:
            layer = next(added)
            result = append_layer(result, layer.descriptor, layer.diff_id, entry)
    return result


def complete_history(config: ImageConfig) -> tuple[History, ...]:
    """The history with as many entries that have a layer as there are layers.

    Docker refuses an image where the two differ: what is missing is added without a word of its making, and what is too
    much loses its layer.
    """
    missing = len(config.diff_ids) - sum(not entry.empty_layer for entry in config.history)
    if missing >= 0:
        return (*config.history, *(History(),) * missing)
    result = list(config.history)
    for position in range(len(result) - 1, -1, -1):
        if missing and not result[position].empty_layer:
            result[position] = result[position]._replace(empty_layer=True)
            missing += 1
    return tuple(result)


def assemble(image: Image, image_format: str = "oci") -> Assembled:
    """The documents of `image`; `image_format` is oci or docker. Equal images give equal bytes."""
    config = encode_config(image.config._replace(history=complete_history(image.config)))
    config_type, manifest_type = in_format(OCI_CONFIG, image_format), in_format(OCI_MANIFEST, image_format)
    config_descriptor = Descriptor(config_type, sha256_digest(config), len(config))
    layers = tuple(_layer_descriptor(layer.descriptor, image_format) for layer in image.layers)
    annotations = image.annotations if image_format == "oci" else ()
    manifest = encode_manifest(Manifest(config_descriptor, layers, manifest_type, annotations))
    descriptor = Descriptor(manifest_type, sha256_digest(manifest), len(manifest), platform=str(platform_of(image.config)))
    return Assembled(config, config_descriptor, manifest, descriptor)


def assemble_index(
    manifests: tuple[Descriptor, ...], image_format: str = "oci", annotations: tuple[tuple[str, str], ...] = ()
) -> tuple[bytes, Descriptor]:
    """The index of several platforms' images and its descriptor."""
    media_type = in_format(OCI_INDEX, image_format)
    data = encode_index(Index(manifests, media_type, annotations if image_format == "oci" else ()))
    return data, Descriptor(media_type, sha256_digest(data), len(data))


def platform_of(config: ImageConfig) -> Platform:
    return Platform(config.os, config.architecture, config.variant, config.os_version)


def _layer_descriptor(descriptor: Descriptor, image_format: str) -> Descriptor:
    return descriptor._replace(media_type=in_format(descriptor.media_type, image_format))
