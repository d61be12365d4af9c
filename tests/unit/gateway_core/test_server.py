from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections.abc import Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.gateway.server import Exchange, Request, Route, Server, encode_head, hint_header, request_of
from sandboxbuild.protocol.http1 import BadRequest, head_end, parse_head


class Pairs:
    """A Listener whose connections are socket pairs that a test makes."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[socket.socket | None] = queue.Queue()
        self.refused: list[tuple[str, str]] = []  # what the server tells of requests that no route takes

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        self._waiting.put(theirs)
        return ours

    def accept(self) -> socket.socket | None:
        return self._waiting.get()

    def close(self) -> None:
        self._waiting.put(None)


def echo(request: Request, exchange: Exchange) -> None:
    exchange.respond(200, {}, exchange.read_all())


def ignore(request: Request, exchange: Exchange) -> None:
    exchange.respond(200, {}, b"ignored")


def take(request: Request, exchange: Exchange) -> None:
    connection, early = exchange.hijack()
    connection.sendall(b"taken:" + early)
    connection.close()


ROUTES = (
    Route(lambda request: request.path == "/echo", echo),
    Route(lambda request: request.path == "/ignore", ignore),
    Route(lambda request: request.method == "CONNECT", take),
)


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    listener = Pairs()
    server = Server(
        listener,
        lambda request: None if request.headers.get("x-build") == "none" else ROUTES,
        connections_limit=4,
        on_refusal=lambda request, reason: listener.refused.append((request, reason)),
    )
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield listener
    server.close()
    thread.join(5)


def ask(pairs: Pairs, data: bytes) -> bytes:
    """All that comes back for `data`, after which our side ends."""
    with pairs.connect() as connection:
        with contextlib.suppress(OSError):  # turned away before we spoke
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


def test_two_requests_on_one_connection_are_answered_in_order(pairs: Pairs) -> None:
    one = b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc"
    received = ask(pairs, one + one.replace(b"abc", b"xyz"))
    assert received.count(b"HTTP/1.1 200 OK") == 2
    assert received.index(b"abc") < received.index(b"xyz")


def test_a_body_that_nobody_reads_is_not_taken_for_a_request(pairs: Pairs) -> None:
    inner = b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc"
    outer = b"PUT /ignore HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % len(inner)
    received = ask(pairs, outer + inner)
    assert received.count(b"HTTP/1.1") == 1
    assert received.endswith(b"ignored")


def test_a_taken_connection_keeps_what_came_early(pairs: Pairs) -> None:
    assert ask(pairs, b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nhello") == b"taken:hello"


def test_a_request_of_no_build_is_refused(pairs: Pairs) -> None:
    received = ask(pairs, b"GET /echo HTTP/1.1\r\nHost: g\r\nX-Build: none\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 403")
    assert b"sandboxbuild-refused" in received
    assert pairs.refused == [("GET /echo", "no build has this token")]


def test_an_unknown_path_is_refused_and_the_connection_goes_on(pairs: Pairs) -> None:
    one = b"GET /none HTTP/1.1\r\nHost: g\r\n\r\n"
    assert ask(pairs, one + one).count(b"HTTP/1.1 404") == 2
    assert [request for request, _ in pairs.refused] == ["GET /none", "GET /none"]


def test_what_is_no_request_is_refused_and_told(pairs: Pairs) -> None:
    assert ask(pairs, b"GET /echo HTTP/1.1\nHost: g\r\n\r\n").startswith(b"HTTP/1.1 400")
    assert [request for request, _ in pairs.refused] == ["a request"]


def test_a_connection_too_many_is_turned_away_and_room_comes_back(pairs: Pairs) -> None:
    held = [pairs.connect() for _ in range(4)]
    for connection in held:
        connection.sendall(b"GET /ignore HTTP/1.1\r\nHost: g\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    assert ask(pairs, b"").startswith(b"HTTP/1.1 503")
    for connection in held:
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    deadline = time.monotonic() + 20
    while not has_room(pairs):
        assert time.monotonic() < deadline


def has_room(pairs: Pairs) -> bool:
    """Whether a request is answered; one that is turned away may lose its answer with the connection."""
    try:
        return ask(pairs, b"GET /ignore HTTP/1.1\r\nHost: g\r\n\r\n").startswith(b"HTTP/1.1 200")
    except ConnectionResetError:
        return False


SMUGGLED = [
    b"GET /echo HTTP/1.1\nHost: g\n\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nX: a\nContent-Length: 5\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nX: a\rb\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nX: a\x00b\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nX: a\r\n folded\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost : g\r\n\r\n",
    b"GET /echo HTTP/1.1\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nHost: h\r\n\r\n",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 3, 3\r\n\r\nabc",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: +3\r\n\r\nabc",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: -1\r\n\r\nabc",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 1_0\r\n\r\nabc",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"PUT /echo HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: xchunked\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc",
    b"GET /echo HTTP/1.0\r\nHost: g\r\n\r\n",
    b"GET /echo HTTP/2.0\r\nHost: g\r\n\r\n",
    b"GET /echo\r\nHost: g\r\n\r\n",
    b"GET  /echo HTTP/1.1\r\nHost: g\r\n\r\n",
    b" GET /echo HTTP/1.1\r\nHost: g\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nExpect: 100-continue\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\nX-Build: a\r\nX-Build: b\r\n\r\n",
    b"GET /echo HTTP/1.1\r\nHost: g\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


@pytest.mark.parametrize("data", SMUGGLED)
def test_what_two_parsers_could_read_in_two_ways_is_refused_and_nothing_is_served(pairs: Pairs, data: bytes) -> None:
    follower = b"GET /ignore HTTP/1.1\r\nHost: g\r\n\r\n"
    received = ask(pairs, data + follower)
    assert received.startswith(b"HTTP/1.1 400")
    assert b"ignored" not in received


def test_absolute_targets_are_no_path_of_the_gateways(pairs: Pairs) -> None:
    assert ask(pairs, b"GET http://g/echo HTTP/1.1\r\nHost: g\r\n\r\n").startswith(b"HTTP/1.1 404")


fields = st.sampled_from(
    ["Host: g", "Host: h", "Content-Length: 3", "Content-Length: 03", "Content-Length: 3 ", "Transfer-Encoding: chunked",
     "X:y", "X : y", "X: \x01", " X: y", "Content-Length: 0x3", "Connection: close", "X: \xff", "Expect: 100-continue", ""]
)  # fmt: skip


@given(
    st.sampled_from(["GET", "PUT", "POST", "G T", "get"]),
    st.sampled_from(["/echo", "/e cho", "*", "http://g/echo", "/\x7f"]),
    st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "http/1.1"]),
    st.lists(fields, max_size=4),
    st.sampled_from(["\r\n", "\n"]),
)
@settings(max_examples=120, deadline=None)
def test_what_is_let_through_is_read_in_the_same_way_by_h11(
    method: str, target: str, version: str, lines: list[str], end: str
) -> None:
    data = (end.join([f"{method} {target} {version}", *lines]) + "\r\n\r\n").encode("latin-1")
    try:
        size = head_end(data)
        request = request_of(parse_head(data[:size]))
    except BadRequest:
        return
    other = h11.Connection(h11.SERVER)
    other.receive_data(data[:size])
    event = other.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method.decode(), event.target.decode().partition("?")[0]) == (request.method, request.path)
    assert {name.decode() for name, _ in event.headers} == set(request.headers)
    lengths = [value for name, value in event.headers if name == b"content-length"]
    assert int(lengths[0]) == request.length if lengths else request.length == 0


def test_answers_cant_be_split_by_a_header() -> None:
    with pytest.raises(ValueError):
        encode_head(200, {"X": "a\r\nY: b"})
    with pytest.raises(ValueError):
        encode_head(200, {"X\r\nY": "b"})


@given(st.text(max_size=1500))
@settings(max_examples=100, deadline=None)
def test_any_hint_makes_a_header(hint: str) -> None:
    encode_head(200, hint_header(hint))
