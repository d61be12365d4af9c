"""system.relay: bytes between pairs of sockets, ends, limits and cuts."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from sandboxbuild.system.relay import Cut, Relay


class Watched:
    """A Watcher that remembers, and says `limit` once `at` bytes went up."""

    def __init__(self, limit: str = "", at: int = 0) -> None:
        self.sent = self.received = 0
        self.reason: str | None = None
        self.ended = threading.Event()
        self._limit, self._at = limit, at

    def moved(self, sent: int, received: int) -> str:
        self.sent += sent
        self.received += received
        return self._limit if self._limit and self.sent >= self._at else ""

    def closed(self, reason: str) -> None:
        self.reason = reason
        self.ended.set()


class Upper:
    """A Filter that shouts, and cuts at an exclamation mark."""

    transparent = False

    def feed(self, data: bytes) -> bytes:
        if b"!" in data:
            raise Cut("shouting", b"no")
        return data.upper()


@pytest.fixture
def relay() -> Iterator[Relay]:
    with Relay() as made:
        yield made


def pair(relay: Relay, watcher: Watched, **options: object) -> tuple[socket.socket, socket.socket]:
    """The far ends: the client's and the server's."""
    client, near_client = socket.socketpair()
    server, near_server = socket.socketpair()
    for end in (client, server):
        end.settimeout(5)
    relay.add(near_client, near_server, watcher, **options)  # type: ignore[arg-type]
    return client, server


def test_bytes_go_both_ways_and_an_end_passes_through(relay: Relay) -> None:
    watched = Watched()
    client, server = pair(relay, watched, early=b"early ", early_reply=b"hello ")
    client.sendall(b"up")
    client.shutdown(socket.SHUT_WR)
    assert b"".join(iter(lambda: server.recv(99), b"")) == b"early up"
    server.sendall(b"down")
    server.close()
    assert b"".join(iter(lambda: client.recv(99), b"")) == b"hello down"
    assert watched.ended.wait(5)
    assert (watched.sent, watched.received, watched.reason) == (8, 10, "")


def no_splice(_from: int, _to: int, _count: int, *, flags: int) -> int:
    raise OSError(errno.EINVAL, "no splice here")


def splice_into_pipes_alone(source: int, to: int, count: int, *, flags: int) -> int:
    """As in a kernel that can take from a socket and not give to one."""
    if stat.S_ISSOCK(os.fstat(to).st_mode):
        raise OSError(errno.EINVAL, "no splice here")
    return SPLICE(source, to, count, flags=flags)


SPLICE = os.splice


@pytest.mark.parametrize("splice", [SPLICE, no_splice, splice_into_pipes_alone], ids=["pipes", "none", "half"])
def test_more_than_any_buffer_arrives_whole_and_in_order(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, splice: Callable[..., int]
) -> None:
    monkeypatch.setattr(os, "splice", splice)
    watched = Watched()
    client, server = pair(relay, watched)
    data = os.urandom(1 << 16) * 128
    threading.Thread(target=lambda: (client.sendall(data), client.shutdown(socket.SHUT_WR))).start()
    received = bytearray()
    while chunk := server.recv(1 << 16):
        received += chunk
    assert received == data
    server.close()
    client.close()
    assert watched.ended.wait(5)
    assert watched.sent == len(data)


def send_and_close(end: socket.socket, data: bytes) -> None:
    with end, suppress(OSError):
        end.sendall(data)


def test_pipes_of_connections_are_gone_when_they_are(relay: Relay) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        watched = Watched()
        client, server = pair(relay, watched)
        sender = threading.Thread(target=send_and_close, args=(client, bytes(8 << 20)))
        sender.start()
        left = 6 << 20
        while left > 0:
            left -= len(server.recv(1 << 16))
        server.close()  # in the middle, with a pipe that holds something
        assert watched.ended.wait(5)
        sender.join(5)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_filter_sees_what_the_client_sends_alone(relay: Relay) -> None:
    client, server = pair(relay, Watched(), filter_=Upper())
    client.sendall(b"abc")
    assert server.recv(9) == b"ABC"
    server.sendall(b"abc")
    assert client.recv(9) == b"abc"


def test_cut_connection_gets_its_reply_and_the_server_nothing(relay: Relay) -> None:
    watched = Watched()
    client, server = pair(relay, watched, filter_=Upper())
    client.sendall(b"abc!")
    assert client.recv(9) == b"no"
    assert client.recv(9) == b""
    assert server.recv(9) == b""
    assert watched.ended.wait(5) and watched.reason == "shouting"


def test_watcher_can_end_a_connection(relay: Relay) -> None:
    watched = Watched("enough", 3)
    client, server = pair(relay, watched)
    client.sendall(b"abcd")
    assert watched.ended.wait(5)
    assert watched.reason == "enough"
    assert server.recv(9) == b"abcd" and server.recv(9) == b""


def test_server_that_is_gone_ends_the_client(relay: Relay) -> None:
    watched = Watched()
    client, server = pair(relay, watched)
    server.close()
    assert client.recv(9) == b""
    client.close()
    assert watched.ended.wait(5)


def test_closing_ends_what_is_open() -> None:
    watched = Watched()
    relay = Relay()
    client, _server = pair(relay, watched)
    relay.close()
    relay.close()
    assert watched.reason == "the relay was closed"
    with pytest.raises(OSError):
        if client.recv(9) == b"":
            raise ConnectionResetError
    with pytest.raises(RuntimeError):
        pair(relay, Watched())


def test_descriptors_are_all_given_back() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Relay() as relay:
        watched = [Watched() for _ in range(50)]
        for one in watched:
            client, server = pair(relay, one)
            client.close()
            server.close()
        assert all(one.ended.wait(5) for one in watched)
    assert len(os.listdir("/proc/self/fd")) == before
