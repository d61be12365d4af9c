"""The executor's way out: HTTP/1.1 to the gateway over a unix socket, or over TCP with the build's token.

What the gateway serves is in docs/gateway-protocol.md. Standard library alone: this is on the executor's start-up path.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import RegistryError
from sandboxbuild.registry import CHUNK_BYTES, Body, BytesBody, Response
from sandboxbuild.registry.failures import TransientError, failure, read_bounded
from sandboxbuild.registry.http1 import (
    CHUNKED,
    HEAD_LIMIT_BYTES,
    ChunkedReader,
    MalformedResponse,
    ResponseHead,
    encode_request,
    parse_head,
)
from sandboxbuild.registry.routes import is_host

TOKEN_HEADER: Final = "sandboxbuild-token"  # noqa: S105 - a name, not a token
URL_HEADER: Final = "sandboxbuild-url"
LOCATION_HEADER: Final = "sandboxbuild-location"  # in an answer: the URL that gave it, where redirects led away
STEP_HEADER: Final = "sandboxbuild-step"
ANSWER_LIMIT_BYTES: Final = 16 * 1024
SECRET_LIMIT_BYTES: Final = 512 * 1024
_IDLE_LIMIT: Final = 16
_CONNECT_TIMEOUT_S: Final = 10.0
_TELL_TIMEOUT_S: Final = 15.0
PATIENCE_S: Final = 240.0  # longer than the gateway takes to give up on a host, so that it can say why
_BUFFER_BYTES: Final = 4 * CHUNK_BYTES
_TIMEVAL: Final = struct.Struct("ll")  # struct timeval


class UplinkAddress(NamedTuple):
    """Where the gateway listens: a unix socket's `path`, or `host` and `port` with the build's `token`."""

    path: str = ""
    host: str = ""
    port: int = 0
    token: str = ""

    def __repr__(self) -> str:
        return f"UplinkAddress({self.path or f'{self.host}:{self.port}'})"


class Uplink:
    """Connections to the gateway, kept for the next request. Thread-safe; close() ends the idle ones.

    `patience_s` is how long the gateway may be silent in the middle of a request that is about a host outside.
    """

    def __init__(self, address: UplinkAddress, patience_s: float = PATIENCE_S) -> None:
        self._address = address
        self._patience_s = patience_s
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def connect(self, timeout_s: float = _CONNECT_TIMEOUT_S) -> socket.socket:
        """A new connection, for a caller that speaks on it alone. Raises RegistryError when nobody answers there."""
        address = self._address
        family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            if address.path:
                _connect_waiting(connection, address.path, timeout_s)
            else:
                connection.settimeout(timeout_s)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect((address.host, address.port))
            connection.settimeout(timeout_s)
        except OSError as error:
            connection.close()
            fault = f"the gateway can't be reached: {error.strerror or error}"
            if address.path and isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
                raise RegistryError(fault) from error  # one that has ended doesn't come back to its socket
            raise TransientError(fault) from error
        return connection

    def token_headers(self) -> dict[str, str]:
        """The header that tells the gateway, over TCP, which build is asking."""
        return {TOKEN_HEADER: self._address.token} if self._address.token else {}

    def exchange(
        self, method: str, target: str, headers: Mapping[str, str], body: Body | None, *, timeout_s: float = 0.0
    ) -> Response:
        """One request and the head of its answer; 0 seconds are the uplink's patience.

        Raises RegistryError, TransientError when the connection was lost.
        """
        head = self._head(method, target, headers, body)
        connection = self._checkout(timeout_s or self._patience_s)
        try:
            self._send(connection, head, body)
            answer, rest = _receive_head(connection, method)
        except (OSError, MalformedResponse) as error:
            connection.close()
            raise _lost(error) from error
        except BaseException:
            connection.close()
            raise
        return UplinkResponse(self, connection, answer, rest)

    def tunnel(self, target: str, headers: Mapping[str, str]) -> tuple[socket.socket, bytes]:
        """A connection that the gateway carries on to what `target` names, and bytes that came with its answer.

        The caller owns it. Raises RegistryError where the gateway refuses it.
        """
        connection = self.connect()
        try:
            connection.sendall(self._head("GET", target, headers, None))
            answer, rest = _receive_head(connection, "HEAD")  # what follows the head isn't a body
            if answer.status != 200:
                raise RegistryError(f"the gateway refuses {target}", status=answer.status)
            connection.settimeout(None)
        except (OSError, MalformedResponse) as error:
            connection.close()
            raise _lost(error) from error
        except BaseException:
            connection.close()
            raise
        return connection, rest

    def _head(self, method: str, target: str, headers: Mapping[str, str], body: Body | None) -> bytes:
        fields = {"Host": "gateway", **self.token_headers(), **headers}
        if body is not None or method in ("POST", "PUT", "PATCH"):
            fields["Content-Length"] = str(body.size_bytes if body is not None else 0)
        return encode_request(method, target, fields)

    def _checkout(self, timeout_s: float) -> socket.socket:
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                connection = self.connect()
            elif _has_spoken(connection):
                connection.close()
                continue
            connection.settimeout(timeout_s)
            return connection

    def _send(self, connection: socket.socket, head: bytes, body: Body | None) -> None:
        """Send all, or as much as the gateway takes before it answers: a refusal may come before the body's end."""
        try:
            connection.sendall(head)
            left = body.size_bytes if body is not None else 0
            while left and body is not None:
                chunk = body.read(min(CHUNK_BYTES, left))
                if not chunk:
                    raise RegistryError("a blob is shorter than its descriptor says")
                connection.sendall(chunk)
                left -= len(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def give_back(self, connection: socket.socket) -> None:
        """Keep a connection on which nothing is under way."""
        with self._lock:
            if len(self._idle) < _IDLE_LIMIT:
                self._idle.append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _connect_waiting(connection: socket.socket, path: str, timeout_s: float) -> None:
    """connect(2) that waits for room in the gateway's queue: a socket with Python's time-out would get EAGAIN (unix(7))."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(int(timeout_s), 0))
    connection.connect(path)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))


def _has_spoken(connection: socket.socket) -> bool:
    """Whether an idle connection has ended, or holds bytes that nobody asked for."""
    connection.settimeout(0)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _receive_head(connection: socket.socket, method: str) -> tuple[ResponseHead, bytes]:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > HEAD_LIMIT_BYTES:
            raise MalformedResponse("the head is too long")
        chunk = connection.recv(HEAD_LIMIT_BYTES)
        if not chunk:
            raise MalformedResponse("the connection ended before an answer")
        received += chunk
    return parse_head(method, received[:end]), received[end + 4 :]


def _lost(error: Exception) -> TransientError:
    if isinstance(error, TimeoutError):
        return TransientError("the gateway doesn't answer")
    return TransientError(f"the connection to the gateway was lost: {error}")


class UplinkResponse:
    """An answer whose body is still on the connection. For one thread."""

    __slots__ = ("_chunks", "_connection", "_left", "_rest", "_reusable", "_uplink", "headers", "status")

    def __init__(self, uplink: Uplink, connection: socket.socket, head: ResponseHead, rest: bytes) -> None:
        self.status = head.status
        self.headers = head.headers
        self._uplink = uplink
        self._connection: socket.socket | None = connection
        self._rest = rest
        self._left = head.length
        self._reusable = head.reusable
        self._chunks = ChunkedReader(self._receive) if head.length == CHUNKED else None
        if head.length == 0:
            self._finish()

    def read(self, count: int, /) -> bytes:
        if self._connection is None:
            return b""
        try:
            return self._read_chunk(count) if self._chunks else self._read_sized(count)
        except (OSError, MalformedResponse) as error:
            self._drop()
            raise _lost(error) from error

    def _read_chunk(self, count: int) -> bytes:
        assert self._chunks is not None, "called for chunked bodies alone"
        data = self._chunks.read(count)
        if not data:
            self._finish()
        return data

    def _read_sized(self, count: int) -> bytes:
        data = self._receive(min(count, self._left))
        if not data:
            raise MalformedResponse("the body ends too soon")
        self._left -= len(data)
        if not self._left:
            self._finish()
        return data

    def _receive(self, count: int) -> bytes:
        if self._rest:
            data, self._rest = self._rest[:count], self._rest[count:]
            return data
        assert self._connection is not None, "read() looks first"
        return self._connection.recv(count)

    def _finish(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._reusable and not self._rest:
            self._uplink.give_back(connection)
        else:
            connection.close()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self._drop()


class UplinkTransport:
    """The Transport of the sandbox: each registry is a path of the gateway's."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink

    def request(
        self,
        method: str,
        host: str,
        path: str,
        headers: Mapping[str, str],
        body: Body | None,
        *,
        timeout_s: float = 60.0,  # noqa: ARG002 - it is the gateway that gives up on a registry
    ) -> Response:
        if not is_host(host) or not path.startswith("/v2"):
            raise RegistryError("not a request that the gateway carries to a registry")
        return self._uplink.exchange(method, f"/v1/registry/{host.lower()}{path}", headers, body)


def fetch_url(uplink: Uplink, url: str, headers: Mapping[str, str], *, body: Body | None = None) -> Response:
    """A GET of `url`, redirects followed by the gateway, under the policy's fetch rules; a POST where there is a `body`.

    Any status is an answer. Of POSTs the gateway carries those of a git fetch alone.
    Raises PolicyError when the gateway refuses it, RegistryError when there is no answer.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise RegistryError("a URL that HTTP can't carry")
    method = "GET" if body is None else "POST"
    response = uplink.exchange(method, "/v1/fetch", {URL_HEADER: url, **headers}, body)
    if response.headers.get("sandboxbuild-refused") or response.headers.get("sandboxbuild-failed"):
        raise failure(response, f"fetch of {url[:200]}")
    return response


def begin_step(
    uplink: Uplink, step: str, stage: str, run: str, secrets: Sequence[str] = (), agents: Sequence[str] = ()
) -> None:
    """Tell the gateway that a step begins, what it is, and which secrets and agents it names. Before it asks for anything.

    Raises PolicyError where the Dockerfile doesn't let it name them.
    """
    document = json.dumps({"stage": stage, "run": run, "secrets": list(secrets), "ssh": list(agents)})
    _tell(uplink, f"/v1/steps/{step}", BytesBody(document.encode("ascii")), f"step {step}")


def end_step(uplink: Uplink, step: str) -> None:
    """Tell the gateway that a step has ended: whoever speaks in its name afterwards gets nothing."""
    _tell(uplink, f"/v1/steps/{step}/end", None, f"the end of step {step}")


def _tell(uplink: Uplink, target: str, body: Body | None, what: str) -> None:
    response = uplink.exchange("POST", target, {}, body, timeout_s=_TELL_TIMEOUT_S)
    if response.status != 200:
        raise failure(response, what)
    read_bounded(response, ANSWER_LIMIT_BYTES)


def read_secret(uplink: Uplink, step: str, secret_id: str) -> bytes:
    """The value of a secret that `step` was begun with, once. Raises PolicyError where it isn't to have it."""
    response = uplink.exchange("GET", f"/v1/secret/{secret_id}", {STEP_HEADER: step}, None)
    if response.status != 200:
        raise failure(response, f"secret {secret_id!r}")
    try:
        return read_bounded(response, SECRET_LIMIT_BYTES)
    finally:
        response.close()
