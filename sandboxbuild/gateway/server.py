"""The socket's server: strict HTTP/1.1, one thread for each connection, a table of routes, a limit on everything.

What each route does is its module's business; what may come over the socket is in docs/gateway-protocol.md.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.protocol.http1 import CHUNKED, BadRequest, Head, body_length, head_end, parse_head
from sandboxbuild.registry import CHUNK_BYTES
from sandboxbuild.registry.failures import FAILED_HEADER, HINT_HEADER, HINT_LIMIT, REFUSED_HEADER, quoted
from sandboxbuild.registry.http1 import encode_fields

CONNECTIONS_LIMIT: Final = 256
HEAD_TIMEOUT_S: Final = 20.0
KEEP_ALIVE_S: Final = 900.0
BODY_TIMEOUT_S: Final = 120.0
_STACK_BYTES: Final = 512 * 1024
_DRAIN_BYTES: Final = 1024 * 1024
_LINGER_S: Final = 2.0
_REASONS: Final = {200: "OK", 201: "Created", 202: "Accepted", 204: "No Content", 206: "Partial Content", 400: "Bad Request"}


class Request(NamedTuple):
    """A request's head. `path` and `query` are as sent, undecoded; header names are lower case, each there once."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    length: int


class Readable(Protocol):
    """What a handler streams as an answer's body."""

    def read(self, count: int, /) -> bytes: ...


class Route(NamedTuple):
    """Requests for which `matches` is true are `handle`d. A handler answers by its exchange once, or takes it over."""

    matches: Callable[[Request], bool]
    handle: Callable[[Request, Exchange], None]


class Listener(Protocol):
    """Where requests come from. accept() gives the next connection, None once close() was called."""

    def accept(self) -> socket.socket | None: ...

    def close(self) -> None: ...


class Exchange:
    """One request's side of a connection: its body, and the answer. A Body for whoever sends the request on."""

    def __init__(self, connection: socket.socket, early: bytes, request: Request) -> None:
        self.size_bytes = request.length
        self._request = request
        self._connection = connection
        self._early = early
        self._left = request.length
        self.answered = False
        self.reusable = True
        self.taken = False

    def read(self, count: int, /) -> bytes:
        """Bytes of the request's body, b"" at its end. Raises OSError when the client goes away or stays silent."""
        if not self._left:
            return b""
        if self._early:
            chunk, self._early = self._early[: min(count, self._left)], self._early[min(count, self._left) :]
        else:
            self._connection.settimeout(BODY_TIMEOUT_S)
            chunk = self._connection.recv(min(count, self._left))
        if not chunk:
            raise ConnectionError("the client went away in the middle of a body")
        self._left -= len(chunk)
        return chunk

    def read_all(self) -> bytes:
        """The whole body; look at `size_bytes` first."""
        parts = []
        while chunk := self.read(65536):
            parts.append(chunk)
        return b"".join(parts)

    def respond(self, status: int, headers: Mapping[str, str], content: bytes = b"") -> None:
        """A whole answer at once."""
        body = b"" if self._request.method == "HEAD" else content
        self._begin(status, {**headers, "Content-Length": str(len(content))}, body)

    def respond_head(self, status: int, headers: Mapping[str, str]) -> None:
        """An answer without a body, whose Content-Length is what a HEAD tells."""
        self._begin(status, headers, b"")

    def refuse(self, status: int, reason: str, hint: str = "", *, code: str = "DENIED") -> None:
        """A refusal of the gateway's own."""
        self._own_error(status, {REFUSED_HEADER: code.lower()}, code, reason, hint)

    def fail(self, status: int, reason: str, hint: str = "", *, transient: bool) -> None:
        """No answer could be had from outside."""
        self._own_error(status, {FAILED_HEADER: "transient" if transient else "final"}, "UNAVAILABLE", reason, hint)

    def _own_error(self, status: int, headers: Mapping[str, str], code: str, reason: str, hint: str) -> None:
        document = {"errors": [{"code": code, "message": quoted(reason, HINT_LIMIT)}]}
        self.respond(
            status, {**headers, **hint_header(hint), "Content-Type": "application/json"}, json.dumps(document).encode()
        )

    def stream(self, status: int, headers: Mapping[str, str], source: Readable, length: int | None) -> int:
        """An answer whose body is `source`'s, in chunks where its length isn't known. Gives the bytes sent.

        When `source` fails in the middle, the connection ends there, which the client can tell from the body's end.
        """
        framing = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
        self._begin(status, {**framing, **headers}, b"")
        self.reusable = False
        sent = 0
        while chunk := source.read(CHUNK_BYTES):
            sent += len(chunk)
            if length is not None and sent > length:
                raise ConnectionError("a body is longer than its head said")
            self._connection.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk) if length is None else chunk)
        if length is None:
            self._connection.sendall(b"0\r\n\r\n")
        self.reusable = length is None or sent == length
        return sent

    @property
    def connection(self) -> socket.socket:
        """For those who may have to shut it from elsewhere; reading and writing are the exchange's."""
        return self._connection

    def hijack(self) -> tuple[socket.socket, bytes]:
        """Take the connection over, with what came behind the request's head. The server forgets it; nothing was answered."""
        self.answered = self.taken = True
        return self._connection, self._early

    def _begin(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        if self.answered:
            raise RuntimeError("answered twice")
        self.answered = True
        self._connection.settimeout(BODY_TIMEOUT_S)
        self._connection.sendall(encode_head(status, {name.lower(): value for name, value in headers.items()}) + body)

    def drain(self) -> bytes | None:
        """Read what is left of the body if that is little. Gives what belongs to the next request, None if it can't go on."""
        if self.taken or not self.reusable or not self.answered or self._left > _DRAIN_BYTES:
            return None
        while self._left:
            self.read(self._left)
        return self._early


def encode_head(status: int, headers: Mapping[str, str]) -> bytes:
    """The head of an answer. Raises ValueError for headers that can't stand in one."""
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}\r\n".encode("ascii") + encode_fields(headers) + b"\r\n"


def hint_header(hint: str) -> dict[str, str]:
    text = quoted(hint, HINT_LIMIT).encode("ascii", "backslashreplace").decode("ascii").strip()
    return {HINT_HEADER: text} if text else {}


class Server:
    """Serves the connections of a listener until close(). `routes_for` gives the routes of a request's build, None if it
    belongs to no build; it is asked for each request. `on_refusal` is told of what no route takes: a request and why.
    """

    def __init__(
        self,
        listener: Listener,
        routes_for: Callable[[Request], Sequence[Route] | None],
        *,
        connections_limit: int = CONNECTIONS_LIMIT,
        on_refusal: Callable[[str, str], None] = lambda _request, _reason: None,
    ) -> None:
        self._listener = listener
        self._routes_for = routes_for
        self._on_refusal = on_refusal
        self._free = threading.Semaphore(connections_limit)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def serve(self) -> None:
        """Accept and serve; returns after close()."""
        threading.stack_size(_STACK_BYTES)
        while (connection := self._listener.accept()) is not None:
            if not self._free.acquire(blocking=False):
                _turn_away(connection)
                continue
            with self._lock:
                self._open.add(connection)
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def close(self) -> None:
        """Stop listening and cut what is open. Idempotent."""
        self._listener.close()
        with self._lock:
            for connection in self._open:
                _shut(connection)

    def _attend(self, connection: socket.socket) -> None:
        taken = False
        try:
            taken = self._converse(connection)
        except (OSError, SandboxbuildError):  # the client is told by the connection's end
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            if not taken:
                _linger(connection)
            self._free.release()

    def _converse(self, connection: socket.socket) -> bool:
        """Serve requests until one side ends it. True if a handler has taken the connection over."""
        rest: bytes | None = b""
        idle_s = HEAD_TIMEOUT_S  # until a first request has shown that the client belongs here
        while rest is not None:
            try:
                head, rest = _receive_head(connection, rest, idle_s)
                if head is None:
                    return False
                exchange = Exchange(connection, rest, request_of(head))
            except BadRequest as error:
                self._on_refusal("a request", str(error))
                connection.sendall(_bad_request(str(error)))
                return False
            self._dispatch(exchange)
            if exchange.taken:
                return True
            rest = exchange.drain()
            idle_s = KEEP_ALIVE_S
        return False

    def _dispatch(self, exchange: Exchange) -> None:
        request = exchange._request
        routes = self._routes_for(request)
        if routes is None:
            exchange.reusable = False
            self._refuse(exchange, request, 403, "no build has this token", "UNAUTHORIZED")
            return
        for route in routes:
            if route.matches(request):
                route.handle(request, exchange)
                return
        self._refuse(exchange, request, 404, "the gateway serves nothing of this name", "UNSUPPORTED")

    def _refuse(self, exchange: Exchange, request: Request, status: int, reason: str, code: str) -> None:
        self._on_refusal(f"{request.method} {request.path}", reason)
        exchange.refuse(status, reason, code=code)


def request_of(head: Head) -> Request:
    """Raises BadRequest for what this socket doesn't take: HTTP/1.0, a transfer coding, a header twice, Expect, Upgrade."""
    headers = {name.lower(): value for name, value in head.fields}
    if len(headers) != len(head.fields):
        raise BadRequest("a header field twice")
    if head.version != "1.1" or not headers.keys().isdisjoint({"expect", "upgrade", "te", "trailer"}):
        raise BadRequest("a feature of HTTP that isn't served here")
    length = body_length(head)
    if length == CHUNKED:
        raise BadRequest("a body without a length")
    if length and head.method not in ("POST", "PUT", "PATCH"):
        raise BadRequest("a body where none belongs")
    path, _, query = head.target.partition("?")
    return Request(head.method, path, query, headers, length)


def _receive_head(connection: socket.socket, received: bytes, idle_s: float) -> tuple[Head | None, bytes]:
    """The next request's head and what came behind it; None where the client ended between two requests.

    A head may be waited for `idle_s`, and once it has begun it must be whole within HEAD_TIMEOUT_S.
    """
    deadline_s = 0.0
    while not (end := head_end(received)):
        if received and not deadline_s:
            deadline_s = time.monotonic() + HEAD_TIMEOUT_S
        connection.settimeout(max(0.001, deadline_s - time.monotonic()) if received else idle_s)
        chunk = connection.recv(65536)
        if not chunk:
            if received:
                raise BadRequest("a head that ends too soon")
            return None, b""
        received += chunk
    return parse_head(received[:end]), received[end:]


def _bad_request(reason: str) -> bytes:
    body = json.dumps({"errors": [{"code": "UNSUPPORTED", "message": reason}]}).encode()
    headers = {REFUSED_HEADER: "unsupported", "Content-Length": str(len(body)), "Connection": "close"}
    return encode_head(400, headers) + body


def _turn_away(connection: socket.socket) -> None:
    try:
        connection.settimeout(1.0)
        connection.sendall(encode_head(503, {FAILED_HEADER: "transient", "Content-Length": "0", "Connection": "close"}))
    except OSError:
        pass
    connection.close()


def _linger(connection: socket.socket) -> None:
    """Close so that an answer to a request whose body wasn't read still arrives (RFC 9112, 9.6)."""
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(_LINGER_S)
        for _ in range(64):
            if not connection.recv(CHUNK_BYTES):
                break
    except OSError:
        pass
    connection.close()


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
