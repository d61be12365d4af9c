"""Descriptor (image-spec descriptor.md) and the media types that we read and write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import UsageError
from sandboxbuild.oci.digest import parse_digest
from sandboxbuild.oci.documents import Fields
from sandboxbuild.oci.platform import Platform

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD: Final = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_GZIP: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_ZSTD: Final = "application/vnd.docker.image.rootfs.diff.tar.zstd"
EMPTY_JSON: Final = "application/vnd.oci.empty.v1+json"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})

_TO_DOCKER: Final = {
    OCI_INDEX: DOCKER_INDEX,
    OCI_MANIFEST: DOCKER_MANIFEST,
    OCI_CONFIG: DOCKER_CONFIG,
    OCI_LAYER: DOCKER_LAYER,
    OCI_LAYER_GZIP: DOCKER_LAYER_GZIP,
    OCI_LAYER_ZSTD: DOCKER_LAYER_ZSTD,
}
_TO_OCI: Final = {docker: oci for oci, docker in _TO_DOCKER.items()}

_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}", re.ASCII)
_KNOWN: Final = frozenset({"mediaType", "digest", "size", "annotations", "platform", "urls", "artifactType"})
_PLATFORM_KEYS: Final = frozenset({"os", "architecture", "variant", "os.version"})
_WORD: Final = re.compile(r"[A-Za-z0-9_.+-]{0,64}", re.ASCII)
_MAX_URLS: Final = 64


class Descriptor(NamedTuple):
    """`digest` is checked text (oci.digest.parse_digest), `size_bytes` the exact length. Unknown fields live in `extra`."""

    media_type: str
    digest: str
    size_bytes: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: str = ""
    urls: tuple[str, ...] = ()
    artifact_type: str = ""
    extra: Mapping[str, Any] = {}


def decode_descriptor(fields: Fields) -> Descriptor:
    """The Descriptor in a JSON object. `platform` keeps the document's own words. Raises RegistryError, IntegrityError.

    Fields of `platform` that our text can't hold (os.features) stay in `extra["platform"]`.
    """
    media_type = fields.text("mediaType")
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        raise fields.error("mediaType", "is not a media type")
    if "size" not in fields:
        raise fields.error("size", "is missing")
    platform, platform_extra = _decode_platform(fields.object("platform"))
    extra = fields.unknown(_KNOWN)
    if platform_extra:
        extra["platform"] = platform_extra
    return Descriptor(
        media_type,
        parse_digest(fields.text("digest")),
        fields.integer("size"),
        annotations=fields.text_map("annotations"),
        platform=platform,
        urls=fields.texts("urls", _MAX_URLS) or (),
        artifact_type=fields.text("artifactType"),
        extra=extra,
    )


def encode_descriptor(descriptor: Descriptor) -> dict[str, Any]:
    """The JSON object; what is empty is left out."""
    result: dict[str, Any] = dict(descriptor.extra)
    result.update(mediaType=descriptor.media_type, digest=descriptor.digest, size=descriptor.size_bytes)
    if descriptor.annotations:
        result["annotations"] = dict(descriptor.annotations)
    if descriptor.platform:
        result["platform"] = dict(descriptor.extra.get("platform", {})) | _encode_platform(descriptor.platform)
    if descriptor.urls:
        result["urls"] = list(descriptor.urls)
    if descriptor.artifact_type:
        result["artifactType"] = descriptor.artifact_type
    return result


def in_format(media_type: str, image_format: str) -> str:
    """The media type that means the same in `image_format` ("oci" or "docker"); unknown ones stay."""
    return _TO_DOCKER.get(media_type, media_type) if image_format == "docker" else _TO_OCI.get(media_type, media_type)


def split_platform(text: str) -> Platform:
    """The parts of a descriptor's platform text, not normalised. Raises UsageError."""
    parts = text.split("/")
    if len(parts) not in (2, 3):
        raise UsageError(f"{text[:200]!r} is not os/architecture[/variant]")
    system, bracket, version = parts[0].partition("(")
    return Platform(system, parts[1], parts[2] if len(parts) == 3 else "", version.removesuffix(")") if bracket else "")


def _decode_platform(fields: Fields | None) -> tuple[str, dict[str, Any]]:
    if fields is None:
        return "", {}
    for key in _PLATFORM_KEYS:
        if _WORD.fullmatch(fields.text(key)) is None:
            raise fields.error(key, "is not a word")
    system, architecture = fields.text("os", "unknown") or "unknown", fields.text("architecture", "unknown") or "unknown"
    platform = Platform(system, architecture, fields.text("variant"), fields.text("os.version"))
    return str(platform), fields.unknown(_PLATFORM_KEYS)


def _encode_platform(text: str) -> dict[str, str]:
    platform = split_platform(text)
    result = {"architecture": platform.architecture, "os": platform.os}
    if platform.variant:
        result["variant"] = platform.variant
    if platform.os_version:
        result["os.version"] = platform.os_version
    return result
