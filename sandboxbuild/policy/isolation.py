"""Isolation: what a profile and a policy come to, as plain frozen values that both processes can hold.

Standard library only: the executor reads StepIsolation from here, and the gateway gets its rules as these values (the
codec of protocol writes and reads them by their annotations).
"""

from __future__ import annotations

from typing import NamedTuple


class StepIsolation(NamedTuple):
    """What a step is confined to; resolved by the launcher (policy.resolve), obeyed by the executor.

    `seccomp_program` is compiled BPF (an array of struct sock_filter), b"" for none. `capabilities` are names without CAP_.
    `network` is the network that a step with --network=default gets: "gateway", "none" or "host"; `host_network` lets
    RUN --network=host have the host's. `cpus` is how many processors' time a step may use (0.0: all). `proxy` puts HTTP_PROXY
    and friends into the environment of steps on the gateway's network. `process_memory_bytes` is for each process, where the
    sum is only looked at now and then. `syscalls` names, for cache keys, what the program was compiled from.
    """

    seccomp_program: bytes = b""
    capabilities: tuple[str, ...] = (
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "SETUID",
        "SETGID",
        "SETPCAP",
        "SETFCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
    )
    network: str = "host"
    allowed_ports: tuple[int, ...] = ()  # ports that the step's listeners serve when `network` is gateway
    memory_bytes: int = 0
    pids: int = 0
    open_files: int = 0
    cpu_seconds: int = 0
    disk_bytes: int = 0  # written below the rootfs by one step
    inodes: int = 0
    output_bytes: int = 0
    step_timeout_s: float = 0.0
    host_network: bool = False
    cpus: float = 0.0
    proxy: bool = False
    process_memory_bytes: int = 0
    syscalls: str = ""


class Allow(NamedTuple):
    """One name that may be reached.

    `host` is a lower-case name, "*.example.org" (any name below, not the name itself) or "*" (any name). `ranges` are CIDR
    texts of addresses that aren't public but may be used for it. `inspect` False leaves the connection's bytes unread (a
    protocol of its own on a port of TLS or HTTP). `text` is the entry as its author wrote it.
    """

    host: str
    ports: tuple[int, ...]
    ranges: tuple[str, ...] = ()
    inspect: bool = True
    text: str = ""


class StepRule(NamedTuple):
    """Names for some steps only: `stage` and `run` are patterns of the stage's name and the RUN's text, "" for all."""

    stage: str
    run: str
    allow: tuple[Allow, ...]


class Budget(NamedTuple):
    """Limits of the connections of one step, or of one build; 0 is none. Bytes are counted each way."""

    connections: int = 0  # open at once
    connections_total: int = 0
    upload_bytes: int = 0
    download_bytes: int = 0
    connected_s: float = 0.0  # the longest that one connection may last
    idle_s: float = 0.0  # the longest silence on one connection


STEP_BUDGET = Budget(connections=256, connections_total=20_000, idle_s=600.0)
BUILD_BUDGET = Budget(connections=1024, connections_total=100_000, idle_s=600.0)


class NetworkRules(NamedTuple):
    """All that decides where a build's connections may go. `fetch` is for ADD of URLs, http and git contexts.

    `ranges` hold for every entry. `learning` lets through what no entry names (never addresses that the ranges don't cover).
    """

    run: tuple[Allow, ...] = ()
    fetch: tuple[Allow, ...] = ()
    rules: tuple[StepRule, ...] = ()
    ranges: tuple[str, ...] = ()
    host_network: bool = False
    learning: bool = False
    step_budget: Budget = STEP_BUDGET
    build_budget: Budget = BUILD_BUDGET


class RegistryAccess(NamedTuple):
    """What may be pulled: patterns of repositories, "registry.example.com/team/*", with ** for any number of segments.

    `from_dockerfile` adds the repositories of the Dockerfile's FROM and --from. `pushes` come from the command line, as
    references with their tags; no policy can add to them.
    """

    pull: tuple[str, ...] = ()
    from_dockerfile: bool = True
    pushes: tuple[str, ...] = ()


class SourceRules(NamedTuple):
    """What a base image must be. `allow` are patterns of references (() for any); `digests` pins reference -> digest."""

    require_digest: bool = False
    allow: tuple[str, ...] = ()
    digests: tuple[tuple[str, str], ...] = ()


class SyscallChoice(NamedTuple):
    """Which filter a step gets: a packaged profile's name, or the absolute path of a file in the moby JSON format."""

    profile: str = "default"
    file: str = ""
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class Isolation(NamedTuple):
    """The whole of it. `step.seccomp_program` is empty here: the launcher compiles `syscalls` for this host."""

    profile: str
    policy: str
    runtime: str
    step: StepIsolation
    network: NetworkRules
    registries: RegistryAccess
    sources: SourceRules
    syscalls: SyscallChoice
    build_timeout_s: float = 0.0
