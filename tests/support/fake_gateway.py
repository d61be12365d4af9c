"""What a step's Tunnel needs of the uplink, without a socket or a process."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable

from sandboxbuild.errors import RegistryError
from sandboxbuild.registry import Body, Response


class FakeAnswer:
    """A Response (registry) at hand."""

    def __init__(self, status: int, document: object) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self._body = json.dumps(document).encode()

    def read(self, count: int, /) -> bytes:
        part, self._body = self._body[:count], self._body[count:]
        return part

    def close(self) -> None:
        self._body = b""


class FakeGateway:
    """Allows some names; connections are answered by `answer`, raw bytes. `asked` are the names that it was asked for."""

    def __init__(self, allowed: Iterable[str], *, broken: bool = False, answer: bytes = b"") -> None:
        self.asked: list[str] = []
        self.heads: list[bytes] = []
        self._allowed = frozenset(allowed)
        self._broken = broken
        self._answer = answer

    def token_headers(self) -> dict[str, str]:
        return {"sandboxbuild-token": "t"}

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        theirs.sendall(self._answer)
        theirs.shutdown(socket.SHUT_WR)
        self._far_end = theirs
        return ours

    def received(self) -> bytes:
        """What came over the last connection so far."""
        return self._far_end.recv(65536)

    def exchange(
        self, method: str, target: str, headers: dict[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> Response:
        if self._broken:
            raise RegistryError("the gateway can't be reached")
        name = target.removeprefix("/v1/names/").partition("?")[0]
        self.asked.append(name)
        if name in self._allowed:
            return FakeAnswer(200, {"ports": [443]})
        return FakeAnswer(403, {"errors": [{"code": "NAME", "message": f"{name} isn't allowed"}], "hint": "allow it"})
