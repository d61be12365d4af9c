"""From what the operator asked for to what the executor is told. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sandboxbuild.errors import UsageError
from sandboxbuild.launcher.settings import BuildSettings, RegistrySettings
from sandboxbuild.launcher.sources import Sources
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.protocol.request import BuildRequest, Secret, StepIsolation

CONNECT_TIMEOUT_S: Final = 10.0
PATIENCE_BASE_S: Final = 30.0


def image_names(texts: Sequence[str], flag: str) -> tuple[str, ...]:
    """Normalised references, each once. Raises UsageError for what is no name, or has a digest, which a build can't choose."""
    names = []
    for text in texts:
        try:
            reference = parse_reference(text)
        except UsageError as error:
            raise UsageError(f"{flag} {text!r}: {error.message}", hint=error.hint) from error
        if reference.digest:
            raise UsageError(f"{flag} {text!r} has a digest, and an image can't be given one")
        names.append(str(reference))
    return tuple(dict.fromkeys(names))


def patience_s(registries: RegistrySettings) -> float:
    """How long the executor waits for the gateway: longer than that asks a registry and all that stand in for it.

    Each of them may take a connection, a token and an answer (registry.remote).
    """
    places = 1 + len(registries.mirrors) + len(registries.maps)
    return PATIENCE_BASE_S + places * (CONNECT_TIMEOUT_S + 3 * registries.timeout_s)


def make_request(
    settings: BuildSettings,
    sources: Sources,
    *,
    build_id: str,
    names: tuple[str, ...],
    pushes: tuple[str, ...],
    isolation: StepIsolation,
    ids: str,
    build_platform: str,
    processors: int,
    resolv_conf: bytes = b"",
    emulated: tuple[str, ...] = (),
) -> BuildRequest:
    """`ids` is range or single; `build_platform` the host's own platform; `resolv_conf` the host's, for its network.

    `emulated` are the foreign architectures that the host has interpreters for.
    """
    return BuildRequest(
        build_id=build_id,
        dockerfile=sources.dockerfile,
        dockerfile_path=sources.dockerfile_name,
        ignore_file=sources.ignore_file,
        context=sources.context,
        context_subpath="" if sources.context == "local" else settings.context_subpath,
        named_contexts=sources.named,
        target=settings.target,
        build_args=settings.build_args,
        labels=settings.labels,
        annotations=settings.annotations,
        platforms=settings.platforms,
        build_platform=build_platform,
        no_cache=settings.no_cache or bool(settings.learn),  # what isn't run can't be learned
        pull=settings.pull,
        names=names,
        pushes=pushes,
        secrets=tuple(Secret(secret.secret_id) for secret in settings.secrets),
        ssh=tuple(ssh_id for ssh_id, _ in settings.ssh),
        add_hosts=settings.add_hosts,
        shm_size_bytes=settings.shm_size_bytes,
        ulimits=settings.ulimits,
        resolv_conf=resolv_conf,
        source_date_epoch=settings.source_date_epoch,
        compression=settings.compression,
        image_format=settings.image_format,
        snapshotter=settings.snapshotter,
        ids=ids,
        jobs=settings.jobs or processors,
        timeout_s=settings.timeout_s,
        gateway_patience_s=patience_s(settings.registries),
        isolation=isolation,
        emulated=emulated,
    )
