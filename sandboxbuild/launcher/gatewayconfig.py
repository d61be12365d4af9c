"""What the gateway of one build is told: who may be reached, how, and with whose credentials. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandboxbuild.gateway.config import AgentFrom, FetchGrant, GatewayConfig, SecretFrom
from sandboxbuild.launcher.grants import local_grants
from sandboxbuild.launcher.request import CONNECT_TIMEOUT_S
from sandboxbuild.launcher.settings import BuildSettings, RegistrySettings
from sandboxbuild.oci.reference import DEFAULT_REGISTRY, parse_reference
from sandboxbuild.plan.handovers import NamedRun
from sandboxbuild.policy.isolation import Isolation, NetworkRules, RegistryAccess, SourceRules, StepIsolation, SyscallChoice

ANY_REPOSITORY = "**"
# For who only pushes: nobody asks for names, and nothing is pulled.
NO_STEPS = Isolation(
    "", "", "", StepIsolation(network="none"), NetworkRules(), RegistryAccess(), SourceRules(), SyscallChoice()
)
_PROXY_VARIABLES = (("http", "http_proxy"), ("https", "https_proxy"), ("no", "no_proxy"))


def gateway_config(
    settings: BuildSettings,
    isolation: Isolation = NO_STEPS,
    *,
    build_id: str,
    pulls: Sequence[str],
    pushes: Sequence[str],
    environ: Mapping[str, str],
    grants: Sequence[FetchGrant] = (),
    agents: Sequence[AgentFrom] = (),
    named_runs: tuple[NamedRun, ...] | None = None,
) -> GatewayConfig:
    """`pulls` are HOST/PATH or ANY_REPOSITORY, `pushes` full references. The socket is left for the caller.

    `grants` are for the contexts; those for registries on loopback are added here. `named_runs` is None where the Dockerfile
    isn't here yet.
    """
    registries = settings.registries
    pull_hosts = ["*" if pull == ANY_REPOSITORY else pull.partition("/")[0] for pull in pulls]
    push_hosts = [parse_reference(push).registry for push in pushes]
    return GatewayConfig(
        build_id=build_id,
        registries=registry_access(isolation, pulls, pushes),
        sources=isolation.sources,
        network=isolation.network,
        mirrors=mirrors(registries),
        mirror_fallback=registries.fallback,
        plain_hosts=_chosen(
            registries.insecure_hosts, (registries.insecure_pull, pull_hosts), (registries.insecure_push, push_hosts)
        ),
        unverified_hosts=_chosen(
            registries.unverified_hosts, (registries.unverified_pull, pull_hosts), (registries.unverified_push, push_hosts)
        ),
        ca_bundle=_bundle(environ),
        authorities=registries.certificates,
        client_certificates=registries.client_certificates,
        auth_file=registries.authfile,
        auth_realms=registries.realms,
        proxies=_proxies(environ),
        name_servers=registries.name_servers,
        connect_timeout_s=min(CONNECT_TIMEOUT_S, registries.timeout_s),
        idle_timeout_s=registries.timeout_s,
        secrets=tuple(SecretFrom(secret.secret_id, secret.path, secret.variable) for secret in settings.secrets),
        grants=(*grants, *local_grants(registries)),
        agents=tuple(agents),
        named_runs=named_runs,
    )


def registry_access(isolation: Isolation, pulls: Sequence[str], pushes: Sequence[str]) -> RegistryAccess:
    """What the policy lets through, and no push but those of the command line. A build that is learned may pull anything."""
    rules = isolation.registries
    named = tuple(pulls) if rules.from_dockerfile else ()
    anything = (ANY_REPOSITORY,) if isolation.network.learning else ()
    return RegistryAccess(tuple(dict.fromkeys((*rules.pull, *named, *anything))), rules.from_dockerfile, tuple(pushes))


def mirrors(registries: RegistrySettings) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """HOST -> its substitutes in order; --registry-mirror is for docker.io, as kaniko has it."""
    table: dict[str, list[str]] = {}
    for host, substitute in registries.maps:
        table.setdefault("docker.io" if host == "index.docker.io" else host, []).append(substitute)
    if registries.mirrors:
        table.setdefault(DEFAULT_REGISTRY, []).extend(registries.mirrors)
    return tuple((host, tuple(substitutes)) for host, substitutes in table.items())


def _chosen(named: Sequence[str], *conditional: tuple[bool, Sequence[str]]) -> tuple[str, ...]:
    hosts = [*named, *(host for wanted, hosts in conditional if wanted for host in hosts)]
    return tuple(dict.fromkeys(hosts))


def _proxies(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """HTTP_PROXY and friends, either case; the lower one wins, as in curl."""
    found = ((kind, environ.get(name) or environ.get(name.upper(), "")) for kind, name in _PROXY_VARIABLES)
    return tuple((kind, value) for kind, value in found if value)


def _bundle(environ: Mapping[str, str]) -> str:
    """The authorities that take the place of the system's, as in requests and curl. SSL_CERT_FILE is OpenSSL's own matter."""
    if environ.get("SSL_CERT_FILE"):
        return ""
    return environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE", "")
