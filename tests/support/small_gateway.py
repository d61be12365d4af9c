"""A gateway of the step's routes alone, on a unix socket, in this process: what a StepNetwork needs to be tested by itself."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from sandboxbuild.gateway.audit import AuditLog
from sandboxbuild.gateway.egress import Egress
from sandboxbuild.gateway.resolver import Resolver
from sandboxbuild.gateway.stepbook import StepBook
from sandboxbuild.gateway.steps import StepRoutes, carry_connect
from sandboxbuild.policy.isolation import NetworkRules
from sandboxbuild.protocol.http1 import BadRequest, head_end, parse_head
from sandboxbuild.registry.uplink import Uplink, UplinkAddress
from sandboxbuild.system.relay import Relay


class SmallGateway:
    """A context manager; `uplink` reaches it, `audit` holds what it saw."""

    def __init__(self, folder: Path, rules: NetworkRules, resolver: Resolver) -> None:
        self.path = str(folder / "uplink")
        self.audit = AuditLog()
        self.relay = Relay("small-gateway")
        book = StepBook()
        self.egress = Egress(rules, resolver, self.audit, self.relay, book)
        self.steps = StepRoutes(self.egress, book, self.audit)
        self.uplink = Uplink(UplinkAddress(path=self.path))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> SmallGateway:
        self._listener.bind(self.path)
        self._listener.listen(512)
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.uplink.close()
        self.relay.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._attend, args=(client,), daemon=True).start()

    def _attend(self, client: socket.socket) -> None:
        received = b""
        try:
            while not (end := head_end(received)):
                chunk = client.recv(4096)
                if not chunk:
                    client.close()
                    return
                received += chunk
            head = parse_head(received[:end])
        except (OSError, BadRequest):
            client.close()
            return
        headers = {key.lower(): value for key, value in head.fields}
        if head.method == "CONNECT":
            carry_connect(self.egress, client, received[end:], head.target, headers)
            return
        body = received[end:]
        with client:
            while len(body) < int(headers.get("content-length", "0")):
                body += client.recv(4096)
            answer = self.steps.answer(head.method, head.target, body)
            fields = "".join(f"{key}: {value}\r\n" for key, value in answer.headers.items())
            client.sendall(f"HTTP/1.1 {answer.status} X\r\n{fields}Connection: close\r\n\r\n".encode("ascii") + answer.body)
