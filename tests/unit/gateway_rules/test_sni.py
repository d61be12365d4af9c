"""gateway.sni: the name in a ClientHello, or no reading at all."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.gateway.sni import HELLO_LIMIT, BadHello, ClientHello, read_client_hello
from tests.support.hello import client_hello, crafted_hello, server_name, vector

HELLO = client_hello("files.example.com")


def test_name_of_a_real_client_is_read() -> None:
    assert read_client_hello(HELLO) == ClientHello("files.example.com", encrypted=False)


def test_client_without_a_name_has_none() -> None:
    assert read_client_hello(client_hello(None)) == ClientHello("", encrypted=False)


def test_name_is_read_in_lower_case() -> None:
    hello = read_client_hello(crafted_hello((0, server_name(b"Files.EXAMPLE.com"))))
    assert hello is not None and hello.name == "files.example.com"


def test_every_prefix_is_waited_for() -> None:
    assert all(read_client_hello(HELLO[:length]) is None for length in range(len(HELLO)))


def test_hello_in_many_records_is_put_together() -> None:
    message = HELLO[5:]
    records = b"".join(b"\x16\x03\x01" + vector(2, message[at : at + 7]) for at in range(0, len(message), 7))
    assert read_client_hello(records) == read_client_hello(HELLO)


def test_encrypted_hello_is_noticed() -> None:
    hello = read_client_hello(crafted_hello((0, server_name(b"files.example.com")), (0xFE0D, b"\0")))
    assert hello is not None and hello.encrypted


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x02\x00\x00\x05",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        crafted_hello(message=2),
        crafted_hello(record=23),
        crafted_hello((0, server_name(b"a.example.com", b"b.example.com"))),
        crafted_hello((0, server_name(b"a.example.com")), (0, server_name(b"b.example.com"))),
        crafted_hello((0, server_name(b""))),
        crafted_hello((0, server_name(b"a.example.com", kind=1))),
        crafted_hello((0, server_name(b"\xff.example.com"))),
        crafted_hello((0, server_name(b"a.example.com") + b"\0")),
        b"\x16\x03\x01" + vector(2, b"\x01" + (HELLO_LIMIT + 1).to_bytes(3, "big")),
    ],
)
def test_anything_unclear_is_refused(data: bytes) -> None:
    with pytest.raises(BadHello):
        read_client_hello(data)


@settings(max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_name_or_a_refusal(data: bytes) -> None:
    try:
        assert read_client_hello(b"\x16\x03\x01" + data) is None or True
    except BadHello:
        pass


@settings(max_examples=150)
@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_changed_byte_never_gives_another_error(position: int, byte: int) -> None:
    changed = HELLO[:position] + bytes((byte,)) + HELLO[position + 1 :]
    try:
        read_client_hello(changed)
    except BadHello:
        pass
