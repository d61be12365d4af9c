"""executor.proxy, executor.tunnel and protocol.http1: what a step may send through its proxy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.executor.proxy import BodyOnly, judge, proxy_environment
from sandboxbuild.executor.tunnel import Refusal, Tunnel, Tunnelled, read_refusal
from sandboxbuild.protocol.http1 import HEAD_LIMIT, BadRequest, Body, head_end, parse_head, split_authority
from tests.support.fake_gateway import FakeGateway


def head(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n"


def test_connect_is_its_authority() -> None:
    request = judge(parse_head(head("CONNECT Files.example.com:443 HTTP/1.1\nHost: files.example.com:443")))
    assert (request.name, request.port, request.forward) == ("files.example.com", 443, b"")


def test_absolute_target_is_sent_on_in_origin_form() -> None:
    request = judge(
        parse_head(
            head(
                "GET http://files.example.com/a?b=c HTTP/1.1\nHost: files.example.com\nProxy-Connection: keep-alive\n"
                "Connection: keep-alive, X-Hop\nX-Hop: 1\nAccept: */*\nProxy-Authorization: Basic eA==\nTE: trailers"
            )
        )
    )
    assert (request.name, request.port) == ("files.example.com", 80)
    assert request.forward == head("GET /a?b=c HTTP/1.1\nHost: files.example.com\nAccept: */*\nConnection: close")


def test_port_stays_in_the_host() -> None:
    request = judge(parse_head(head("GET http://files.example.com:8080 HTTP/1.1\nHost: files.example.com:8080")))
    assert request.forward.startswith(b"GET / HTTP/1.1\r\nHost: files.example.com:8080\r\n")


@pytest.mark.parametrize(
    "text",
    [
        "GET / HTTP/1.1\nHost: files.example.com",
        "GET https://files.example.com/ HTTP/1.1\nHost: files.example.com",
        "GET ftp://files.example.com/ HTTP/1.1\nHost: files.example.com",
        "GET http://files.example.com/ HTTP/1.1\nHost: other.example.com",
        "GET http://files.example.com:81/ HTTP/1.1\nHost: files.example.com",
        "GET http://u:p@files.example.com/ HTTP/1.1\nHost: files.example.com",
        "GET http://files.example.com/#x HTTP/1.1\nHost: files.example.com",
        "GET http:///x HTTP/1.1\nHost: files.example.com",
        "GET http://files.example.com/ HTTP/1.1",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\nHost: files.example.com",
        "GET http://files.example.com/ HTTP/1.1\nHost : files.example.com",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\n folded",
        "GET http://files.example.com/ HTTP/2.0\nHost: files.example.com",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\nContent-Length: 1\nTransfer-Encoding: chunked",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\nContent-Length: 4_0",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\nContent-Length: -1",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\nContent-Length: ",
        "GET http://files.example.com/ HTTP/1.0\nHost: files.example.com\nTransfer-Encoding: chunked",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\nTransfer-Encoding: gzip, chunked",
        "PUT http://a.example.com/ HTTP/1.1\nHost: a.example.com\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked",
        "GET http://files.example.com/ HTTP/1.1\nHost: files.example.com\nX: a\0b",
        "CONNECT files.example.com HTTP/1.1\nHost: files.example.com",
        "CONNECT files.example.com:443 HTTP/1.1\nHost: other.example.com:443",
        "CONNECT files.example.com:0443 HTTP/1.1\nHost: files.example.com:443",
        "CONNECT files.example.com:99999 HTTP/1.1\nHost: files.example.com:443",
        "CONNECT files.example.com:443 HTTP/1.1\nHost: files.example.com:443\nContent-Length: 5",
        "CONNECT a:b@files.example.com:443 HTTP/1.1\nHost: files.example.com:443",
    ],
)
def test_request_with_two_readings_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        judge(parse_head(head(text)))


def test_connection_header_can_not_drop_the_framing() -> None:
    text = (
        "POST http://files.example.com/ HTTP/1.1\nHost: files.example.com\nContent-Length: 3\nConnection: content-length, host"
    )
    assert b"Content-Length: 3" in judge(parse_head(head(text))).forward


def test_bytes_behind_the_body_stay_here() -> None:
    assert BodyOnly(Body(3)).feed(b"abcGET http://evil.example.com/ HTTP/1.1\r\n") == b"abc"
    only = BodyOnly(Body(0))
    assert only.feed(b"GET / HTTP/1.1\r\n\r\n") == b""


@pytest.mark.parametrize(
    "body", [b"0x3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\n\r\n", b"3\nabc\n0\n\n", b"3\r\nabcd\r\n0\r\n\r\n",
             b"0\r\nX: y\r\n\r\n",
             b"-1\r\n", b"f" * 20, b" 3\r\nabc\r\n"]
)  # fmt: skip
def test_chunks_with_two_readings_are_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        Body(-1).take(body)


def test_chunks_are_counted_through() -> None:
    chunks = b"3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n"
    for size in (1, 2, 7, 100):
        body, taken = Body(-1), 0
        stream = chunks + b"rest"
        while not body.finished:
            taken += body.take(stream[taken : taken + size])
        assert taken == len(chunks)


def test_endless_head_is_refused() -> None:
    with pytest.raises(BadRequest):
        head_end(b"a" * HEAD_LIMIT)


def test_variables_are_set_in_both_cases() -> None:
    variables = dict(proxy_environment())
    assert variables["http_proxy"] == variables["HTTPS_PROXY"] == "http://127.0.0.1:3128"
    assert "127.0.0.1" in variables["NO_PROXY"].split(",") and "localhost" in variables["no_proxy"].split(",")


def test_tunnel_asks_with_its_step_and_keeps_what_came_early() -> None:
    gateway = FakeGateway([], answer=b"HTTP/1.1 200 Connected\r\n\r\nSSH-2.0-x")
    outcome = Tunnel(gateway, "7").connect("files.example.com", 22)
    assert isinstance(outcome, Tunnelled) and outcome.early == b"SSH-2.0-x"
    sent = parse_head(gateway.received())
    assert (sent.method, sent.target, sent.value("sandboxbuild-step")) == ("CONNECT", "files.example.com:22", "7")
    outcome.connection.close()


def test_refusal_is_kept_with_its_hint() -> None:
    body = b'{"errors":[{"code":"NAME","message":"no"}],"hint":"allow it"}'
    answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    tunnel = Tunnel(FakeGateway([], answer=answer), "7")
    outcome = tunnel.connect("other.example.com", 443)
    assert outcome == Refusal("other.example.com", 443, "no", "allow it")
    assert tunnel.refusals == (outcome,)


@pytest.mark.parametrize("name", ["10.0.0.1", "0x7f000001", "[::1]", "a\r\nb", "Upper.example.com", ""])
def test_name_that_is_none_never_reaches_the_gateway(name: str) -> None:
    outcome = Tunnel(FakeGateway([], answer=b"HTTP/1.1 200 X\r\n\r\n"), "7").connect(name, 443)
    assert isinstance(outcome, Refusal)


@settings(max_examples=100)
@given(st.binary(max_size=200))
def test_any_refusal_body_is_text_or_nothing(data: bytes) -> None:
    reason, hint = read_refusal(data)
    assert isinstance(reason, str) and isinstance(hint, str)


@settings(max_examples=150)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        request = judge(parse_head(b"GET http://files.example.com/ HTTP/1.1\r\n" + data + b"\r\n\r\n"))
    except BadRequest:
        return
    assert request.forward.count(b"\r\n\r\n") == 1
    assert parse_head(request.forward).value("host") == "files.example.com"


@settings(max_examples=150)
@given(st.text(max_size=60))
def test_any_authority_is_host_and_port_or_refused(text: str) -> None:
    try:
        host, port = split_authority(text, 80)
    except BadRequest:
        return
    assert host and 0 < port < 65536
