"""The step's HTTP proxy on 127.0.0.1: CONNECT, and requests with an absolute target; one request a connection.

A request is parsed strictly, written anew towards the gateway's tunnel, and its body passed on only as far as its framing
reaches: no byte of a step reaches a server because two parsers disagreed about where a request ends.
"""

from __future__ import annotations

import socket
from typing import Final, NamedTuple

from sandboxbuild.protocol.http1 import BadRequest, Body, Head, body_length, head_end, parse_head, split_authority
from sandboxbuild.system.relay import Cut

PROXY_PORT: Final = 3128
PROXY_HOST: Final = "127.0.0.1"
HEAD_TIMEOUT_S: Final = 60.0
ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
_DROPPED: Final = frozenset(
    {"connection", "proxy-connection", "keep-alive", "proxy-authorization", "proxy-authenticate", "te", "upgrade", "host"}
)
_KEPT: Final = frozenset({"host", "content-length", "transfer-encoding"})


class ProxyRequest(NamedTuple):
    """What a step asked its proxy for. `forward` is the head to be sent on, b"" for CONNECT; `body` how its body is framed."""

    name: str
    port: int
    forward: bytes
    body: Body


class BodyOnly:
    """A relay's Filter: the request's body passes, what a client sends behind it doesn't."""

    def __init__(self, body: Body) -> None:
        self.transparent = False
        self._body = body

    def feed(self, data: bytes) -> bytes:
        try:
            return b"" if self._body.finished else data[: self._body.take(data)]
        except BadRequest as error:
            raise Cut(str(error)) from error


def proxy_environment(port: int = PROXY_PORT) -> tuple[tuple[str, str], ...]:
    """The variables that point programs at the proxy, in both cases, with loopback left out."""
    url = f"http://{PROXY_HOST}:{port}"
    values = {"http_proxy": url, "https_proxy": url, "no_proxy": "localhost,127.0.0.1,::1"}
    return tuple((spelt, value) for name, value in values.items() for spelt in (name, name.upper()))


def read_request(client: socket.socket) -> tuple[ProxyRequest, bytes]:
    """The request on a new connection, and the bytes behind its head. Raises BadRequest, OSError."""
    client.settimeout(HEAD_TIMEOUT_S)
    received = bytearray()
    while not (end := head_end(received)):
        chunk = client.recv(4096)
        if not chunk:
            raise BadRequest("a head that is cut short")
        received += chunk
    return judge(parse_head(bytes(received[:end]))), bytes(received[end:])


def judge(head: Head) -> ProxyRequest:
    """What `head` asks for. Raises BadRequest for anything but CONNECT and absolute http targets that agree with Host."""
    if head.method == "CONNECT":
        name, port = split_authority(head.target)
        if split_authority(head.value("host"), port) != (name, port):
            raise BadRequest("a Host that differs from the target")
        if body_length(head):
            raise BadRequest("a CONNECT with a body")
        return ProxyRequest(name, port, b"", Body(0))
    scheme, separator, rest = head.target.partition("://")
    if not separator or scheme.lower() != "http":
        raise BadRequest("a target that isn't an absolute http URL")
    authority, path = _split_target(rest)
    name, port = split_authority(authority, 80)
    if split_authority(head.value("host"), 80) != (name, port):
        raise BadRequest("a Host that differs from the target")
    return ProxyRequest(name, port, _rewrite(head, name, port, path), Body(body_length(head)))


def _split_target(rest: str) -> tuple[str, str]:
    if "#" in rest:
        raise BadRequest("a fragment in a target")
    cut = min((at for at in (rest.find("/"), rest.find("?")) if at >= 0), default=len(rest))
    path = rest[cut:]
    return rest[:cut], path if path.startswith("/") else "/" + path


def _rewrite(head: Head, name: str, port: int, path: str) -> bytes:
    """The head in origin form, without what concerns the proxy alone (RFC 9110 7.6.1)."""
    dropped = _DROPPED | {word.strip().lower() for value in head.values("connection") for word in value.split(",")} - _KEPT
    lines = [f"{head.method} {path} HTTP/{head.version}", f"Host: {name}" if port == 80 else f"Host: {name}:{port}"]
    lines += [f"{key}: {value}" for key, value in head.fields if key.lower() not in dropped]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1")


def error_answer(status: str, text: str) -> bytes:
    """A whole answer that ends the connection. `text` is escaped."""
    body = f"sandboxbuild: {text}\n".encode("ascii", "backslashreplace")
    fields = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return f"HTTP/1.1 {status}\r\n{fields}".encode("ascii") + body
