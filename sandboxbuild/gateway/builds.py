"""All routes of one build, put together from its configuration: registries, secrets, fetches, and the connections of steps."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.gateway.access import build_access
from sandboxbuild.gateway.agents import Agents
from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.config import GatewayConfig
from sandboxbuild.gateway.egress import Denied, Egress
from sandboxbuild.gateway.fetch import Fetches, FetchRefused, Opener
from sandboxbuild.gateway.grants import Granted, Grants
from sandboxbuild.gateway.handover import Handover, SecretUnreadable, read_secret
from sandboxbuild.gateway.registries import Registries
from sandboxbuild.gateway.resolver import Resolver, ServerResolver, SystemResolver
from sandboxbuild.gateway.rules import FETCH, Asker
from sandboxbuild.gateway.server import Exchange, Request, Route
from sandboxbuild.gateway.stepbook import StepBook
from sandboxbuild.gateway.steps import DECLARATION_LIMIT_BYTES, StepRoutes, carry_connect, is_step_route
from sandboxbuild.policy.addresses import LOOPBACK, PRIVATE, PUBLIC
from sandboxbuild.system.relay import Relay

if TYPE_CHECKING:
    from sandboxbuild.registry.remote import RemoteTransport
    from sandboxbuild.registry.transport import Wire

_T = TypeVar("_T")
_FETCHING: Final = Asker("fetch", FETCH)


class Late(Generic[_T]):
    """Makes a thing once, when it is first asked for. Thread-safe; a failure is raised to each who asks."""

    def __init__(self, make: Callable[[], _T]) -> None:
        self._make = make
        self._made: list[_T] = []
        self._lock = threading.Lock()

    def __call__(self) -> _T:
        with self._lock:
            if not self._made:
                self._made.append(self._make())
            return self._made[0]

    def warm(self) -> None:
        """Make it now, on a thread of its own; an error is left for who asks."""
        threading.Thread(target=self._try, daemon=True).start()

    def _try(self) -> None:
        try:
            self()
        except SandboxbuildError:
            pass


def build_routes(config: GatewayConfig, audit: AuditLog, relay: Relay, resolver: Resolver | None = None) -> tuple[Route, ...]:
    """Raises UsageError for references that aren't any."""
    resolver = resolver or resolver_of(config)
    wire = Late(lambda: make_wire(config))
    remote = Late(lambda: make_remote(config, wire(), resolver))
    access = build_access(config.registries, config.sources, config.cache_repositories)
    book = StepBook(config.named_runs)
    egress = Egress(config.network, resolver, audit, relay, book)
    registries = Registries(
        access,
        remote,
        audit,
        mirrors=dict(config.mirrors),
        mirror_fallback=config.mirror_fallback,
        timeout_s=config.idle_timeout_s,
    )
    opener = FetchOpener(egress)
    fetches = Fetches(
        wire,
        opener,
        audit,
        limit_bytes=config.fetch_limit_bytes,
        timeout_s=config.idle_timeout_s,
        grants=Grants(config.grants, secret_reader(config)),
        granted_opener=lambda granted: granted_opener(granted, resolver),
    )
    remote.warm()
    handed_over = (*Handover(config.secrets, audit, book).routes(), *Agents(config.agents, audit, book).routes())
    return (*registries.routes(), *step_routes(egress, StepRoutes(egress, book, audit)), *handed_over, *fetches.routes())


def secret_reader(config: GatewayConfig) -> Callable[[str], bytes]:
    """A secret of the build for the gateway's own use; b"" where it can't be read."""
    sources = {secret.secret_id: secret for secret in config.secrets}

    def read(secret_id: str) -> bytes:
        try:
            return read_secret(sources[secret_id]) if secret_id in sources else b""
        except SecretUnreadable:
            return b""

    return read


def granted_opener(granted: Granted, resolver: Resolver) -> Opener:
    """For a URL that the operator named: public and private addresses, loopback where the URL says so itself."""
    from sandboxbuild.registry.transport import AddressClasses

    return AddressClasses(frozenset({LOOPBACK} if granted.loopback else {PUBLIC, PRIVATE}), resolver)


def resolver_of(config: GatewayConfig) -> Resolver:
    return ServerResolver(config.name_servers) if config.name_servers else SystemResolver()


def make_wire(config: GatewayConfig) -> Wire:
    """The connections to hosts outside, with the operator's authorities and proxies."""
    from sandboxbuild.registry.tls import TlsSettings
    from sandboxbuild.registry.transport import Wire, WireSettings

    by_host: dict[str, tuple[str, ...]] = {}
    for host, path in config.authorities:
        by_host[host] = (*by_host.get(host, ()), path)
    tls = TlsSettings(
        bundle=config.ca_bundle,
        authorities=by_host.pop("", ()),
        host_authorities=by_host,
        client_certificates={host: (certificate, key) for host, certificate, key in config.client_certificates},
    )
    return Wire(WireSettings(tls, dict(config.proxies), config.connect_timeout_s))


def make_remote(config: GatewayConfig, wire: Wire, resolver: Resolver) -> RemoteTransport:
    """The registries outside, with the operator's credentials."""
    from sandboxbuild.gateway.credentials import ConfiguredCredentials, places_of
    from sandboxbuild.registry.remote import RemoteSettings, RemoteTransport

    realms: dict[str, tuple[str, ...]] = {}
    for registry, realm in config.auth_realms:
        realms[registry] = (*realms.get(registry, ()), realm)
    settings = RemoteSettings(
        frozenset(config.plain_hosts), frozenset(config.unverified_hosts), realms, resolver, config.idle_timeout_s
    )
    return RemoteTransport(wire, ConfiguredCredentials(places_of(os.environ, config.auth_file)), settings)


def step_routes(egress: Egress, steps: StepRoutes) -> tuple[Route, ...]:
    """What steps' networks ask for: names, connections, and who is asking."""

    def answer(request: Request, exchange: Exchange) -> None:
        if exchange.size_bytes > DECLARATION_LIMIT_BYTES:
            exchange.refuse(413, f"a declaration of more than {DECLARATION_LIMIT_BYTES} bytes", code="SIZE_INVALID")
            return
        target = f"{request.path}?{request.query}" if request.query else request.path
        said = steps.answer(request.method, target, exchange.read_all())
        exchange.respond(said.status, said.headers, said.body)

    def carry(request: Request, exchange: Exchange) -> None:
        connection, early = exchange.hijack()
        carry_connect(egress, connection, early, request.path, request.headers)

    return (
        Route(lambda request: is_step_route(request.path), answer),
        Route(lambda request: request.method == "CONNECT" and not request.query, carry),
    )


class FetchOpener:
    """Makes the connections of fetches, by the rules of [network] fetch."""

    def __init__(self, egress: Egress) -> None:
        self._egress = egress

    def __call__(self, host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]:
        try:
            opened = self._egress.open(_FETCHING, host, port)
        except Denied as denied:
            if denied.refused.code in ("connect", "resolve"):
                raise OSError(denied.refused.reason) from denied
            raise FetchRefused(denied.refused.reason, hint=denied.refused.hint) from denied
        opened.connection.settimeout(timeout_s)
        return opened.connection, opened.address
