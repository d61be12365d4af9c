"""gateway.wire: the names on a connection must be the name that was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.gateway.wire import TLS_ALERT, NameCheck
from sandboxbuild.system.relay import Cut
from tests.support.hello import client_hello, crafted_hello, server_name

NAME = "files.example.com"


def passed(port: int, *chunks: bytes) -> bytes:
    check = NameCheck(NAME, port)
    return b"".join(check.feed(chunk) for chunk in chunks)


def cut(port: int, *chunks: bytes) -> Cut:
    with pytest.raises(Cut) as caught:
        passed(port, *chunks)
    return caught.value


def request(host: str = NAME, target: str = "/", extra: str = "", method: str = "GET", version: str = "1.1") -> bytes:
    return f"{method} {target} HTTP/{version}\r\nHost: {host}\r\n{extra}\r\n".encode("latin-1")


@pytest.mark.parametrize("port", [443, 8443, 80 + 8000])
def test_tls_to_the_name_passes_whole_and_unchanged(port: int) -> None:
    hello = client_hello(NAME)
    check = NameCheck(NAME, port)
    assert b"".join(check.feed(hello[at : at + 1]) for at in range(len(hello))) == hello
    assert check.transparent


@pytest.mark.parametrize(
    "hello",
    [
        client_hello("other.example.com"),
        client_hello(None),
        crafted_hello((0, server_name(NAME.encode())), (0xFE0D, b"")),
        crafted_hello((0, server_name(NAME.encode() + b"."))),
        b"SSH-2.0-x\r\n",
    ],
)
def test_port_443_takes_nothing_but_tls_to_the_name(hello: bytes) -> None:
    assert cut(443, hello).reply == TLS_ALERT


def test_tls_to_another_name_is_cut_on_any_port() -> None:
    assert "other.example.com" in cut(9000, client_hello("other.example.com")).reason


@pytest.mark.parametrize("port", [80, 8080])
def test_requests_to_the_host_pass_one_after_the_other(port: int) -> None:
    one = request(extra="Content-Length: 3\r\n", method="POST", host=f"{NAME}:{port}") + b"abc"
    two = request(extra="Transfer-Encoding: chunked\r\n", method="PUT", host=f"{NAME}:{port}") + b"3\r\nabc\r\n0\r\n\r\n"
    three = request(host=f"{NAME}:{port}", target=f"http://{NAME}:{port}/x")
    stream = one + two + three
    assert passed(port, stream) == stream
    assert passed(port, *(stream[at : at + 1] for at in range(len(stream)))) == stream


@pytest.mark.parametrize(
    "data",
    [
        request("other.example.com"),
        request(f"{NAME}:81"),
        request(f"{NAME}."),
        request(target="http://other.example.com/"),
        request(target=f"http://{NAME}#@other.example.com/"),
        request(target=f"http://{NAME}\\@other.example.com/"),
        request(target="https://files.example.com/"),
        request(target="other"),
        request(method="CONNECT", target="other.example.com:443"),
        request(extra="Host: other.example.com\r\n"),
        request(extra="Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"),
        request(extra="Content-Length: 1\r\nContent-Length: 2\r\n"),
        request(extra="Content-Length: +1\r\n"),
        request(extra="Transfer-Encoding: xchunked\r\n"),
        request(extra="Transfer-Encoding : chunked\r\n"),
        request(extra="X: a\r\n b\r\n"),
        request(extra="X: a\nHost: other.example.com\r\n"),
        request(extra="X: a\rb\r\n"),
        request(extra="X: a\0b\r\n"),
        request(extra="Transfer-Encoding: chunked\r\n", version="1.0"),
        request(version="2.0"),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: files.example.com\r\n\r\n",
        b"GET\t/ HTTP/1.1\r\nHost: other.example.com\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"get / http/1.1\r\nhost: other.example.com\r\n\r\n",
    ],
)
@pytest.mark.parametrize("port", [80, 8080])
def test_request_that_names_another_host_or_has_two_readings_is_cut(data: bytes, port: int) -> None:
    assert cut(port, data).reason


def test_offer_to_upgrade_is_left_out() -> None:
    assert passed(80, request(extra="Upgrade: h2c\r\nHTTP2-Settings: x\r\nAccept: */*\r\n")) == request(extra="Accept: */*\r\n")


def test_second_request_to_another_host_is_cut() -> None:
    check = NameCheck(NAME, 80)
    check.feed(request())
    with pytest.raises(Cut) as caught:
        check.feed(request("other.example.com"))
    assert caught.value.reply == b""
    assert check.fault


def test_body_can_not_hide_a_request() -> None:
    hidden = request("other.example.com")
    head = request(extra=f"Content-Length: {len(hidden)}\r\n", method="POST")
    assert passed(80, head + hidden) == head + hidden
    assert "other.example.com" in cut(80, head + hidden, hidden).reason


def test_port_80_takes_nothing_but_http() -> None:
    assert cut(80, client_hello(NAME)[:100] + b"\r\n\r\n").reason


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"003egit-upload-pack /x\0host=files.example.com\0",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
        b"EHLO x\r\n",
    ],
)
def test_other_protocols_pass_on_other_ports(data: bytes) -> None:
    check = NameCheck(NAME, 2222)
    assert check.feed(data) == data
    assert check.transparent


def test_what_may_become_a_request_is_held_back() -> None:
    check = NameCheck(NAME, 2222)
    assert check.feed(b"GET / ") == b""
    with pytest.raises(Cut):
        check.feed(b"HTTP/1.1\r\nHost: other.example.com\r\n\r\n")


@settings(max_examples=150)
@given(st.lists(st.binary(max_size=80), max_size=5), st.sampled_from([80, 443, 8080]))
def test_any_bytes_pass_in_order_or_are_cut(chunks: list[bytes], port: int) -> None:
    try:
        assert b"".join(chunks).startswith(passed(port, *chunks))
    except Cut:
        pass
