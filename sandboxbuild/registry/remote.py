"""RemoteTransport: registries as they really are: where they listen, what they want to be shown, whither they redirect."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urljoin, urlsplit

from sandboxbuild.errors import RegistryError
from sandboxbuild.policy.addresses import LOOPBACK, PRIVATE, PUBLIC, RESERVED
from sandboxbuild.registry import Body, BytesBody, Response
from sandboxbuild.registry.addresses import Lookup, classify, is_loopback_host, system_lookup
from sandboxbuild.registry.auth import HUB_NAMES, Authenticator, CredentialSource, Origin, origin_of
from sandboxbuild.registry.failures import TransientError, quoted, read_bounded
from sandboxbuild.registry.routes import UnknownRequest, is_host, parse_request
from sandboxbuild.registry.transport import AddressClasses, NoAnswer, NotTls, Wire

REDIRECTS_LIMIT: Final = 5
TOKEN_ANSWER_LIMIT_BYTES: Final = 256 * 1024
_HUB_HOST: Final = "registry-1.docker.io"
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_ANYWHERE: Final = frozenset({PUBLIC, PRIVATE, LOOPBACK, RESERVED})
# Whither a registry may send us on, by the class of its own address: never further inside than it is itself.
_ONWARD: Final = {
    LOOPBACK: _ANYWHERE,
    PRIVATE: frozenset({PUBLIC, PRIVATE, RESERVED}),
    RESERVED: frozenset({PUBLIC, RESERVED}),
    PUBLIC: frozenset({PUBLIC}),
}


class RemoteSettings(NamedTuple):
    """`plain` registries may speak plain HTTP, `unverified` ones have any certificate; "*" in either means all of them.

    `realms`: registry -> token servers that it may name. `lookup` finds the addresses of registries' names,
    and `token_timeout_s` is the longest silence of a token server.
    """

    plain: frozenset[str] = frozenset()
    unverified: frozenset[str] = frozenset()
    realms: Mapping[str, tuple[str, ...]] = {}
    lookup: Lookup = system_lookup
    token_timeout_s: float = 60.0


class RemoteTransport:
    """The Transport that opens connections. Thread-safe.

    Authorization goes to the registry's own origin (scheme, host and port) and nowhere else.
    """

    def __init__(self, wire: Wire, credentials: CredentialSource, settings: RemoteSettings = RemoteSettings()) -> None:  # noqa: B008
        self._wire = wire
        self._settings = settings
        self._anywhere = AddressClasses(_ANYWHERE, settings.lookup)
        self._auth = Authenticator(credentials, self._fetch_token, settings.realms)
        self._origins: dict[str, Origin] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def request(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> Response:
        origin = self._origin(host, timeout_s)
        url = path if path.startswith(("https://", "http://")) else f"{origin}{path}"
        if origin_of(url) == origin:
            response = self._authorized(method, host, origin, url, headers, body, timeout_s)
        else:
            response = self._elsewhere(method, origin, url, headers, body, timeout_s)
        if response.status in _REDIRECTS and method in ("GET", "HEAD"):
            return self._followed(method, host, origin, url, headers, response, timeout_s)
        return _located(response, origin, url)

    def explain(self, host: str, repository: str) -> str:
        """Which credential was used, or why none, for the hint of an error."""
        return self._auth.explain(host, repository)

    def _authorized(
        self,
        method: str,
        host: str,
        origin: Origin,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        timeout_s: float,
    ) -> Response:
        repository, scopes = scopes_of(method, url)
        shown = self._auth.header(host, origin, repository, scopes)
        response = self._send(method, host, origin, url, _with(headers, shown), body, timeout_s)
        if response.status != 401:
            return response
        self._auth.learn(origin, response.headers.get("www-authenticate", ""))
        again = self._auth.header(host, origin, repository, scopes, refused=shown)
        if again is None or again == shown:
            return response
        response.close()
        if body is not None:
            raise TransientError(f"{host} wants a new token in the middle of an upload", status=401)
        return self._send(method, host, origin, url, _with(headers, again), None, timeout_s)

    def _send(
        self,
        method: str,
        host: str,
        origin: Origin,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        timeout_s: float,
    ) -> Response:
        unverified = not self._settings.unverified.isdisjoint({host, "*"})
        try:
            return self._wire.send(method, url, headers, body, self._anywhere, timeout_s=timeout_s, unverified=unverified)
        except (NotTls, NoAnswer):
            raise
        except TransientError:
            if body is not None or self._origins.get(host) != origin:
                raise
        return self._wire.send(method, url, headers, None, self._anywhere, timeout_s=timeout_s, unverified=unverified)

    def _elsewhere(
        self, method: str, origin: Origin, url: str, headers: Mapping[str, str], body: Body | None, timeout_s: float
    ) -> Response:
        """A request to where the registry points, as a stranger: no Authorization, no less private, no further inside."""
        target = origin_of(url)
        if origin.scheme == "https" and target.scheme != "https":
            raise RegistryError(f"{origin} redirects from https to {target}, which is refused")
        return self._wire.send(method, url, headers, body, self._onward(origin), timeout_s=timeout_s)

    def _followed(
        self, method: str, host: str, origin: Origin, url: str, headers: Mapping[str, str], response: Response, timeout_s: float
    ) -> Response:
        for _ in range(REDIRECTS_LIMIT):
            location = response.headers.get("location", "")
            response.close()
            if not location:
                raise RegistryError(f"{origin} redirects to nowhere")
            previous, url = url, urljoin(url, location)
            if origin_of(previous).scheme == "https" and origin_of(url).scheme != "https":
                raise RegistryError(f"{origin_of(previous)} redirects from https to {origin_of(url)}, which is refused")
            if origin_of(url) == origin:
                response = self._authorized(method, host, origin, url, headers, None, timeout_s)
            else:
                response = self._elsewhere(method, origin, url, headers, None, timeout_s)
            if response.status not in _REDIRECTS:
                return response
        response.close()
        raise RegistryError(f"{origin} redirects more than {REDIRECTS_LIMIT} times")

    def _onward(self, origin: Origin) -> AddressClasses:
        """Whither a registry may send us, by the address that it answered from. Behind a proxy that counts as public."""
        address = self._wire.address_of(origin.host, origin.port)
        return AddressClasses(_ONWARD[classify(address) if address else PUBLIC], self._settings.lookup)

    def _origin(self, host: str, timeout_s: float) -> Origin:
        """Where the registry is, found out once by asking for /v2/ (distribution-spec, "Determining Support")."""
        if not is_host(host):
            raise RegistryError(f"not a registry's host: {quoted(host)}")
        with self._guard:
            lock = self._locks.setdefault(host, threading.Lock())
        with lock:
            if host not in self._origins:
                self._origins[host] = self._probe(host, timeout_s)
            return self._origins[host]

    def _probe(self, host: str, timeout_s: float) -> Origin:
        secure = registry_origin(host)
        try:
            return self._ping(host, secure, timeout_s)
        except TransientError as error:
            may_be_plain = not self._settings.plain.isdisjoint({host, "*"}) or is_loopback_host(secure.host)
            if not may_be_plain or not (isinstance(error, NotTls) or _has_no_port(host)):
                raise
        return self._ping(host, secure._replace(scheme="http", port=80 if _has_no_port(host) else secure.port), timeout_s)

    def _ping(self, host: str, origin: Origin, timeout_s: float) -> Origin:
        response = self._send("GET", host, origin, f"{origin}/v2/", {}, None, timeout_s)
        response.close()
        if response.status == 401:
            self._auth.learn(origin, response.headers.get("www-authenticate", ""))
        return origin

    def _fetch_token(
        self, origin: Origin, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, bytes]:
        sent = BytesBody(body) if body is not None else None
        onward, timeout_s = self._onward(origin), self._settings.token_timeout_s
        response = self._wire.send(method, url, headers, sent, onward, timeout_s=timeout_s)
        try:
            return response.status, read_bounded(response, TOKEN_ANSWER_LIMIT_BYTES)
        finally:
            response.close()


class _Located(NamedTuple):
    """A response whose Location is a path of the registry's, or the whole URL where it is another origin's."""

    inner: Response
    headers: Mapping[str, str]

    @property
    def status(self) -> int:
        return self.inner.status

    def read(self, count: int, /) -> bytes:
        return self.inner.read(count)

    def close(self) -> None:
        self.inner.close()


def _located(response: Response, origin: Origin, url: str) -> Response:
    location = response.headers.get("location")
    if location is None:
        return response
    whole = urljoin(url, location)
    if origin_of(whole) == origin:
        parts = urlsplit(whole)
        whole = parts.path + (f"?{parts.query}" if parts.query else "")
    return _Located(response, {**response.headers, "location": whole})


def registry_origin(host: str) -> Origin:
    """Where a registry of references ("docker.io", "registry.example.com:5000") listens, over https."""
    name = _HUB_HOST if host in HUB_NAMES else host
    return origin_of(f"https://{name}/")


def scopes_of(method: str, url: str) -> tuple[str, tuple[str, ...]]:
    """The repository of a request to a registry, and the scopes that its token must have."""
    parts = urlsplit(url)
    try:
        found = parse_request(method, parts.path, parts.query)
    except UnknownRequest:
        name, uploads, _ = parts.path.removeprefix("/v2/").partition("/blobs/uploads/")
        return (name, (f"repository:{name}:pull,push",)) if uploads else ("", ())
    return found.repository, found.scopes


def _has_no_port(host: str) -> bool:
    return not host.rpartition(":")[2].isdigit()


def _with(headers: Mapping[str, str], authorization: str | None) -> dict[str, str]:
    kept = {name: value for name, value in headers.items() if name.lower() not in ("authorization", "cookie")}
    return {**kept, "Authorization": authorization} if authorization else kept
