"""ImageConfig: the image-spec's config.json (config.md) as a value that keeps what it doesn't know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci.digest import parse_digest
from sandboxbuild.oci.documents import Fields, encode_document, parse_document

MAX_CONFIG_BYTES: Final = 8 * 1024 * 1024
_MAX_LAYERS: Final = 1024
_MAX_HISTORY: Final = 8192
_MAX_ITEMS: Final = 16_384
_OUTER_KEYS: Final = frozenset(
    {"os", "architecture", "variant", "os.version", "author", "created", "config", "rootfs", "history"}
)
_INNER_KEYS: Final = frozenset(
    {"Env", "Cmd", "Entrypoint", "WorkingDir", "User", "ExposedPorts", "Volumes", "Labels", "Healthcheck", "OnBuild"}
    | {"StopSignal", "Shell", "ArgsEscaped"}
)


class History(NamedTuple):
    """config.md, history. `created` is RFC 3339 or "". Unset fields are left out when encoded."""

    created_by: str = ""
    created: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False


class Healthcheck(NamedTuple):
    """Docker image config 1.2. Durations in nanoseconds; 0 means default."""

    test: tuple[str, ...] = ()
    interval_ns: int = 0
    timeout_ns: int = 0
    start_period_ns: int = 0
    start_interval_ns: int = 0
    retries: int = 0


class ImageConfig(NamedTuple):
    """The execution parameters and history of an image. None means that the field is absent.

    `env` keeps its order, names are unique. `labels`, `exposed_ports`, `volumes` encode sorted. `extra` and `inner_extra` are
    the unknown fields of the document and of its `config` object, given back when encoded.
    """

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""
    os_version: str = ""
    author: str = ""
    created: str = ""
    env: tuple[tuple[str, str], ...] = ()
    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    working_dir: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    healthcheck: Healthcheck | None = None
    onbuild: tuple[str, ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    args_escaped: bool = False
    diff_ids: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    extra: Mapping[str, Any] = {}
    inner_extra: Mapping[str, Any] = {}


def decode_config(data: bytes) -> ImageConfig:
    """The ImageConfig in a config blob. Null and absent are the same. Raises RegistryError, IntegrityError."""
    fields = parse_document(data, "the image's config", MAX_CONFIG_BYTES)
    inner = fields.object("config") or Fields({}, "the image's config.config")
    return ImageConfig(
        os=fields.text("os") or "linux",
        architecture=fields.text("architecture") or "amd64",
        variant=fields.text("variant"),
        os_version=fields.text("os.version"),
        author=fields.text("author"),
        created=fields.text("created"),
        env=_decode_env(inner.texts("Env", _MAX_ITEMS) or ()),
        cmd=_words(inner, "Cmd"),
        entrypoint=_words(inner, "Entrypoint"),
        working_dir=inner.text("WorkingDir"),
        user=inner.text("User"),
        exposed_ports=inner.names("ExposedPorts"),
        volumes=inner.names("Volumes"),
        labels=inner.text_map("Labels"),
        healthcheck=_decode_healthcheck(inner.object("Healthcheck")),
        onbuild=inner.texts("OnBuild", _MAX_ITEMS) or (),
        stop_signal=inner.text("StopSignal"),
        shell=inner.texts("Shell", _MAX_ITEMS),
        args_escaped=inner.flag("ArgsEscaped"),
        diff_ids=_decode_rootfs(fields.object("rootfs")),
        history=tuple(_decode_history(entry) for entry in fields.objects("history", _MAX_HISTORY)),
        extra=fields.unknown(_OUTER_KEYS),
        inner_extra=inner.unknown(_INNER_KEYS),
    )


def encode_config(config: ImageConfig) -> bytes:
    """Compact JSON with sorted keys; unset fields are left out. Equal values give equal bytes."""
    result: dict[str, Any] = dict(config.extra)
    result |= _present(
        {
            "os": config.os,
            "architecture": config.architecture,
            "variant": config.variant,
            "os.version": config.os_version,
            "author": config.author,
            "created": config.created,
        }
    )
    result["config"] = _encode_inner(config)
    result["rootfs"] = {"type": "layers", "diff_ids": list(config.diff_ids)}
    result["history"] = [_present(entry._asdict()) for entry in config.history]
    return encode_document(result)


def _words(fields: Fields, key: str) -> tuple[str, ...] | None:
    """Docker once wrote a lone command as a text instead of a list (strslice.StrSlice)."""
    try:
        return fields.texts(key, _MAX_ITEMS)
    except RegistryError:
        return (fields.text(key),)


def _decode_env(items: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Names are unique, the last value wins at the first one's place; a name without "=" has the value "" (as in BuildKit)."""
    result: dict[str, str] = {}
    for item in items:
        name, _, value = item.partition("=")
        if name:
            result[name] = value
    return tuple(result.items())


def _decode_healthcheck(fields: Fields | None) -> Healthcheck | None:
    if fields is None:
        return None
    return Healthcheck(
        fields.texts("Test", _MAX_ITEMS) or (),
        fields.integer("Interval"),
        fields.integer("Timeout"),
        fields.integer("StartPeriod"),
        fields.integer("StartInterval"),
        fields.integer("Retries"),
    )


def _decode_rootfs(fields: Fields | None) -> tuple[str, ...]:
    if fields is None:
        return ()
    if fields.text("type", "layers") != "layers":
        raise fields.error("type", "is not 'layers'")
    return tuple(parse_digest(diff_id) for diff_id in fields.texts("diff_ids", _MAX_LAYERS) or ())


def _decode_history(fields: Fields) -> History:
    return History(
        fields.text("created_by"),
        fields.text("created"),
        fields.text("comment"),
        fields.text("author"),
        fields.flag("empty_layer"),
    )


def _encode_inner(config: ImageConfig) -> dict[str, Any]:
    result: dict[str, Any] = dict(config.inner_extra)
    result |= _present(
        {
            "Env": [f"{name}={value}" for name, value in config.env],
            "WorkingDir": config.working_dir,
            "User": config.user,
            "ExposedPorts": {port: {} for port in config.exposed_ports},
            "Volumes": {volume: {} for volume in config.volumes},
            "Labels": dict(config.labels),
            "Healthcheck": _encode_healthcheck(config.healthcheck),
            "OnBuild": list(config.onbuild),
            "StopSignal": config.stop_signal,
            "ArgsEscaped": config.args_escaped,
        }
    )
    for key, words in (("Cmd", config.cmd), ("Entrypoint", config.entrypoint), ("Shell", config.shell)):
        if words is not None:
            result[key] = list(words)
    return result


def _encode_healthcheck(check: Healthcheck | None) -> dict[str, Any]:
    if check is None:
        return {}
    durations = {"Interval": check.interval_ns, "Timeout": check.timeout_ns, "StartPeriod": check.start_period_ns}
    others = {"StartInterval": check.start_interval_ns, "Retries": check.retries, "Test": list(check.test)}
    return _present(durations | others)


def _present(values: dict[str, Any]) -> dict[str, Any]:
    """Without what is empty, zero or false."""
    return {key: value for key, value in values.items() if value}
