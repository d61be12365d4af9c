"""ssh agents: their sockets stay outside, and a step may only ask one for its keys and for signatures.

Source: draft-miller-ssh-agent, sections 3 and 4. All else (adding, removing and locking keys, extensions) is answered with a
failure, as BuildKit does it: a build uses the operator's keys, and doesn't rule over them.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from typing import Final

from sandboxbuild.gateway.audit import REFUSE, AuditLog, Record
from sandboxbuild.gateway.config import AgentFrom
from sandboxbuild.gateway.server import Exchange, Request, Route

PREFIX: Final = "/v1/ssh/"
SSH: Final = "ssh"  # the kind of an audit record
STEP_HEADER: Final = "sandboxbuild-step"
MESSAGE_LIMIT_BYTES: Final = 256 * 1024  # OpenSSH's AGENT_MAX_LEN
IDLE_S: Final = 3600.0
AGENT_TIMEOUT_S: Final = 120.0  # an agent may ask its owner for a confirmation
REQUEST_IDENTITIES: Final = 11
SIGN_REQUEST: Final = 13
_ALLOWED: Final = frozenset({REQUEST_IDENTITIES, SIGN_REQUEST})
_FAILURE: Final = b"\0\0\0\x01\x05"
_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_STEP: Final = re.compile(r"[0-9A-Za-z._-]{1,64}", re.ASCII)
_CONNECTED: Final = b"HTTP/1.1 200 Connected\r\n\r\n"


class Agents:
    """The agents of one build, by the ids of the command line."""

    def __init__(self, agents: Sequence[AgentFrom], audit: AuditLog) -> None:
        self._paths = {agent.ssh_id: agent.path for agent in agents}
        self._audit = audit

    def routes(self) -> tuple[Route, ...]:
        return (Route(lambda request: request.path.startswith(PREFIX) and request.method == "GET", self.handle),)

    def handle(self, request: Request, exchange: Exchange) -> None:
        """Connect to the agent and carry messages until one side ends it."""
        ssh_id = request.path.removeprefix(PREFIX)
        step = request.headers.get(STEP_HEADER, "")
        path = self._paths.get(ssh_id) if _ID.fullmatch(ssh_id) and _STEP.fullmatch(step) and not request.query else None
        if path is None:
            self._audit.write(Record(REFUSE, step[:64], name=f"ssh {ssh_id[:128]}", reason="this build has no such agent"))
            exchange.refuse(403, "this build has no such agent", "give it with --ssh")
            return
        try:
            agent = connect_to_agent(path)
        except OSError as error:
            exchange.fail(502, f"the ssh agent {ssh_id!r} can't be reached: {error.strerror}", transient=False)
            return
        self._audit.write(Record(SSH, step, name=f"ssh {ssh_id}"))
        client, early = exchange.hijack()
        with agent, client:
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
    """One request, one answer, until the client ends or either side breaks the framing."""
    client.settimeout(IDLE_S)
    rest = early
    try:
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
    except OSError:  # either side went away
        return


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
