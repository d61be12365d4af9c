"""StepNetwork: one step's way to the gateway, served by the executor from outside the step's namespaces.

One thread answers names and accepts; each new connection is opened in a thread of its own, for the gateway may take seconds,
and is then the relay's. Nothing here decides: the gateway does.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Final

from sandboxbuild.errors import RegistryError
from sandboxbuild.executor.listeners import StepSockets
from sandboxbuild.executor.names import StandIns, answer
from sandboxbuild.executor.proxy import ESTABLISHED, BodyOnly, ProxyRequest, error_answer, read_request
from sandboxbuild.executor.tunnel import Gateway, Refusal, Tunnel, Tunnelled
from sandboxbuild.protocol.http1 import BadRequest
from sandboxbuild.system.knocks import KNOCK_BYTES, read_knock
from sandboxbuild.system.relay import Cut, Relay

OPENING_LIMIT: Final = 224  # connections that wait for the gateway at once; it listens to 256
OPENING_PAUSE_S: Final = 0.1
NAMES_TIMEOUT_S: Final = 10.0
KNOCKS_LIMIT: Final = 64  # names and ports that a step asks for though nobody serves them
KNOCKS_TIMEOUT_S: Final = 2.0


class StepNetwork:
    """A context manager around one step. `sockets` were bound in the step's namespace and belong to this object."""

    def __init__(self, sockets: StepSockets, gateway: Gateway, step: str, *, kind: str = "run") -> None:
        self._sockets = sockets
        self._tunnel = Tunnel(gateway, step, kind)
        self._stand_ins = StandIns()
        self._relay = Relay(f"step-{step}")
        self._opening = threading.Semaphore(OPENING_LIMIT)
        self._served = {one.getsockname()[1] for one in (sockets.names_tcp, sockets.proxy, *sockets.ports)}
        self._knocked: dict[tuple[str, int], threading.Thread] = {}
        self._halt_read, self._halt_write = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name=f"network-{step}", daemon=True)

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What the step asked for in vain: for the build's error."""
        return self._tunnel.refusals

    def __enter__(self) -> StepNetwork:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all that is served, connections included. Idempotent."""
        self._halt_write.close()
        if self._thread.is_alive():
            self._thread.join()
        deadline_s = time.monotonic() + KNOCKS_TIMEOUT_S
        for asking in self._knocked.values():
            asking.join(max(0.0, deadline_s - time.monotonic()))
        self._relay.close()
        self._sockets.close()
        self._halt_read.close()

    def _serve(self) -> None:
        sockets = self._sockets
        duties: dict[socket.socket, Callable[[socket.socket], None]] = {
            sockets.names_tcp: self._serve_names,
            sockets.proxy: self._serve_proxy,
            **dict.fromkeys(sockets.ports, self._serve_port),
        }
        with selectors.EpollSelector() as selector:
            selector.register(self._halt_read, selectors.EVENT_READ)
            for one in (sockets.names_udp, *duties):
                one.setblocking(False)
                selector.register(one, selectors.EVENT_READ, duties.get(one))
            if sockets.knocks is not None:
                sockets.knocks.setblocking(False)
                selector.register(sockets.knocks, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._halt_read:
                        self._hear_knocks()
                        return
                    if key.fileobj is sockets.knocks:
                        self._hear_knocks()
                    elif key.data is None:
                        self._answer_datagram(sockets.names_udp)
                    else:
                        self._accept(key.fileobj, key.data)  # type: ignore[arg-type]  # only sockets are registered

    def _answer_datagram(self, channel: socket.socket) -> None:
        try:
            message, asker = channel.recvfrom(4097)
            reply = answer(message, self._tunnel, self._stand_ins)
            if reply:
                channel.sendto(reply, asker)
        except OSError:  # the asker is gone, or its queue is full: it asks again
            pass

    def _hear_knocks(self) -> None:
        """Ask the gateway for ports on which nobody listens, so that it says why not. A step is told nothing of it."""
        knocks = self._sockets.knocks
        for _ in range(KNOCKS_LIMIT if knocks is not None else 0):
            assert knocks is not None, "else there is nothing to hear"
            try:
                address, port = read_knock(knocks.recv(KNOCK_BYTES))
            except OSError:
                return
            name = self._stand_ins.name_of(address)
            if len(self._knocked) < KNOCKS_LIMIT and name and port not in self._served and (name, port) not in self._knocked:
                asking = threading.Thread(target=self._ask_in_vain, args=(name, port), daemon=True)
                self._knocked[name, port] = asking
                asking.start()

    def _ask_in_vain(self, name: str, port: int) -> None:
        try:
            outcome = self._tunnel.connect(name, port)
        except RegistryError:
            return
        if isinstance(outcome, Tunnelled):
            outcome.connection.close()

    def _accept(self, listener: socket.socket, duty: Callable[[socket.socket], None]) -> None:
        """Serve one more client; while too many wait for the gateway, it stays in the listener's queue."""
        if not self._opening.acquire(timeout=OPENING_PAUSE_S):
            return
        try:
            client, _ = listener.accept()
        except OSError:
            self._opening.release()
            return
        threading.Thread(target=self._attend, args=(duty, client), daemon=True).start()

    def _attend(self, duty: Callable[[socket.socket], None], client: socket.socket) -> None:
        """Do `duty`, which takes the client over unless it fails."""
        try:
            duty(client)
        except (OSError, RegistryError, BadRequest, RuntimeError):
            client.close()
        finally:
            self._opening.release()

    def _serve_names(self, client: socket.socket) -> None:
        """DNS over TCP: messages behind their lengths (RFC 1035 4.2.2)."""
        client.settimeout(NAMES_TIMEOUT_S)
        with client, client.makefile("rb") as stream:
            while len(prefix := stream.read(2)) == 2:
                (length,) = struct.unpack("!H", prefix)
                reply = answer(stream.read(length), self._tunnel, self._stand_ins)
                if not reply:
                    return
                client.sendall(struct.pack("!H", len(reply)) + reply)

    def _serve_port(self, client: socket.socket) -> None:
        """A connection to a stand-in: to the name that it stands for, or to nothing."""
        address, port = client.getsockname()
        name = self._stand_ins.name_of(address)
        outcome = self._tunnel.connect(name, port) if name else None
        if isinstance(outcome, Tunnelled):
            self._carry(client, outcome)
        else:
            client.close()

    def _serve_proxy(self, client: socket.socket) -> None:
        try:
            request, early = read_request(client)
        except BadRequest as error:
            _answer_and_close(client, error_answer("400 Bad Request", f"the proxy was sent {error}"))
            return
        try:
            outcome = self._tunnel.connect(request.name, request.port)
        except RegistryError as error:
            _answer_and_close(client, error_answer("502 Bad Gateway", error.message))
            return
        if isinstance(outcome, Refusal):
            text = f"{outcome.reason}; {outcome.hint}" if outcome.hint else outcome.reason
            _answer_and_close(client, error_answer("403 Forbidden", text))
        else:
            self._proxy(client, outcome, request, early)

    def _proxy(self, client: socket.socket, tunnelled: Tunnelled, request: ProxyRequest, early: bytes) -> None:
        try:
            if not request.forward:
                client.sendall(ESTABLISHED)
                self._carry(client, tunnelled, early)
                return
            body = BodyOnly(request.body)
            tunnelled.connection.sendall(request.forward + body.feed(early))
            self._carry(client, tunnelled, b"", body)
        except (OSError, Cut):
            tunnelled.connection.close()
            client.close()

    def _carry(self, client: socket.socket, tunnelled: Tunnelled, early: bytes = b"", body: BodyOnly | None = None) -> None:
        self._relay.add(client, tunnelled.connection, _Unwatched(), early=early, early_reply=tunnelled.early, filter_=body)


class _Unwatched:
    """A relay's Watcher that wants to know nothing: the gateway meters."""

    def moved(self, sent: int, received: int) -> str:  # noqa: ARG002
        return ""

    def closed(self, reason: str) -> None:
        pass


def _answer_and_close(client: socket.socket, reply: bytes) -> None:
    with client:
        client.sendall(reply)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(1.0)
        client.recv(65536)  # unread bytes would turn the close into a reset that overtakes the answer
