"""Frames are refused by their length before they are read, and come out of any cutting of the stream as they went in."""

from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import ProtocolError
from sandboxbuild.protocol.frames import FrameBuffer, read_frame, write_frame


def framed(*payloads: bytes) -> bytes:
    stream = io.BytesIO()
    for payload in payloads:
        write_frame(stream, payload)
    return stream.getvalue()


def test_a_frame_comes_back_as_it_was_written() -> None:
    stream = io.BytesIO(framed(b"one", b"", b"three"))
    assert [read_frame(stream), read_frame(stream), read_frame(stream), read_frame(stream)] == [b"one", b"", b"three", None]


@pytest.mark.parametrize("cut", [1, 3, 5, 6])
def test_a_stream_that_ends_inside_a_frame_is_an_error(cut: int) -> None:
    with pytest.raises(ProtocolError, match="ended"):
        read_frame(io.BytesIO(framed(b"abc")[:cut]))


def test_an_oversized_length_is_refused_without_reading_the_payload() -> None:
    stream = io.BytesIO(b"\x7f\xff\xff\xff" + b"x" * 10)
    with pytest.raises(ProtocolError, match="limit"):
        read_frame(stream)
    assert stream.tell() == 4


def test_an_oversized_payload_is_not_written_at_all() -> None:
    stream = io.BytesIO()
    with pytest.raises(ProtocolError, match="over the limit"):
        write_frame(stream, b"12345", limit_bytes=4)
    assert stream.getvalue() == b""


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_a_buffer_gives_the_same_frames_however_the_bytes_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    data = framed(*payloads)
    buffer, found, turn = FrameBuffer(), [], 0
    while data:
        size = cuts[turn % len(cuts)]
        found += buffer.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert found == payloads
    assert buffer.is_between_frames


def test_a_buffer_refuses_an_oversized_length_at_once() -> None:
    with pytest.raises(ProtocolError, match="announced"):
        FrameBuffer(limit_bytes=8).feed(b"\0\0\0\x09")
