"""BuildRequest: all that the executor is told, once, at the start."""

from __future__ import annotations

from typing import Final, NamedTuple

from sandboxbuild.policy.isolation import StepIsolation

__all__ = ["BuildRequest", "Secret", "StepIsolation"]

PROTOCOL_VERSION: Final = 1

# Where things are inside the sandbox, in every profile.
STORE_PATH: Final = "/sandboxbuild/store"
CONTEXTS_PATH: Final = "/sandboxbuild/contexts"  # the build context is contexts/default, a named one contexts/named/NAME
UPLINK_PATH: Final = "/sandboxbuild/uplink/socket"  # the gateway's unix socket
ARCHIVE_NAME: Final = "context.archive"  # in the build's own folder of the store, where the context came as an archive
ARCHIVE_CONTEXT: Final = "archive"
GIT_PREFIX: Final = "git+"  # before the URL of a context that is a git repository, whatever the URL looks like
SCRATCH_PATH: Final = "/sandboxbuild/scratch"  # private, writable, gone with the build; same filesystem as the store


class Secret(NamedTuple):
    """A secret that a RUN may name. The value is not here: the gateway hands it over when the step starts."""

    secret_id: str


class BuildRequest(NamedTuple):
    """One build. Times in seconds or nanoseconds as named; all text is as the user gave it, checked by the launcher.

    `dockerfile` is the text where the launcher read it (a file outside the context, or standard input); None means that
    `dockerfile_path` is a path inside the context. `ignore_file` is likewise a `<Dockerfile>.dockerignore` that lies beside a
    Dockerfile read by the launcher. `names` are the full references that the image gets in the store; `pushes` those of them
    that are pushed. `ids` is "range" (65,536 ids mapped) or "single". `snapshotter` is "auto", "overlay" or "walk".
    `resolv_conf` is for steps that have the host's network.
    `uplink_host`, `uplink_port` and `uplink_token` say how the gateway is reached where its unix socket can't be ("": it can).
    `compression` is gzip, zstd or uncompressed. `image_format` is oci or docker.
    """

    build_id: str
    version: int = PROTOCOL_VERSION
    dockerfile: bytes | None = None
    dockerfile_path: str = "Dockerfile"
    ignore_file: bytes | None = None
    context: str = "local"  # "local": mounted; ARCHIVE_CONTEXT; "none"; else a URL that is fetched through the gateway
    context_subpath: str = ""  # the folder of a context that isn't local which is the context
    named_contexts: tuple[tuple[str, str], ...] = ()  # name -> "local", docker-image://..., oci-layout://DIGEST or a URL
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    platforms: tuple[str, ...] = ()
    build_platform: str = "linux/amd64"
    no_cache: bool = False
    pull: bool = False
    names: tuple[str, ...] = ()
    pushes: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[str, ...] = ()
    add_hosts: tuple[tuple[str, str], ...] = ()
    shm_size_bytes: int = 64 * 1024 * 1024
    ulimits: tuple[tuple[str, int, int], ...] = ()
    resolv_conf: bytes = b""
    source_date_epoch: int | None = None
    compression: str = "gzip"
    image_format: str = "oci"
    snapshotter: str = "auto"
    ids: str = "range"
    jobs: int = 2
    timeout_s: float = 0.0
    isolation: StepIsolation = StepIsolation()
    uplink_host: str = ""
    uplink_port: int = 0
    uplink_token: str = ""
    gateway_patience_s: float = 240.0  # how long the gateway may be silent; it gives up on a host outside sooner
    step_groups: bool = False  # the launcher gives each step a control group: ask for it (protocol/groups.py)
    emulated: tuple[str, ...] = ()  # architectures other than the host's own that have an interpreter here

    def __repr__(self) -> str:
        return f"BuildRequest({self.build_id!r})"
