"""Wire: one HTTP exchange with a host outside, over requests: TLS, addresses that may be gone to, proxies, timeouts.

The only importer of requests (120 ms: import this module late). Redirects, credentials and cookies are nobody's business here:
of requests only the adapter is used, so that nothing of its session (netrc, cookies, redirects) can take part.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

import requests
import requests.adapters
import requests.exceptions
import requests.utils
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
import urllib3.poolmanager

from sandboxbuild.errors import RegistryError
from sandboxbuild.policy.addresses import FORBIDDEN, PUBLIC
from sandboxbuild.registry import CHUNK_BYTES, Body, Response
from sandboxbuild.registry.addresses import AddressRefused, Lookup, classify, connect, is_literal, system_lookup
from sandboxbuild.registry.auth import origin_of
from sandboxbuild.registry.failures import OWN_PREFIX, TransientError, quoted
from sandboxbuild.registry.tls import HostTrust, TlsSettings, context_for, trust_of

CONNECT_TIMEOUT_S: Final = 10.0
IDLE_TIMEOUT_S: Final = 60.0
_POOL_SIZE: Final = 16
_TIMED_OUT: Final = 504
_TLS_PIECE_BYTES: Final = 256 * 1024


class NotTls(TransientError):
    """The other side doesn't speak TLS at all; a certificate that fails is another error."""


class NoAnswer(TransientError):
    """The other side took longer than the timeout: another try at once would only double the wait."""


class Opener(Protocol):
    """Makes the TCP connections of an exchange, and judges where they may go. Thread-safe and hashable.

    Raises AddressRefused (or another RegistryError) for what it doesn't allow, OSError when nobody answers.
    """

    def __call__(self, host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]:
        """The connection, and the address that it went to."""


class AddressClasses(NamedTuple):
    """The Opener for registries: goes to addresses of these classes (policy.addresses), and never to a forbidden one."""

    classes: frozenset[str]
    lookup: Lookup = system_lookup

    def allows(self, _address: str, kind: str) -> bool:
        return kind != FORBIDDEN and kind in self.classes

    def __call__(self, host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]:
        return connect(host, port, self.allows, timeout_s, self.lookup)


class WireSettings(NamedTuple):
    """`proxies` maps "http" and "https" to a proxy's URL, "no" to a NO_PROXY list."""

    tls: TlsSettings = TlsSettings()
    proxies: Mapping[str, str] = {}
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    user_agent: str = "sandboxbuild"


class Wire:
    """Exchanges with hosts outside; connections are kept for the next one. Thread-safe."""

    def __init__(self, settings: WireSettings = WireSettings()) -> None:  # noqa: B008 - a frozen value
        self._settings = settings
        self._adapters: dict[tuple[HostTrust, Opener], _Adapter] = {}
        self._addresses: dict[tuple[str, int], str] = {}
        self._lock = threading.Lock()

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        opener: Opener,
        *,
        timeout_s: float = IDLE_TIMEOUT_S,
        unverified: bool = False,
    ) -> Response:
        """One request and the head of its answer; any status is an answer, and redirects are not followed.

        Raises AddressRefused, NotTls, TransientError (no answer), RegistryError (a certificate, a URL that isn't one).
        """
        origin = origin_of(url)
        proxies = self._proxies(url)
        if proxies and is_literal(origin.host) and classify(origin.host) != PUBLIC:
            raise AddressRefused(f"{origin.host} is a {classify(origin.host)} address, whither no proxy is asked to go")
        host = f"{origin.host}:{origin.port}"
        trust = self._trust(host, origin.host if origin.port == 443 else "")
        adapter = self._adapter(trust._replace(unverified=True) if unverified else trust, opener)
        fields = {"User-Agent": self._settings.user_agent, "Accept-Encoding": "identity", **headers}
        prepared = _prepared(method, url, fields, body)
        timeout = (self._settings.connect_timeout_s, timeout_s)
        try:
            answer = adapter.send(prepared, stream=True, timeout=timeout, proxies=proxies)
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _translated(error, host, timeout_s) from error
        return WireResponse(answer, host, timeout_s)

    def address_of(self, host: str, port: int) -> str:
        """The address that the last connection to `host` went to; "" if a proxy made it, or there was none."""
        return self._addresses.get((host, port), "")

    def close(self) -> None:
        for adapter in self._adapters.values():
            adapter.close()

    def _trust(self, host: str, bare: str) -> HostTrust:
        trust = trust_of(self._settings.tls, host)
        return trust if trust != HostTrust() or not bare else trust_of(self._settings.tls, bare)

    def _adapter(self, trust: HostTrust, opener: Opener) -> _Adapter:
        with self._lock:
            if (trust, opener) not in self._adapters:
                context = context_for(self._settings.tls, trust)
                self._adapters[trust, opener] = _Adapter(context, opener, self._addresses)
            return self._adapters[trust, opener]

    def _proxies(self, url: str) -> dict[str, str]:
        proxies = self._settings.proxies
        if not proxies or requests.utils.should_bypass_proxies(url, no_proxy=proxies.get("no", "")):
            return {}
        return {scheme: proxies[scheme] for scheme in ("http", "https") if scheme in proxies}


class WireResponse:
    """An answer of a host outside; for one thread."""

    __slots__ = ("_answer", "_host", "_piece_bytes", "_read", "_timeout_s", "headers", "status")

    def __init__(self, answer: requests.Response, host: str, timeout_s: float) -> None:
        self.status = int(answer.status_code)
        self.headers: Mapping[str, str] = {
            name.lower(): value for name, value in answer.headers.items() if not name.lower().startswith(OWN_PREFIX)
        }
        self._answer = answer
        self._host = host
        self._timeout_s = timeout_s
        # read1 gives what has come; over TLS that is one record of 16 KiB, so there a larger piece is waited for.
        secure = (answer.url or "").startswith("https:")
        self._piece_bytes = _TLS_PIECE_BYTES if secure else CHUNK_BYTES
        read: Callable[[int, bool], bytes | None] = answer.raw.read
        self._read = read if secure else getattr(answer.raw, "read1", read)

    def read(self, count: int, /) -> bytes:
        try:
            return self._read(min(count, self._piece_bytes), False) or b""
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            self._answer.close()
            raise _translated(error, self._host, self._timeout_s) from error

    def close(self) -> None:
        self._answer.close()


def _prepared(method: str, url: str, headers: Mapping[str, str], body: Body | None) -> requests.PreparedRequest:
    prepared = requests.PreparedRequest()
    prepared.prepare_method(method)
    try:
        prepared.prepare_url(url, None)
        prepared.prepare_headers(dict(headers))
    except (requests.exceptions.RequestException, UnicodeError) as error:
        raise RegistryError(f"not a URL that HTTP can carry: {quoted(url)}") from error
    prepared.body = None
    if body is not None or method in ("POST", "PUT", "PATCH"):
        prepared.headers["Content-Length"] = str(body.size_bytes if body is not None else 0)
    if body is not None and body.size_bytes:
        prepared.body = _chunks(body)  # type: ignore[assignment]  # an iterator is sent as it is where a length is given
    return prepared


def _chunks(body: Body) -> Iterator[bytes]:
    left = body.size_bytes
    while left:
        chunk = body.read(min(CHUNK_BYTES, left))
        if not chunk:
            raise RegistryError("a request's body ended too soon")
        left -= len(chunk)
        yield chunk


class _Adapter(requests.adapters.HTTPAdapter):
    """An adapter with one TLS context, whose connections `opener` makes."""

    def __init__(self, context: ssl.SSLContext, opener: Opener, addresses: dict[tuple[str, int], str]) -> None:
        self._context = context
        self._pools = _guarded_pools(opener, addresses)
        super().__init__(pool_connections=_POOL_SIZE, pool_maxsize=_POOL_SIZE, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **_: Any) -> None:
        manager = urllib3.poolmanager.PoolManager(
            num_pools=connections, maxsize=maxsize, block=block, ssl_context=self._context, blocksize=CHUNK_BYTES
        )
        manager.pool_classes_by_scheme = self._pools
        self.poolmanager = manager

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """The context says all; requests would add its own bundle of authorities here."""

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:  # noqa: ARG002
        origin = origin_of(request.url)
        return {"scheme": origin.scheme, "host": origin.host, "port": origin.port}, {}


def _guarded_pools(opener: Opener, addresses: dict[tuple[str, int], str]) -> dict[str, Any]:
    """Pools whose connections are made by `opener` alone."""

    def open_socket(connection: Any) -> Any:
        try:
            opened, address = opener(connection.host.strip("[]"), connection.port, float(connection.timeout))
        except TimeoutError as error:
            raise urllib3.exceptions.ConnectTimeoutError(connection, "timed out") from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(connection, str(error.strerror or error)) from error
        addresses[connection.host, connection.port] = address
        return opened

    class Plain(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> Any:
            return open_socket(self)

    class Secure(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> Any:
            return open_socket(self)

    class PlainPool(urllib3.connectionpool.HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(urllib3.connectionpool.HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _translated(error: Exception, host: str, timeout_s: float) -> RegistryError:
    """Our error for one of requests', urllib3's or the system's; the one place that knows their names."""
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            reason = quoted(cause.verify_message or str(cause))
            return RegistryError(
                f"the certificate of {host} is not trusted: {reason}", hint="name its authority with --registry-certificate"
            )
    for cause in causes:
        if isinstance(cause, ssl.SSLError):
            return NotTls(f"no TLS connection to {host}: {quoted(cause.reason or str(cause))}")
    if not any(isinstance(cause, urllib3.exceptions.NewConnectionError) for cause in causes) and any(
        isinstance(cause, urllib3.exceptions.ConnectTimeoutError) for cause in causes
    ):
        return NoAnswer(f"{host} can't be reached: the connection timed out", status=_TIMED_OUT)
    if any(isinstance(cause, (TimeoutError, urllib3.exceptions.ReadTimeoutError)) for cause in causes):
        return NoAnswer(f"{host} hangs: nothing came for {timeout_s:g} s", status=_TIMED_OUT)
    deepest = causes[-1]
    reason = deepest.strerror if isinstance(deepest, OSError) and deepest.strerror else str(deepest)
    return TransientError(f"the connection to {host} failed: {quoted(reason)}")


def _causes(error: BaseException) -> list[BaseException]:
    """The error and what it wraps: as cause, as argument or as urllib3's `reason`."""
    found: list[BaseException] = []
    pending: list[Any] = [error]
    while pending and len(found) < 16:
        item = pending.pop(0)
        if isinstance(item, BaseException) and all(item is not known for known in found):
            found.append(item)
            pending += [item.__cause__, getattr(item, "reason", None), *item.args]
    return found
