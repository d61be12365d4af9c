from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError, RegistryError
from sandboxbuild.registry import BytesBody
from sandboxbuild.registry.failures import TransientError
from sandboxbuild.registry.uplink import Uplink, UplinkAddress, UplinkTransport, fetch_url, read_secret

Script = Callable[[socket.socket], None]


class Scripted:
    """A unix socket whose connections are each served by the next script."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.scripts: list[Script] = []
        self.connections = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen(8)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection, contextlib.suppress(OSError):  # the client may go away first
                self.scripts.pop(0)(connection)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Scripted]:
    server = Scripted(str(tmp_path / "s"))
    yield server
    server.close()


def head_of(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(4096)
    return received


def answering(*answers: bytes) -> Script:
    """Answers one request after another, then reads until the client ends."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            head_of(connection)
            connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    return serve


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def uplink(scripted: Scripted) -> Uplink:
    return Uplink(UplinkAddress(path=scripted.path))


def get(link: Uplink) -> bytes:
    response = link.exchange("GET", "/x", {}, None, timeout_s=5)
    content = b""
    while chunk := response.read(100):
        content += chunk
    return content


def test_a_connection_serves_again_when_its_answer_was_read(scripted: Scripted) -> None:
    scripted.scripts.append(answering(OK, OK))
    link = uplink(scripted)
    assert (get(link), get(link), scripted.connections) == (b"ok", b"ok", 1)


def test_a_connection_that_the_gateway_has_ended_is_not_used(scripted: Scripted) -> None:
    ended = threading.Event()

    def once(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        ended.set()

    scripted.scripts += [once, answering(OK)]
    link = uplink(scripted)
    get(link)
    ended.wait(5)
    assert (get(link), scripted.connections) == (b"ok", 2)


def test_an_answer_that_was_not_read_ends_its_connection(scripted: Scripted) -> None:
    scripted.scripts += [answering(OK), answering(OK)]
    link = uplink(scripted)
    link.exchange("GET", "/x", {}, None).close()
    assert get(link) == b"ok"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000,
    ],
)
def test_an_answer_that_stops_short_is_a_transient_error(scripted: Scripted, answer: bytes) -> None:
    scripted.scripts.append(answering(answer))
    with pytest.raises(TransientError):
        get(uplink(scripted))


def test_a_refusal_in_the_middle_of_a_body_is_read(scripted: Scripted) -> None:
    def refuse(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    scripted.scripts.append(refuse)
    response = uplink(scripted).exchange("PUT", "/x", {}, BytesBody(b"x" * 8_000_000), timeout_s=5)
    assert response.status == 403


def test_a_body_that_is_shorter_than_it_says_is_an_error(scripted: Scripted) -> None:
    scripted.scripts.append(answering(b""))
    body = BytesBody(b"x")
    body.size_bytes = 5
    with pytest.raises(RegistryError, match="shorter"):
        uplink(scripted).exchange("PUT", "/x", {}, body, timeout_s=5)


def test_a_registry_is_a_path_of_the_gateways(scripted: Scripted) -> None:
    heads: list[bytes] = []

    def keep(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        connection.sendall(OK)

    scripted.scripts.append(keep)
    UplinkTransport(uplink(scripted)).request("GET", "registry.example.com:5000", "/v2/", {}, None).close()
    assert heads[0].startswith(b"GET /v1/registry/registry.example.com:5000/v2/ HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("host", "path"), [("a/b", "/v2/"), ("", "/v2/"), ("a", "https://evil.example/"), ("a", "/v1/secret/x")]
)
def test_a_request_to_elsewhere_is_not_sent(scripted: Scripted, host: str, path: str) -> None:
    with pytest.raises(RegistryError):
        UplinkTransport(uplink(scripted)).request("GET", host, path, {}, None)
    assert scripted.connections == 0


def test_over_tcp_the_token_is_shown_and_never_printed() -> None:
    link = Uplink(UplinkAddress(host="127.0.0.1", port=1, token="t0k"))
    assert "t0k" in link.token_headers().values()
    assert "t0k" not in repr(UplinkAddress(host="127.0.0.1", port=1, token="t0k"))


def test_a_refused_secret_and_a_refused_fetch_are_policy_errors(scripted: Scripted) -> None:
    refusal = (
        b'HTTP/1.1 403 No\r\nSandboxbuild-Refused: denied\r\nContent-Length: 38\r\n\r\n{"errors":[{"message":"not for you"}]}'
    )
    scripted.scripts.append(answering(refusal, refusal))
    link = uplink(scripted)
    with pytest.raises(PolicyError, match="not for you"):
        read_secret(link, "4", "x")
    with pytest.raises(PolicyError, match="not for you"):
        fetch_url(link, "https://example.com/", {})


def test_a_gateway_that_has_ended_is_not_asked_again(tmp_path: Path) -> None:
    ended = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    ended.bind(str(tmp_path / "ended"))
    ended.close()
    for name in ("ended", "never-there"):
        with pytest.raises(RegistryError, match="can't be reached") as caught:
            Uplink(UplinkAddress(path=str(tmp_path / name))).exchange("GET", "/v1/x", {}, None)
        assert not isinstance(caught.value, TransientError)


def test_a_gateway_that_cant_be_reached_over_tcp_is_a_transient_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    with pytest.raises(TransientError, match="can't be reached"):
        Uplink(UplinkAddress(host="127.0.0.1", port=port)).exchange("GET", "/v1/x", {}, None)
