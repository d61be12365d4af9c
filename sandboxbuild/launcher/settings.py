"""BuildSettings: one build as the operator asked for it, before anything is looked up. The command line and the API make it."""

from __future__ import annotations

from typing import NamedTuple


class OutputSpec(NamedTuple):
    """Where the finished image is written beside the store.

    `kind` is oci, docker, rootfs, image or none; `destination` a path, or "-" for standard output. `as_tar` says which
    of the two forms a kind that has both gets. A registry output has kind image, with its names already in `tags` or `pushes`.
    """

    kind: str
    destination: str = ""
    as_tar: bool = True


class SecretSource(NamedTuple):
    """A secret's value comes from the file `path` or else the variable `variable`; it is read by the gateway."""

    secret_id: str
    path: str = ""
    variable: str = ""


class RegistrySettings(NamedTuple):
    """How registries are reached. Hosts are written as in references. `fallback` is to the named host where mirrors fail.

    `client_certificates` are (host, certificate file, key file), `realms` (registry, token server) that it may send to.
    `timeout_s` is the longest silence of a registry or fetched host. `name_servers` are (address, port), for every name that
    the gateway looks up; none: the host's own.
    """

    mirrors: tuple[str, ...] = ()
    maps: tuple[tuple[str, str], ...] = ()
    fallback: bool = True
    insecure_pull: bool = False
    insecure_push: bool = False
    insecure_hosts: tuple[str, ...] = ()
    unverified_pull: bool = False
    unverified_push: bool = False
    unverified_hosts: tuple[str, ...] = ()
    certificates: tuple[tuple[str, str], ...] = ()
    authfile: str = ""
    client_certificates: tuple[tuple[str, str, str], ...] = ()
    realms: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 60.0
    name_servers: tuple[tuple[str, int], ...] = ()


class ReportFiles(NamedTuple):
    """Files that tell other programs what was built; "" for none."""

    image_id: str = ""
    metadata: str = ""
    digest: str = ""
    names_with_digest: str = ""
    tags_with_digest: str = ""


class BuildSettings(NamedTuple):
    """All that `build` needs. Relative paths are relative to the working directory.

    `context` is a folder, a URL, or "-" for standard input; `dockerfile` is a path, "-" for standard input, or "" for the
    context's Dockerfile. `tags` name the image in the store, `pushes` name and push it. `push_tags` pushes the tags too.
    `allow_hosts` are NAME or NAME:PORT, for steps. `audit_log` and `learn` are files to write, "" for none; with `learn`, names
    that the policy doesn't allow are let through, and the policy that would have allowed them is written.
    """

    context: str = "."
    context_subpath: str = ""
    dockerfile: str = ""
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    named_contexts: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    platforms: tuple[str, ...] = ()
    no_cache: bool = False
    pull: bool = False
    tags: tuple[str, ...] = ()
    pushes: tuple[str, ...] = ()
    push_tags: bool = False
    outputs: tuple[OutputSpec, ...] = ()
    secrets: tuple[SecretSource, ...] = ()
    ssh: tuple[tuple[str, tuple[str, ...]], ...] = ()
    add_hosts: tuple[tuple[str, str], ...] = ()
    shm_size_bytes: int = 64 * 1024 * 1024
    ulimits: tuple[tuple[str, int, int], ...] = ()
    network: str = "default"
    source_date_epoch: int | None = None
    compression: str = "gzip"
    image_format: str = "oci"
    jobs: int = 0  # 0: one for each processor
    timeout_s: float = 0.0
    profile: str = "plain"
    policy_file: str = ""
    allow_hosts: tuple[str, ...] = ()
    audit_log: str = ""
    learn: str = ""
    uplink: str = "unix"  # or tcp: how the sandbox reaches the gateway
    store: str = ""
    snapshotter: str = "auto"
    registries: RegistrySettings = RegistrySettings()
    reports: ReportFiles = ReportFiles()
