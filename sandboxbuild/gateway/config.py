"""GatewayConfig: all that a gateway process is told, once, as one frame on its standard input; never by argv or environment."""

from __future__ import annotations

from typing import NamedTuple

from sandboxbuild.plan.handovers import NamedRun
from sandboxbuild.policy.isolation import NetworkRules, RegistryAccess, SourceRules

CONFIG_LIMIT_BYTES = 16 * 1024 * 1024


class SecretFrom(NamedTuple):
    """A secret's value is the content of the file `path`, else of the environment variable `variable`."""

    secret_id: str
    path: str = ""
    variable: str = ""


class AgentFrom(NamedTuple):
    """An ssh agent that steps may ask: its unix socket on the host."""

    ssh_id: str
    path: str


class FetchGrant(NamedTuple):
    """A URL that the operator named on the command line; one that ends with a slash stands for all below it.

    With `opens` it may be fetched whatever [network] says, from private addresses too, and from loopback if the URL's host is
    loopback; metadata and link-local addresses stay closed. Its credential, for https alone, is user and password, or for
    git's requests the secret `secret_id`: a token, or with `is_header` the whole Authorization header.
    """

    url: str
    opens: bool = True
    user: str = ""
    password: str = ""
    secret_id: str = ""
    is_header: bool = False


class GatewayConfig(NamedTuple):
    """One build's gateway. Hosts are written as in references: "registry.example.com:5000", "docker.io".

    It listens on `socket_path`, or on `tcp_host` and `tcp_port` (0: any) where each request must show `token`. The socket
    belongs to `socket_uid` (-1: as it is), and only `peer_uids` may connect (none given: whoever can open it).

    `registries.pushes` are the references that this build may push; `cache_repositories` may be pulled from and pushed to
    under any tag. `mirrors` are asked for what a host has, in order: "mirror.example.com[:port][/prefix]"; the host itself
    comes last unless `mirror_fallback` is False. `plain_hosts` may speak plain HTTP, `unverified_hosts` have any certificate
    ("*": all). `authorities` are (host or "" for all, file), `client_certificates` (host, certificate file, key file).
    `auth_realms` are (registry, token server) that the operator allows. `proxies` are ("http", "https" or "no", value).
    `name_servers` are (address, port), asked for all names, in order; without any the host's own resolver is.

    `named_runs` are the Dockerfile's RUNs that name secrets or agents, each as often as it is run: steps get nothing else.
    None says that nobody has read the Dockerfile yet; then steps get what they are declared to name.
    """

    build_id: str
    socket_path: str = ""
    socket_uid: int = -1
    peer_uids: tuple[int, ...] = ()
    tcp_host: str = ""
    tcp_port: int = 0
    token: str = ""
    registries: RegistryAccess = RegistryAccess()
    sources: SourceRules = SourceRules()
    network: NetworkRules = NetworkRules()
    cache_repositories: tuple[str, ...] = ()
    mirrors: tuple[tuple[str, tuple[str, ...]], ...] = ()
    mirror_fallback: bool = True
    plain_hosts: tuple[str, ...] = ()
    unverified_hosts: tuple[str, ...] = ()
    ca_bundle: str = ""
    authorities: tuple[tuple[str, str], ...] = ()
    client_certificates: tuple[tuple[str, str, str], ...] = ()
    auth_file: str = ""
    auth_realms: tuple[tuple[str, str], ...] = ()
    proxies: tuple[tuple[str, str], ...] = ()
    name_servers: tuple[tuple[str, int], ...] = ()
    secrets: tuple[SecretFrom, ...] = ()
    agents: tuple[AgentFrom, ...] = ()
    named_runs: tuple[NamedRun, ...] | None = None
    grants: tuple[FetchGrant, ...] = ()
    fetch_limit_bytes: int = 16 * 1024 * 1024 * 1024
    connect_timeout_s: float = 10.0
    idle_timeout_s: float = 60.0

    def __repr__(self) -> str:
        return f"GatewayConfig({self.build_id!r})"
