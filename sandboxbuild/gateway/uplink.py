"""Where a gateway listens: a unix socket that one build alone can open, or TCP where each request shows the build's token."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from sandboxbuild.errors import IsolationError
from sandboxbuild.registry import CHUNK_BYTES

_BACKLOG: Final = 256
_PAUSE_S: Final = 0.02
_BUFFER_BYTES: Final = 4 * CHUNK_BYTES
_CREDENTIALS: Final = struct.Struct("iII")  # pid, uid, gid: unix(7), SO_PEERCRED


class UnixListener:
    """A unix socket, mode 0600, owned by `owner_uid` (-1: as it is). Only processes of `peer_uids` are listened to."""

    def __init__(self, path: str, owner_uid: int = -1, peer_uids: Sequence[int] = ()) -> None:
        self._path = path
        self._peers = frozenset(peer_uids)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self._socket.bind(path)
            if owner_uid >= 0 and owner_uid != os.geteuid():
                os.chown(path, owner_uid, -1)
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise IsolationError(f"the gateway can't listen on {path}: {error.strerror}") from error
        finally:
            os.umask(mask)

    @property
    def address(self) -> str:
        return self._path

    def accept(self) -> socket.socket | None:
        while True:
            connection = _accepted(self._socket)
            if connection is None or not self._peers or _peer_uid(connection) in self._peers:
                return connection
            connection.close()

    def close(self) -> None:
        _close_listening(self._socket)
        try:
            os.unlink(self._path)
        except OSError:
            pass


class TcpListener:
    """A TCP socket on `host` and `port` (0: any free one). Who may ask is said by the token of each request."""

    def __init__(self, host: str, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise IsolationError(f"the gateway can't listen on {host}:{port}: {error.strerror}") from error

    @property
    def address(self) -> str:
        """HOST:PORT."""
        host, port = self._socket.getsockname()[:2]
        return f"{host}:{port}"

    def accept(self) -> socket.socket | None:
        connection = _accepted(self._socket)
        if connection is not None:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def close(self) -> None:
        _close_listening(self._socket)


def _accepted(listening: socket.socket) -> socket.socket | None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EINVAL):
                return None
            time.sleep(_PAUSE_S)  # out of descriptors or memory: the connection stays in the queue
            continue
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        return connection


def _peer_uid(connection: socket.socket) -> int:
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _close_listening(listening: socket.socket) -> None:
    """Also wakes the thread that waits in accept(2), which closing alone doesn't."""
    try:
        listening.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    listening.close()
