"""OneWay: one direction of a relayed connection, from a socket's queue to another's, by copying or, for much, by splice(2).

Bytes that the sink doesn't take at once are kept, and the source isn't read until they are gone. What nobody has to look at
goes through a pipe of the kernel's once a connection has shown that it carries much: a copy less on either side.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from typing import Final, Protocol

BUFFER_BYTES: Final = 256 * 1024
SPLICE_AFTER_BYTES: Final = 1024 * 1024  # of one direction, before a pipe is worth its two descriptors
PIPE_BYTES: Final = 1024 * 1024  # fs.pipe-max-size, for who isn't root
PIPE_MINIMUM_BYTES: Final = 64 * 1024  # a smaller one costs more calls than it saves copies
PIPES_LIMIT: Final = 32
_NO_SPLICE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})
_MOVE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


class Cut(Exception):
    """A filter ends the connection. `reply` is sent to the client first, where it fits into its socket."""

    def __init__(self, reason: str, reply: bytes = b"") -> None:
        super().__init__(reason)
        self.reason = reason
        self.reply = reply


class Filter(Protocol):
    """Looks at what the client sends. `transparent` turns True when it needs to see no more."""

    transparent: bool

    def feed(self, data: bytes) -> bytes:
        """The bytes that may go on to the server now. Raises Cut."""


class OneWay:
    """`source` to `sink`, with what the sink hasn't taken yet. For one thread; both sockets are non-blocking."""

    __slots__ = ("_carried", "_filter", "_pending", "_pipe", "_pipes", "_shut", "eof", "sink", "source")

    def __init__(
        self, source: socket.socket, sink: socket.socket, pending: bytes, filter_: Filter | None, pipes: Pipes
    ) -> None:
        self.source = source
        self.sink = sink
        self.eof = False
        self._pending = pending
        self._filter = filter_
        self._pipes = pipes
        self._pipe: Pipe | None = None
        self._carried = 0
        self._shut = False

    @property
    def finished(self) -> bool:
        return self._shut

    def turn(self, buffer: memoryview) -> tuple[int, bool]:
        """Move up to one buffer: the bytes that the sink took, and whether it is worth trying again. Raises OSError, Cut."""
        moved, again = self._send_pending(), False
        if not self._holds() and not self.eof:
            taken, again = self._splice(self._pipe) if self._pipe is not None else self._carry(buffer)
            moved += taken
        if self.eof and not self._holds() and not self._shut:
            self._shut = True
            _shut(self.sink)
        self._carried += moved
        if self._carried > SPLICE_AFTER_BYTES and self._pipe is None and not self._pending:
            self._carried = 0
            self._pipe = self._pipes.take() if self._filter is None or self._filter.transparent else None
        return moved, again

    def _holds(self) -> bool:
        return bool(self._pending) or (self._pipe is not None and self._pipe.held > 0)

    def _send_pending(self) -> int:
        if self._pending:
            moved = _send(self.sink, self._pending)
            self._pending = self._pending[moved:]
            return moved
        return self._empty(self._pipe) if self._pipe is not None and self._pipe.held else 0

    def _carry(self, buffer: memoryview) -> tuple[int, bool]:
        try:
            count = self.source.recv_into(buffer)
        except BlockingIOError:
            return 0, False
        if count == 0:
            self.eof = True
            return 0, False
        data: memoryview | bytes = buffer[:count]
        if self._filter is not None and not self._filter.transparent:
            data = self._filter.feed(bytes(data))
        taken = _send(self.sink, data)
        self._pending = bytes(data[taken:])
        return taken, not self._pending

    def _splice(self, pipe: Pipe) -> tuple[int, bool]:
        try:
            count = pipe.fill(self.source)
        except BlockingIOError:
            return 0, False
        except OSError as error:
            self._copy_again(pipe, error)
            return 0, True
        if count == 0:
            self.eof = True
            return 0, False
        return self._empty(pipe), not self._holds()

    def _empty(self, pipe: Pipe) -> int:
        held = pipe.held
        try:
            return pipe.empty(self.sink)
        except OSError as error:
            given = held - pipe.held
            self._copy_again(pipe, error)
            return given

    def _copy_again(self, pipe: Pipe, error: OSError) -> None:
        """Go on without a pipe where there is no splice(2) between these sockets. Raises the error if it says another thing."""
        if error.errno not in _NO_SPLICE:
            raise error
        self._pending = pipe.drain()
        self.close()
        self._pipes.refuse()

    def close(self) -> None:
        """Give the pipe back, with what is in it; the sockets are the relay's. Idempotent."""
        if self._pipe is not None:
            self._pipes.give_back(self._pipe)
            self._pipe = None


class Pipes:
    """The pipes of one relay. For its thread."""

    def __init__(self, limit: int = PIPES_LIMIT) -> None:
        self._left = limit

    def take(self) -> Pipe | None:
        """None where there are enough, or the system gives no good one: copying goes on then."""
        if self._left <= 0:
            return None
        try:
            read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        self._left -= 1
        pipe = Pipe(read, write)
        if _widened(write) < PIPE_MINIMUM_BYTES:  # fs.pipe-user-pages-soft
            self.give_back(pipe)
            return None
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        pipe.close()
        self._left += 1

    def refuse(self) -> None:
        """Make no more."""
        self._left = -(1 << 30)


def _widened(write: int) -> int:
    try:
        return int(fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_BYTES))
    except OSError:
        return int(fcntl.fcntl(write, fcntl.F_GETPIPE_SZ))


class Pipe:
    """A pipe between two sockets, whose bytes never enter this process."""

    __slots__ = ("_read", "_write", "held")

    def __init__(self, read: int, write: int) -> None:
        self._read = read
        self._write = write
        self.held = 0

    def fill(self, source: socket.socket) -> int:
        """Take what `source` has, as far as it fits: bytes, 0 at its end. Raises BlockingIOError, OSError."""
        count = os.splice(source.fileno(), self._write, PIPE_BYTES, flags=_MOVE)
        self.held += count
        return count

    def empty(self, sink: socket.socket) -> int:
        """Give `sink` what it takes. Raises OSError."""
        given = 0
        while self.held:
            try:
                count = os.splice(self._read, sink.fileno(), self.held, flags=_MOVE)
            except BlockingIOError:
                break
            given += count
            self.held -= count
        return given

    def drain(self) -> bytes:
        """What is still in it."""
        parts = []
        while self.held:
            part = os.read(self._read, self.held)
            self.held -= len(part)
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def _send(sink: socket.socket, data: memoryview | bytes) -> int:
    try:
        return sink.send(data, socket.MSG_NOSIGNAL) if data else 0
    except BlockingIOError:
        return 0


def _shut(sink: socket.socket) -> None:
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # the peer is gone already
        pass
