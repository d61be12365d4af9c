"""The sockets of a step's network namespace: opened inside it by the step's first process, served by the executor."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final, NamedTuple

from sandboxbuild.executor.proxy import PROXY_HOST, PROXY_PORT

NAMESERVER: Final = "198.18.0.1"
STAND_IN_PREFIX: Final = 15
RESOLV_CONF: Final = f"nameserver {NAMESERVER}\noptions timeout:5 attempts:2\n"
_BACKLOG: Final = 512


class StepSockets(NamedTuple):
    """What is served for one step, all bound in its namespace; `ports` listen on the stand-in addresses of each name.

    `knocks` tells of connections that were begun, also to other ports (system.knocks); it is None where there is no such thing.
    """

    names_udp: socket.socket
    names_tcp: socket.socket
    proxy: socket.socket
    ports: tuple[socket.socket, ...]
    knocks: socket.socket | None = None

    def close(self) -> None:
        for one in (self.names_udp, self.names_tcp, self.proxy, *self.ports, *([self.knocks] if self.knocks else ())):
            one.close()

    @property
    def descriptors(self) -> list[int]:
        """For passing them on, in the order that adopt() expects."""
        return [one.fileno() for one in (self.names_udp, self.names_tcp, self.proxy, *self.ports)]


def listen(ports: Sequence[int]) -> StepSockets:
    """Open all of them in this process's network namespace, where NAMESERVER/15 is loopback's already. Raises OSError."""
    opened: list[socket.socket] = []
    try:
        opened.append(_bind(socket.SOCK_DGRAM, NAMESERVER, 53))
        opened.append(_bind(socket.SOCK_STREAM, NAMESERVER, 53))
        opened.append(_bind(socket.SOCK_STREAM, PROXY_HOST, PROXY_PORT))
        opened += [_bind(socket.SOCK_STREAM, "0.0.0.0", port) for port in ports if port != PROXY_PORT]  # noqa: S104
    except BaseException:
        for one in opened:
            one.close()
        raise
    return StepSockets(opened[0], opened[1], opened[2], tuple(opened[3:]))


def adopt(descriptors: Sequence[int]) -> StepSockets:
    """The sockets behind descriptors that came from the step's namespace. Raises OSError for what is none."""
    opened = [socket.socket(fileno=number) for number in descriptors]
    knocks = opened.pop() if opened[-1].family == socket.AF_PACKET else None
    return StepSockets(opened[0], opened[1], opened[2], tuple(opened[3:]), knocks)


def _bind(kind: socket.SocketKind, host: str, port: int) -> socket.socket:
    one = socket.socket(socket.AF_INET, kind | socket.SOCK_CLOEXEC)
    try:
        if kind == socket.SOCK_STREAM:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))
        if kind == socket.SOCK_STREAM:
            one.listen(_BACKLOG)
    except BaseException:
        one.close()
        raise
    return one
