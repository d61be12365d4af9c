"""Messages and descriptors between our own processes, over a socket pair that keeps message boundaries.

Both ends run the same code of the same interpreter and trust each other; a message is a value of builtin types. The C module
behind `socket` is used itself, since what starts sandboxes and steps has no 7 ms to spend on its wrapper.
"""

from __future__ import annotations

import _socket
import errno
import marshal
import os
import struct
from collections.abc import Sequence
from typing import Any, Final

_MAX_DESCRIPTORS: Final = 250  # SCM_MAX_FD is 253
_CHUNK: Final = 64 * 1024
_HEADER: Final = struct.Struct("=IH")  # bytes of the message, descriptors with it
_MAX_MESSAGE: Final = 64 * 1024 * 1024


class Channel:
    """One end. Not thread-safe. A message is (value, descriptors); receiving gives None at the end of the stream."""

    __slots__ = ("_socket",)

    def __init__(self, fd: int) -> None:
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, fd)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, value: Any, descriptors: Sequence[int] = ()) -> None:
        """Raises BrokenPipeError when the other end is gone. The descriptors stay open here."""
        if len(descriptors) > _MAX_DESCRIPTORS:
            raise OSError(errno.E2BIG, "too many descriptors for one message")
        body = marshal.dumps(value)
        head = _HEADER.pack(len(body), len(descriptors))
        rights = struct.pack(f"={len(descriptors)}i", *descriptors)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if descriptors else []
        # Descriptors ride on the first bytes; MSG_NOSIGNAL since a child may have the default SIGPIPE.
        sent = self._socket.sendmsg([head], ancillary, _socket.MSG_NOSIGNAL)
        view = memoryview(head + body)[sent:]
        while view:
            view = view[self._socket.send(view, _socket.MSG_NOSIGNAL) :]

    def receive(self) -> tuple[Any, list[int]] | None:
        """The next message, waiting for it. The descriptors are close-on-exec and the caller's to close."""
        space = _socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS)
        head, ancillary, _, _ = self._socket.recvmsg(_HEADER.size, space, _socket.MSG_CMSG_CLOEXEC)
        descriptors = [fd for *_, data in ancillary for (fd,) in struct.iter_unpack("=i", data[: len(data) - len(data) % 4])]
        try:
            return self._finish(head, descriptors)
        except BaseException:
            for fd in descriptors:
                os.close(fd)
            raise

    def _finish(self, head: bytes, descriptors: list[int]) -> tuple[Any, list[int]] | None:
        if not head:
            return None
        head += self._exactly(_HEADER.size - len(head))
        length, count = _HEADER.unpack(head)
        if length > _MAX_MESSAGE or count != len(descriptors):
            raise OSError(errno.EBADMSG, "a message that our own processes don't send")
        return marshal.loads(self._exactly(length)), descriptors  # noqa: S302  # both ends are ours

    def _exactly(self, count: int) -> bytes:
        chunks = []
        while count:
            chunk = self._socket.recv(min(count, _CHUNK))
            if not chunk:
                raise OSError(errno.EPIPE, "the other process ended in the middle of a message")
            chunks.append(chunk)
            count -= len(chunk)
        return b"".join(chunks)


def pair() -> tuple[Channel, Channel]:
    """Two connected ends, close-on-exec."""
    left, right = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    return Channel(left.detach()), Channel(right.detach())
