"""One step's questions to the gateway: may this name be asked for, and connect me to it. What is refused is remembered."""

from __future__ import annotations

import json
import socket
import threading
from typing import Final, NamedTuple, Protocol

from sandboxbuild.errors import RegistryError
from sandboxbuild.policy.names import name_fault
from sandboxbuild.registry import Body, Response
from sandboxbuild.registry.http1 import MalformedResponse, encode_request, parse_head

NAME_TIMEOUT_S: Final = 15.0
CONNECT_TIMEOUT_S: Final = 60.0
ANSWER_LIMIT_BYTES: Final = 16 * 1024
REFUSALS_LIMIT: Final = 1000


class Gateway(Protocol):
    """What is needed of the uplink (registry.uplink.Uplink). Thread-safe; raises RegistryError."""

    def connect(self) -> socket.socket: ...

    def token_headers(self) -> dict[str, str]: ...

    def exchange(
        self, method: str, target: str, headers: dict[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> Response: ...


class Refusal(NamedTuple):
    """What a step asked for in vain. `port` is 0 where only the name was asked for; `hint` says how a policy would allow it."""

    name: str
    port: int
    reason: str
    hint: str


class Tunnelled(NamedTuple):
    """A connection through the gateway, and bytes of the far side that came with the answer."""

    connection: socket.socket
    early: bytes


class Tunnel:
    """Speaks for one step. Thread-safe."""

    def __init__(self, gateway: Gateway, step: str, kind: str = "run") -> None:
        self._gateway = gateway
        self._step = step
        self._kind = kind
        self._names: dict[str, bool] = {}
        self._refusals: dict[tuple[str, int], Refusal] = {}
        self._lock = threading.Lock()

    def may_ask(self, name: str) -> bool:
        """Whether the policy names `name` (lower case) on some port. The gateway is asked once for each name."""
        with self._lock:
            known = self._names.get(name)
        if known is None:
            known = not name_fault(name) and self._ask(name)
            with self._lock:
                if len(self._names) < 16 * REFUSALS_LIMIT:
                    self._names[name] = known
        return known

    def _ask(self, name: str) -> bool:
        target = f"/v1/names/{name}?step={self._step}&kind={self._kind}"
        response = self._gateway.exchange("POST", target, {}, None, timeout_s=NAME_TIMEOUT_S)
        if response.status == 200:
            response.read(ANSWER_LIMIT_BYTES)
            response.close()
            return True
        self._remember(name, 0, _read_body(response))
        return False

    def connect(self, name: str, port: int) -> Tunnelled | Refusal:
        """A connection to `name`:`port`. Raises RegistryError when the gateway itself fails."""
        fault = name_fault(name)
        if fault:
            return self._keep(Refusal(name[:80], port, f"{name[:80]!a} is {fault}", "ask for a host by its name"))
        head = encode_request("CONNECT", f"{name}:{port}", self._headers(name, port))
        connection = self._gateway.connect()
        try:
            connection.settimeout(CONNECT_TIMEOUT_S)
            connection.sendall(head)
            status, rest = _read_answer(connection)
        except (OSError, MalformedResponse) as error:
            connection.close()
            raise RegistryError(f"the gateway didn't answer for {name}:{port}: {error}") from error
        except BaseException:
            connection.close()
            raise
        if status == 200:
            return Tunnelled(connection, rest)
        with connection:
            return self._remember(name, port, rest + _read_rest(connection))

    def _headers(self, name: str, port: int) -> dict[str, str]:
        asker = {"Sandboxbuild-Step": self._step, "Sandboxbuild-Kind": self._kind}
        return {"Host": f"{name}:{port}", **asker, **self._gateway.token_headers()}

    def _remember(self, name: str, port: int, body: bytes) -> Refusal:
        reason, hint = read_refusal(body)
        return self._keep(Refusal(name, port, reason or f"{name} isn't allowed", hint))

    def _keep(self, refusal: Refusal) -> Refusal:
        with self._lock:
            if len(self._refusals) < REFUSALS_LIMIT:
                self._refusals.setdefault((refusal.name, refusal.port), refusal)
        return refusal

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """Each name and port that was refused, once, in the order of the first time."""
        with self._lock:
            return tuple(self._refusals.values())


def _read_answer(connection: socket.socket) -> tuple[int, bytes]:
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        if len(received) > ANSWER_LIMIT_BYTES:
            raise MalformedResponse("the head is too long")
        chunk = connection.recv(ANSWER_LIMIT_BYTES)
        if not chunk:
            raise MalformedResponse("the connection ended before an answer")
        received += chunk
    head = parse_head("HEAD", received[:end])  # as for HEAD, what follows the head isn't a body (RFC 9110 9.3.6)
    return head.status, received[end + 4 :]


def _read_rest(connection: socket.socket) -> bytes:
    received = b""
    try:
        while len(received) < ANSWER_LIMIT_BYTES and (chunk := connection.recv(ANSWER_LIMIT_BYTES)):
            received += chunk
    except OSError:  # a reason is a courtesy
        pass
    return received


def _read_body(response: Response) -> bytes:
    received = b""
    try:
        while len(received) < ANSWER_LIMIT_BYTES and (chunk := response.read(ANSWER_LIMIT_BYTES)):
            received += chunk
    except RegistryError:  # a reason is a courtesy
        pass
    response.close()
    return received


def read_refusal(body: bytes) -> tuple[str, str]:
    """Reason and hint of a refusal's document, "" for what isn't there."""
    try:
        document = json.loads(body)
        reason, hint = document["errors"][0]["message"], document.get("hint", "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return "", ""
    return (reason[:500], hint[:500]) if isinstance(reason, str) and isinstance(hint, str) else ("", "")
