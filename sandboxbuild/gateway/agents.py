"""ssh agents: their sockets stay outside, and a step may only ask one for its keys and for signatures.

Source: draft-miller-ssh-agent, sections 3 and 4. All else (adding, removing and locking keys, extensions) is answered with a
failure, as BuildKit does it: a build uses the operator's keys, and doesn't rule over them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from sandboxbuild.gateway.audit import REFUSE, AuditLog, Record
from sandboxbuild.gateway.config import AgentFrom
from sandboxbuild.gateway.egress import STEP_HEADER
from sandboxbuild.gateway.server import Exchange, Request, Route
from sandboxbuild.gateway.stepbook import NotDue, StepBook

PREFIX: Final = "/v1/ssh/"
SSH: Final = "ssh"  # the kind of an audit record
MESSAGE_LIMIT_BYTES: Final = 256 * 1024  # OpenSSH's AGENT_MAX_LEN
IDLE_S: Final = 3600.0
AGENT_TIMEOUT_S: Final = 120.0  # an agent may ask its owner for a confirmation
REQUEST_IDENTITIES: Final = 11
SIGN_REQUEST: Final = 13
_ALLOWED: Final = frozenset({REQUEST_IDENTITIES, SIGN_REQUEST})
_FAILURE: Final = b"\0\0\0\x01\x05"
_CONNECTED: Final = b"HTTP/1.1 200 Connected\r\n\r\n"


class Agents:
    """The agents of one build, by the ids of the command line; a step that names one is connected to it while it runs."""

    def __init__(self, agents: Sequence[AgentFrom], audit: AuditLog, book: StepBook) -> None:
        self._paths = {agent.ssh_id: agent.path for agent in agents}
        self._audit = audit
        self._book = book

    def routes(self) -> tuple[Route, ...]:
        return (Route(lambda request: request.path.startswith(PREFIX) and request.method == "GET", self.handle),)

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Connect to the agent and carry messages until one side, or the step, ends it."""
        ssh_id = request.path.removeprefix(PREFIX)
        step = request.headers.get(STEP_HEADER, "")[:64]
        path = self._paths.get(ssh_id) if not request.query else None
        if path is None:
            self._refuse(exchange, step, ssh_id, "this build has no such agent", "give it with --ssh")
            return
        try:
            with self._book.hold_agent(step, ssh_id, exchange.connection) as asker:
                self._connect(exchange, path, Record(SSH, step, asker.stage, name=f"ssh {ssh_id}"))
        except NotDue as error:
            self._refuse(exchange, step, ssh_id, str(error), "")

    def _refuse(self, exchange: Exchange, step: str, ssh_id: str, reason: str, hint: str) -> None:
        self._audit.write(Record(REFUSE, step, name=f"ssh {ssh_id[:128]}", reason=reason))
        exchange.refuse(403, reason, hint)

    def _connect(self, exchange: Exchange, path: str, record: Record) -> None:
        try:
            agent = connect_to_agent(path)
        except OSError as error:
            exchange.fail(502, f"{record.name}: the agent can't be reached: {error.strerror}", transient=False)
            return
        self._audit.write(record)
        client, early = exchange.hijack()
        with agent, client, suppress(OSError):  # either side went away, or the step ended
            client.sendall(_CONNECTED)
            carry_messages(client, early, agent)


def connect_to_agent(path: str) -> socket.socket:
    agent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        agent.settimeout(AGENT_TIMEOUT_S)
        agent.connect(path)
    except BaseException:
        agent.close()
        raise
    return agent


def carry_messages(client: socket.socket, early: bytes, agent: socket.socket) -> None:
    """One request, one answer, until the client ends or either side breaks the framing. Raises OSError."""
    client.settimeout(IDLE_S)
    rest = early
    while True:
        message, rest = read_message(client, rest)
        if message is None:
            return
        if not message or message[0] not in _ALLOWED:
            client.sendall(_FAILURE)
            continue
        agent.sendall(len(message).to_bytes(4, "big") + message)
        answer, behind = read_message(agent, b"")
        if answer is None or behind:
            return
        client.sendall(len(answer).to_bytes(4, "big") + answer)


def read_message(connection: socket.socket, received: bytes) -> tuple[bytes | None, bytes]:
    """The next message without its length, and what came behind it; None at the end, or for one that is too long."""
    while True:
        if len(received) >= 4:
            length = int.from_bytes(received[:4], "big")
            if length > MESSAGE_LIMIT_BYTES:
                return None, b""
            if len(received) >= 4 + length:
                return received[4 : 4 + length], received[4 + length :]
        chunk = connection.recv(65536)
        if not chunk:
            return None, b""
        received += chunk
