"""The name on the wire must be the name that was asked for: TLS server names and HTTP Hosts, read as the client sends them.

A name in the policy is worth nothing if a connection to it can carry a request for its neighbour at the same address. Port
443 must speak TLS and port 80 HTTP/1.x; on other ports both are recognised and checked, and anything else passes unread.
"""

from __future__ import annotations

import re
from typing import Final

from sandboxbuild.gateway.sni import BadHello, read_client_hello
from sandboxbuild.protocol.http1 import BadRequest, Body, Head, body_length, head_end, parse_head, split_authority, write_head
from sandboxbuild.system.relay import Cut

# RFC 8446 6.2: a fatal alert, unrecognized_name (112), which clients show as such.
TLS_ALERT: Final = bytes((21, 3, 1, 0, 2, 2, 112))
_TEXT: Final = re.compile(rb"[\t -~\x80-\xff]*\r?")
_UPGRADE: Final = frozenset({"upgrade", "http2-settings"})
_LINE_LIMIT: Final = 16 * 1024


class NameCheck:
    """A relay's Filter: lets bytes through while the names in them are `host`. Raises Cut with the reason otherwise."""

    def __init__(self, host: str, port: int) -> None:
        self.transparent = False
        self.fault = ""  # why it cut the connection
        self._host = host
        self._port = port
        self._kind = {80: "http", 443: "tls"}.get(port, "")
        self._held = b""
        self._http = HttpCheck(host, port)

    def feed(self, data: bytes) -> bytes:
        try:
            return self._judge(data)
        except Cut as cut:
            self.fault = cut.reason
            raise

    def _judge(self, data: bytes) -> bytes:
        if self._kind == "http":
            return self._http.feed(data)
        self._held += data
        self._kind = self._kind or recognise(self._held)
        if self._kind == "tls":
            return self._check_tls()
        if self._kind == "http":
            held, self._held = self._held, b""
            return self._http.feed(held)
        return self._release() if self._kind == "other" else b""

    def _release(self) -> bytes:
        self.transparent = True
        held, self._held = self._held, b""
        return held

    def _check_tls(self) -> bytes:
        try:
            hello = read_client_hello(self._held)
        except BadHello as error:
            raise Cut(f"port {self._port} of {self._host} was given {error}", TLS_ALERT) from error
        if hello is None:
            return b""
        if hello.encrypted:
            raise Cut(f"the TLS client hides a second name from {self._host}:{self._port} (encrypted ClientHello)", TLS_ALERT)
        if hello.name != self._host:
            named = f"names {hello.name[:80]!a}" if hello.name else "names no server"
            raise Cut(f"the TLS client that asked for {self._host} {named}", TLS_ALERT)
        return self._release()


def recognise(data: bytes) -> str:
    """What the first bytes are: tls, http, other, or "" while they could still become http.

    Any first line with "HTTP/" in it counts, for servers forgive much; the check that follows forgives nothing.
    """
    if data[:1] == b"\x16":
        return "tls"
    line, newline, _ = data.lstrip(b"\r\n").partition(b"\n")
    if newline:
        return "http" if b"http/" in line.lower() else "other"
    if not _TEXT.fullmatch(line):
        return "other"
    if len(data) > _LINE_LIMIT:
        raise Cut("the first line is too long to be judged")
    return ""


class HttpCheck:
    """Every request of a connection, not the first alone: heads are checked, bodies are counted through."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._head = bytearray()
        self._body: Body | None = None
        self._requests = 0

    def feed(self, data: bytes) -> bytes:
        try:
            return self._feed(data)
        except BadRequest as error:
            raise self._cut(f"{self._host}:{self._port} was sent {error}") from error

    def _feed(self, data: bytes) -> bytes:
        passed = []
        while data:
            if self._body is None:
                self._head += data
                end = head_end(self._head)
                if not end:
                    break
                passed.append(self._begin(bytes(self._head[:end])))
                data = bytes(self._head[end:])
                self._head.clear()
            if self._body is not None:
                count = self._body.take(data)
                passed.append(data[:count])
                data = data[count:]
                self._body = None if self._body.finished else self._body
        return b"".join(passed)

    def _begin(self, raw: bytes) -> bytes:
        """Judge a head: what goes on of it. An offer to upgrade is left out, which servers take for none (RFC 9110 7.8)."""
        head = parse_head(raw)
        fault = self._fault(head)
        if fault:
            raise self._cut(fault)
        self._requests += 1
        body = Body(body_length(head))
        self._body = None if body.finished else body
        return write_head(head, _UPGRADE) if head.values("upgrade") else raw

    def _fault(self, head: Head) -> str:
        where = f"{self._host}:{self._port}"
        if head.method == "CONNECT":
            return f"{where} was asked for a tunnel, whose bytes can't be judged"
        if split_authority(head.value("host"), self._port) != (self._host, self._port):
            return f"a request on a connection to {where} has the Host {head.value('host')[:80]!a}"
        if head.target.startswith("/") or (head.target == "*" and head.method == "OPTIONS"):
            return ""
        scheme, _, rest = head.target.partition("://")
        authority = re.split("[/?]", rest, maxsplit=1)[0]  # a fragment has no place here, so "#" makes it another name
        if scheme.lower() != "http" or split_authority(authority, self._port) != (self._host, self._port):
            return f"a request on a connection to {where} has another target"
        return ""

    def _cut(self, reason: str) -> Cut:
        """The first request is answered; later ones can't be, for answers of the server may be on their way."""
        return Cut(reason, b"" if self._requests else refusal_page(reason))


def refusal_page(reason: str) -> bytes:
    body = f"sandboxbuild: {reason}\n".encode("ascii", "backslashreplace")
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode("ascii") + body
