"""gateway.resolver.ServerResolver against a name server of the test's own, which answers as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from sandboxbuild.gateway.resolver import ServerResolver, Unresolved
from sandboxbuild.protocol.dns import AAAA, NXDOMAIN, SERVFAIL, A, read_query, write_answer

NAME = "files.example.com"
FOUR, SIX = socket.inet_aton("192.0.2.7"), socket.inet_pton(socket.AF_INET6, "2001:db8::7")
Reply = Callable[[bytes], "list[bytes]"]


class NameServer:
    """UDP and TCP on one loopback port; `reply` gives the datagrams, `reply_tcp` the one message for a query."""

    def __init__(self) -> None:
        self.reply: Reply = answers
        self.reply_tcp: Reply = answers
        self.asked: list[int] = []
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.address = ("127.0.0.1", int(self._tcp.getsockname()[1]))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(self.address)
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def _serve_udp(self) -> None:
        while True:
            try:
                message, asker = self._udp.recvfrom(4096)
                self.asked.append(read_query(message).kind)
                for datagram in self.reply(message):
                    self._udp.sendto(datagram, asker)
            except OSError:
                return

    def _serve_tcp(self) -> None:
        while True:
            try:
                with self._tcp.accept()[0] as connection:
                    message = connection.recv(4096)[2:]
                    for answer in self.reply_tcp(message):
                        connection.sendall(len(answer).to_bytes(2, "big") + answer)
            except OSError:
                return

    def close(self) -> None:
        for one in (self._udp, self._tcp):
            one.shutdown(socket.SHUT_RDWR) if one is self._tcp else None
            one.close()


def answers(message: bytes) -> list[bytes]:
    query = read_query(message)
    return [write_answer(query, 0, (FOUR,) if query.kind == A else (SIX,))]


def failing(code: int, *kinds: int) -> Reply:
    def reply(message: bytes) -> list[bytes]:
        query = read_query(message)
        return [write_answer(query, code)] if query.kind in kinds else answers(message)

    return reply


@pytest.fixture
def server() -> Iterator[NameServer]:
    made = NameServer()
    yield made
    made.close()


def test_addresses_of_both_kinds_are_found_with_one_question_each(server: NameServer) -> None:
    assert ServerResolver([server.address])(NAME) == ["192.0.2.7", "2001:db8::7"]
    assert sorted(server.asked) == [A, AAAA]


def test_a_name_that_does_not_exist_has_no_address(server: NameServer) -> None:
    server.reply = failing(NXDOMAIN, A, AAAA)
    assert ServerResolver([server.address])(NAME) == []


def test_a_server_that_fails_is_an_error_and_for_one_kind_none(server: NameServer) -> None:
    server.reply = failing(SERVFAIL, AAAA)
    assert ServerResolver([server.address])(NAME) == ["192.0.2.7"]
    server.reply = failing(SERVFAIL, A, AAAA)
    with pytest.raises(Unresolved, match="code 2"):
        ServerResolver([server.address])(NAME)


def test_silence_is_an_error_and_the_next_server_is_asked(server: NameServer) -> None:
    silent = NameServer()
    silent.reply = lambda _message: []
    try:
        with pytest.raises(Unresolved, match="didn't answer"):
            ServerResolver([silent.address], timeout_s=0.1)(NAME)
        assert ServerResolver([silent.address, server.address], timeout_s=0.4)(NAME)[0] == "192.0.2.7"
    finally:
        silent.close()


def test_a_closed_port_is_an_error_at_once_and_the_next_server_is_asked(server: NameServer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        closed = ("127.0.0.1", int(unused.getsockname()[1]))
    with pytest.raises(Unresolved, match="can't be reached"):
        ServerResolver([closed])(NAME)
    assert ServerResolver([closed, server.address])(NAME)


def test_an_answer_to_another_question_is_passed_over(server: NameServer) -> None:
    def forged(message: bytes) -> list[bytes]:
        true = answers(message)[0]
        other_id = bytes((message[0] ^ 1,)) + true[1:].replace(FOUR, b"\1\2\3\4")
        return [other_id, b"", b"\0" * 12, true]

    server.reply = forged
    assert ServerResolver([server.address])(NAME) == ["192.0.2.7", "2001:db8::7"]


def test_an_answer_that_does_not_fit_is_asked_for_over_tcp(server: NameServer) -> None:
    def cut(message: bytes) -> list[bytes]:
        head = bytearray(write_answer(read_query(message), 0))
        head[2] |= 2
        return [bytes(head)]

    server.reply = cut
    assert ServerResolver([server.address])(NAME) == ["192.0.2.7", "2001:db8::7"]
    server.reply_tcp = lambda _message: [b"nonsense"]
    with pytest.raises(Unresolved, match="TCP"):
        ServerResolver([server.address])(NAME)
