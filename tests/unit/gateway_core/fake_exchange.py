"""Exchanges and remotes for handlers that are tested without a socket."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sandboxbuild.gateway.server import Exchange, Request, Route
from sandboxbuild.registry import Body
from tests.unit.registry.fake_registry import FakeRegistry, FakeResponse


class Answered(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        return str(json.loads(self.body)["errors"][0]["message"])


def serve(
    routes: tuple[Route, ...], method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answered:
    """What the route that takes the request answers; body framing is undone."""
    path, _, query = target.partition("?")
    request = Request(method, path, query, headers or {}, len(body))
    ours, theirs = socket.socketpair()
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(_read_all(ours)))
    reader.start()
    try:
        exchange = Exchange(theirs, body, request)
        next(route for route in routes if route.matches(request)).handle(request, exchange)
    finally:
        theirs.close()
        reader.join(5)
        ours.close()
    head, _, content = received[0].partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines[1:])
    return Answered(int(lines[0].split()[1]), fields, content)


def _read_all(connection: socket.socket) -> bytes:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


class FakeRemote:
    """A registry outside, with the hosts that were asked."""

    def __init__(self) -> None:
        self.registry = FakeRegistry()
        self.hosts: list[str] = []
        self.answer: Callable[[str, str, str], FakeResponse | None] = lambda _method, _host, _path: None

    def request(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> Any:
        self.hosts.append(host)
        known = {
            {"accept": "Accept", "range": "Range", "content-type": "Content-Type"}.get(k, k): v for k, v in headers.items()
        }
        return self.answer(method, host, path) or self.registry.request(method, host, path, known, body, timeout_s=timeout_s)

    def explain(self, host: str, repository: str) -> str:
        return f"used the credential of config.json, entry {host}"
