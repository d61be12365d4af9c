"""URLs that a build names itself (ADD, http and git contexts): fetched outside, by [network] fetch, each redirect judged anew.

The one thing that is posted is what a git fetch asks for, to a path that ends with /git-upload-pack.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol
from urllib.parse import urljoin

from sandboxbuild.errors import PolicyError, RegistryError
from sandboxbuild.gateway.audit import FETCH, REFUSE, AuditLog, Record
from sandboxbuild.gateway.grants import GIT_POST_SUFFIX, Granted, Grants
from sandboxbuild.gateway.server import Exchange, Request, Route
from sandboxbuild.registry import Body, Response
from sandboxbuild.registry.auth import origin_of
from sandboxbuild.registry.failures import TransientError
from sandboxbuild.registry.uplink import LOCATION_HEADER, URL_HEADER

PATH: Final = "/v1/fetch"
REDIRECTS_LIMIT: Final = 10
URL_LIMIT: Final = 8192
GIT_REQUEST_TYPE: Final = "application/x-git-upload-pack-request"
GIT_REQUEST_LIMIT_BYTES: Final = 64 * 1024
GIT_PROTOCOL: Final = ("git-protocol", "version=2")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_CONDITION: Final = re.compile(r"[\x20-\x7e]{1,512}")
_ASKED: Final = ("if-none-match", "if-modified-since", "range")
_ANSWERED: Final = (
    "content-type",
    "content-disposition",
    "content-encoding",
    "content-range",
    "last-modified",
    "etag",
    "accept-ranges",
)
_PRINTABLE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,1022}[\x21-\x7e])?")


class Opener(Protocol):
    """Makes the connections of fetches, and judges where they may go; see registry.transport.Opener. Hashable."""

    def __call__(self, host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]: ...


class Exchanges(Protocol):
    """registry.transport.Wire, as far as it is used here."""

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | None,
        opener: Opener,
        *,
        timeout_s: float = 60.0,
    ) -> Response: ...

    def address_of(self, host: str, port: int) -> str: ...


class FetchRefused(PolicyError):
    """An opener's refusal: the policy doesn't let a fetch go there."""


class _Fetched(NamedTuple):
    """An answer, and the URL that gave it."""

    response: Response
    url: str


class Fetches:
    """The fetch route of one build. `wire` is made at the first request.

    `opener` goes where [network] fetch allows, `granted_opener` where a URL of `grants` may lead.
    """

    def __init__(
        self,
        wire: Callable[[], Exchanges],
        opener: Opener,
        audit: AuditLog,
        *,
        limit_bytes: int,
        timeout_s: float = 60.0,
        grants: Grants | None = None,
        granted_opener: Callable[[Granted], Opener] | None = None,
    ) -> None:
        self._wire = wire
        self._opener = opener
        self._audit = audit
        self._limit_bytes = limit_bytes
        self._timeout_s = timeout_s
        self._grants = grants or Grants()
        self._granted_opener = granted_opener or (lambda _granted: opener)

    def routes(self) -> tuple[Route, ...]:
        return (Route(lambda request: request.path == PATH and request.method in ("GET", "POST"), self.handle),)

    def handle(self, request: Request, exchange: Exchange) -> None:
        url = request.headers.get(URL_HEADER, "")
        if not url or len(url) > URL_LIMIT or request.query:
            self._refuse(exchange, url, 400, "not a URL that can be fetched")
            return
        if request.method == "POST" and not _is_git_post(request, url):
            self._refuse(exchange, url, 403, "nothing but a git fetch's request is posted")
            return
        try:
            body = exchange if request.method == "POST" else None
            self._answer(self._follow(url, _asked(request), body), exchange, url)
        except PolicyError as error:
            exchange.refuse(403, error.message, error.hint)
        except TransientError as error:
            if exchange.answered:
                raise
            exchange.fail(504 if error.status == 504 else 503, error.message, error.hint, transient=True)
        except RegistryError as error:
            if exchange.answered:
                raise
            exchange.fail(502, error.message, error.hint, transient=False)

    def _refuse(self, exchange: Exchange, url: str, status: int, reason: str) -> None:
        self._audit.write(Record(REFUSE, "fetch", name=_shown(url), reason=reason))
        exchange.refuse(status, reason, code="UNSUPPORTED")

    def _follow(self, url: str, headers: Mapping[str, str], body: Body | None) -> _Fetched:
        """The answer at the end of all redirects. A credential goes only where its own grant covers the URL."""
        for _ in range(REDIRECTS_LIMIT + 1):
            bare = url.partition("#")[0]
            origin = origin_of(bare)
            granted = self._grants.find(bare)
            opener = self._granted_opener(granted) if granted.opens else self._opener
            fields = {**headers, "Authorization": granted.authorization} if granted.authorization else headers
            method = "GET" if body is None else "POST"
            response = self._wire().send(method, bare, fields, body, opener, timeout_s=self._timeout_s)
            location = response.headers.get("location", "")
            if body is not None or response.status not in _REDIRECTS or not location:
                return _Fetched(response, bare)
            response.close()
            url = urljoin(url, location)
            if origin.scheme == "https" and not url.startswith("https://"):
                reason = f"{origin} redirects from https to something less private, which is refused"
                self._audit.write(Record(REFUSE, "fetch", name=_shown(url), reason=reason))
                raise FetchRefused(reason)
        raise RegistryError(f"more than {REDIRECTS_LIMIT} redirects")

    def _answer(self, fetched: _Fetched, exchange: Exchange, asked: str) -> None:
        response, url = fetched
        origin = origin_of(url)
        text = response.headers.get("content-length", "")
        length = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
        received = 0
        try:
            if length is not None and length > self._limit_bytes:
                raise RegistryError(f"{origin} offers {length} bytes, more than the limit of {self._limit_bytes}")
            headers = {
                name: response.headers[name] for name in _ANSWERED if _PRINTABLE.fullmatch(response.headers.get(name, ""))
            }
            if url != asked.partition("#")[0] and len(url) <= URL_LIMIT:
                headers[LOCATION_HEADER] = url
            if response.status in (204, 304):
                exchange.respond(response.status, headers)
                return
            received = exchange.stream(response.status, headers, _Capped(response, self._limit_bytes), length)
        finally:
            response.close()
            address = self._wire().address_of(origin.host, origin.port)
            self._audit.write(Record(FETCH, name=origin.host, port=origin.port, address=address, received=received))


def _shown(url: str) -> str:
    """A URL for the log: without a query, which may be a signature, and without user information."""
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}{separator}{authority.rpartition('@')[2]}{slash}{path}"[:300]


class _Capped:
    """A body that may not be endless."""

    def __init__(self, response: Response, limit_bytes: int) -> None:
        self._response = response
        self._left = limit_bytes

    def read(self, count: int, /) -> bytes:
        chunk = self._response.read(count)
        self._left -= len(chunk)
        if self._left < 0:
            raise RegistryError("a fetched file is larger than the limit")
        return chunk


def _asked(request: Request) -> dict[str, str]:
    fields = {name: request.headers[name] for name in _ASKED if _CONDITION.fullmatch(request.headers.get(name, ""))}
    name, value = GIT_PROTOCOL
    if request.headers.get(name) == value:
        fields[name] = value
    if request.method == "POST":
        fields |= {"content-type": GIT_REQUEST_TYPE, "accept": "application/x-git-upload-pack-result"}
    return fields


def _is_git_post(request: Request, url: str) -> bool:
    """gitprotocol-http, "Smart Service git-upload-pack"."""
    return (
        url.endswith(GIT_POST_SUFFIX)
        and "?" not in url
        and request.headers.get("content-type") == GIT_REQUEST_TYPE
        and 0 < request.length <= GIT_REQUEST_LIMIT_BYTES
    )
