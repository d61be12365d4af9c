from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.registry.http1 import CHUNKED, ChunkedReader, MalformedResponse, encode_request, parse_head


def test_a_plain_answer_is_understood() -> None:
    head = parse_head("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Y:  z \r\nConnection: close")
    assert (head.status, head.length, head.reusable, head.headers["x-y"]) == (200, 5, False, "z")


def test_an_answer_to_head_has_no_body_whatever_it_says() -> None:
    assert parse_head("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5").length == 0
    assert parse_head("GET", b"HTTP/1.1 204 No Content").length == 0
    assert parse_head("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked").length == CHUNKED


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0",
        b"HTTP/2 200\r\nContent-Length: 0",
        b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 20 OK\r\nContent-Length: 0",
        b"HTTP/1.1 200 OK\nContent-Length: 0",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0",
        b"HTTP/1.1 200 OK\r\nContent-Length: ",
        b"HTTP/1.1 200 OK\r\nContent-Length : 1",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nX: a\x00\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n" + b"X: a\r\n" * 200,
    ],
)
def test_what_is_ambiguous_is_refused(head: bytes) -> None:
    with pytest.raises(MalformedResponse):
        parse_head("GET", head)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail))
@settings(max_examples=120, deadline=None)
def test_bytes_are_an_answer_or_refused(head: bytes) -> None:
    try:
        parsed = parse_head("GET", head)
    except MalformedResponse:
        return
    assert parsed.length >= 0 or parsed.length == CHUNKED


def chunked(data: bytes, step: int = 3) -> bytes | Exception:
    """What a ChunkedReader makes of the bytes, given `step` at a time."""
    position = 0

    def receive(count: int) -> bytes:
        nonlocal position
        piece = data[position : position + min(count, step)]
        position += len(piece)
        return piece

    reader = ChunkedReader(receive)
    body = b""
    while chunk := reader.read(5):
        body += chunk
    return body


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.integers(1, 50))
@settings(max_examples=100, deadline=None)
def test_chunks_come_back_as_they_were_sent(pieces: list[bytes], step: int) -> None:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    assert chunked(sent, step) == b"".join(pieces)


@pytest.mark.parametrize(
    "data",
    [b"", b"5\r\nabc", b"3\r\nabcX\r\n0\r\n\r\n", b"3;x=1\r\nabc\r\n0\r\n\r\n", b"+3\r\nabc\r\n0\r\n\r\n",
     b"0x3\r\nabc\r\n0\r\n\r\n",
     b"3\nabc\n0\n\n", b"3\r\nabc\r\n0\r\nX: y\r\n\r\n", b"fffffffff\r\n", b"3\r\nabc\r\n", b"g\r\n"],
)  # fmt: skip
def test_malformed_chunks_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedResponse):
        chunked(data)


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/a b", {}),
        ("GET", "/a\r\nX: y", {}),
        ("G ET", "/", {}),
        ("GET", "/", {"X": "a\r\nY: b"}),
        ("GET", "/", {"X\r\n": "a"}),
        ("GET", "/", {"X": " a"}),
        ("GET", "/é", {}),
        ("GET", "", {}),
    ],
)
def test_a_request_that_could_be_read_in_two_ways_is_not_written(method: str, target: str, headers: dict[str, str]) -> None:
    with pytest.raises(ValueError):
        encode_request(method, target, headers)
