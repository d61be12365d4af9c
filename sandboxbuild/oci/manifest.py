"""Manifest and Index (image-spec manifest.md, image-index.md; Docker schema 2): codecs that keep unknown fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Union

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci.descriptor import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    decode_descriptor,
    encode_descriptor,
)
from sandboxbuild.oci.documents import Fields, encode_document, parse_document

MAX_LAYERS: Final = 1024
MAX_MANIFESTS: Final = 4096
_SCHEMA_1_TYPES: Final = frozenset(
    {
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    }
)
_COMMON: Final = frozenset({"schemaVersion", "mediaType", "annotations", "artifactType", "subject"})
_MANIFEST_KEYS: Final = _COMMON | {"config", "layers"}
_INDEX_KEYS: Final = _COMMON | {"manifests"}


class Manifest(NamedTuple):
    """One image: `layers` bottom first. `extra` are the unknown fields, given back when encoded."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST
    annotations: tuple[tuple[str, str], ...] = ()
    artifact_type: str = ""
    subject: Descriptor | None = None
    extra: Mapping[str, Any] = {}


class Index(NamedTuple):
    """Images for several platforms, in the document's order."""

    manifests: tuple[Descriptor, ...]
    media_type: str = OCI_INDEX
    annotations: tuple[tuple[str, str], ...] = ()
    artifact_type: str = ""
    subject: Descriptor | None = None
    extra: Mapping[str, Any] = {}


def decode_manifest(data: bytes, media_type: str = "") -> Manifest:
    """The Manifest in `data`; `media_type` is what the transport called it, "" if it said nothing. Raises RegistryError."""
    document = decode(data, media_type)
    if not isinstance(document, Manifest):
        raise RegistryError("the manifest of one image is wanted, and this is an index of several")
    return document


def decode_index(data: bytes, media_type: str = "") -> Index:
    document = decode(data, media_type)
    if not isinstance(document, Index):
        raise RegistryError("an index is wanted, and this is the manifest of one image")
    return document


def decode(data: bytes, media_type: str = "") -> Union[Manifest, Index]:
    """What `data` says it is. Its own media type, the transport's and its fields must agree (CVE-2021-41190)."""
    fields = parse_document(data, "the manifest")
    kind = _media_type(fields, media_type)
    if kind in INDEX_TYPES:
        return _decode_index(fields, kind)
    if kind in MANIFEST_TYPES:
        return _decode_manifest(fields, kind)
    raise RegistryError(f"{kind[:200]!r} is not the media type of an image's manifest or index")


def encode_manifest(manifest: Manifest) -> bytes:
    """Compact JSON; equal manifests give equal bytes."""
    result = _encode_common(manifest)
    result["config"] = encode_descriptor(manifest.config)
    result["layers"] = [encode_descriptor(layer) for layer in manifest.layers]
    return encode_document(result)


def encode_index(index: Index) -> bytes:
    result = _encode_common(index)
    result["manifests"] = [encode_descriptor(manifest) for manifest in index.manifests]
    return encode_document(result)


def _media_type(fields: Fields, announced: str) -> str:
    announced = announced.partition(";")[0].strip()
    version = fields.integer("schemaVersion")
    if version == 1 or announced in _SCHEMA_1_TYPES:
        raise RegistryError(
            "the image has a Docker schema 1 manifest, which says nothing about its layers that could be verified",
            hint="push it again with a current client",
        )
    if version != 2:
        raise fields.error("schemaVersion", "is not 2")
    own = fields.text("mediaType")
    if own and announced and own != announced:
        raise RegistryError(f"the manifest says it is {own[:200]!r} and was announced as {announced[:200]!r}")
    return own or announced or _guessed(fields)


def _guessed(fields: Fields) -> str:
    """OCI documents may leave their media type out (image-spec manifest.md, mediaType)."""
    return OCI_INDEX if "manifests" in fields else OCI_MANIFEST


def _decode_manifest(fields: Fields, media_type: str) -> Manifest:
    config = fields.object("config")
    if config is None or "manifests" in fields or "fsLayers" in fields:
        raise RegistryError("the manifest has no config, or it has the fields of another kind of document")
    layers = fields.objects("layers", MAX_LAYERS)
    return Manifest(
        decode_descriptor(config),
        tuple(decode_descriptor(layer) for layer in layers),
        media_type,
        fields.text_map("annotations"),
        fields.text("artifactType"),
        _subject(fields),
        fields.unknown(_MANIFEST_KEYS),
    )


def _decode_index(fields: Fields, media_type: str) -> Index:
    if any(key in fields for key in ("config", "layers", "fsLayers")):
        raise RegistryError("the index has the fields of another kind of document")
    return Index(
        tuple(decode_descriptor(manifest) for manifest in fields.objects("manifests", MAX_MANIFESTS)),
        media_type,
        fields.text_map("annotations"),
        fields.text("artifactType"),
        _subject(fields),
        fields.unknown(_INDEX_KEYS),
    )


def _subject(fields: Fields) -> Descriptor | None:
    subject = fields.object("subject")
    return None if subject is None else decode_descriptor(subject)


def _encode_common(document: Union[Manifest, Index]) -> dict[str, Any]:
    result: dict[str, Any] = dict(document.extra)
    result.update(schemaVersion=2, mediaType=document.media_type)
    if document.annotations:
        result["annotations"] = dict(document.annotations)
    if document.artifact_type:
        result["artifactType"] = document.artifact_type
    if document.subject is not None:
        result["subject"] = encode_descriptor(document.subject)
    return result
