"""ImageConfig: the image-spec's config.json (config.md) as a value that keeps what it doesn't know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


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
