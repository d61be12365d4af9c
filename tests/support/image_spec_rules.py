"""The image-spec's rules for its documents as JSON Schema, in our own words (version 1.1.1).

From descriptor.md, manifest.md, image-index.md, config.md, image-layout.md. Stricter in one thing: what we write has no
unknown fields.
"""

from __future__ import annotations

from typing import Any

_TOKEN = "[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"  # RFC 6838, section 4.2
_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
_WORDS = {"type": "array", "items": {"type": "string"}}
_SET = {"type": "object", "additionalProperties": {"type": "object", "maxProperties": 0}}
_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$"}
_COUNT = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_DIGEST = {"type": "string", "pattern": "^sha256:[a-f0-9]{64}$"}
_MEDIA_TYPE = {"type": "string", "pattern": f"^{_TOKEN}/{_TOKEN}$"}
_LAYERS = ["tar", "tar+gzip", "tar+zstd"]


def _closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_PLATFORM = _closed(
    {
        "architecture": {"type": "string", "minLength": 1},
        "os": {"type": "string", "minLength": 1},
        "os.version": {"type": "string"},
        "os.features": _WORDS,
        "variant": {"type": "string"},
    },
    "architecture",
    "os",
)


def _descriptor(media_types: list[str]) -> dict[str, Any]:
    properties = {
        "mediaType": {"enum": media_types} if media_types else _MEDIA_TYPE,
        "digest": _DIGEST,
        "size": _COUNT,
        "urls": {"type": "array", "items": {"type": "string", "format": "uri"}},
        "annotations": _TEXTS,
        "platform": _PLATFORM,
        "artifactType": _MEDIA_TYPE,
    }
    return _closed(properties, "mediaType", "digest", "size")


_OCI = "application/vnd.oci.image."

MANIFEST = _closed(
    {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": f"{_OCI}manifest.v1+json"},
        "artifactType": _MEDIA_TYPE,
        "config": _descriptor([f"{_OCI}config.v1+json"]),
        "layers": {"type": "array", "items": _descriptor([f"{_OCI}layer.v1.{kind}" for kind in _LAYERS])},
        "subject": _descriptor([]),
        "annotations": _TEXTS,
    },
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
)

INDEX = _closed(
    {
        "schemaVersion": {"const": 2},
        "mediaType": {"const": f"{_OCI}index.v1+json"},
        "artifactType": _MEDIA_TYPE,
        "manifests": {"type": "array", "items": _descriptor([f"{_OCI}manifest.v1+json", f"{_OCI}index.v1+json"])},
        "subject": _descriptor([]),
        "annotations": _TEXTS,
    },
    "schemaVersion",
    "mediaType",
    "manifests",
)

CONFIG = _closed(
    {
        "created": _TIME,
        "author": {"type": "string"},
        "architecture": {"type": "string", "minLength": 1},
        "variant": {"type": "string"},
        "os": {"type": "string", "minLength": 1},
        "os.version": {"type": "string"},
        "config": _closed(
            {
                "User": {"type": "string"},
                "ExposedPorts": _SET,
                "Env": {"type": "array", "items": {"type": "string", "pattern": "^[^=]+=(.|\n)*$"}},
                "Entrypoint": _WORDS,
                "Cmd": _WORDS,
                "Volumes": _SET,
                "WorkingDir": {"type": "string"},
                "Labels": _TEXTS,
                "StopSignal": {"type": "string"},
                "ArgsEscaped": {"type": "boolean"},
                # Docker's image specification 1.2, which config.md reserves these names for.
                "Healthcheck": _closed(
                    {"Test": _WORDS} | dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval", "Retries"), _COUNT)
                ),
                "OnBuild": _WORDS,
                "Shell": _WORDS,
            }
        ),
        "rootfs": _closed({"type": {"const": "layers"}, "diff_ids": {"type": "array", "items": _DIGEST}}, "type", "diff_ids"),
        "history": {
            "type": "array",
            "items": _closed(
                {
                    "created": _TIME,
                    "created_by": {"type": "string"},
                    "author": {"type": "string"},
                    "comment": {"type": "string"},
                    "empty_layer": {"type": "boolean"},
                }
            ),
        },
    },
    "architecture",
    "os",
    "rootfs",
)

LAYOUT = _closed({"imageLayoutVersion": {"const": "1.0.0"}}, "imageLayoutVersion")
