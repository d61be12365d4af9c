"""What is read out of the heads of packets that a step sends: nothing for what is cut or too short."""

from __future__ import annotations

import socket

from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.system.knocks import read_knock

HEADER = bytes((0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0)) + socket.inet_aton("127.0.0.1") + socket.inet_aton("198.18.0.2")
TCP = (40000).to_bytes(2) + (8080).to_bytes(2) + bytes(16)


def test_the_address_and_port_that_a_connection_is_begun_to_are_read() -> None:
    assert read_knock(HEADER + TCP) == ("198.18.0.2", 8080)


def test_options_of_the_address_header_are_skipped() -> None:
    assert read_knock(bytes((0x46,)) + HEADER[1:] + bytes(4) + TCP) == ("198.18.0.2", 8080)


@given(st.binary(max_size=64))
@settings(max_examples=30)
def test_any_bytes_give_an_address_or_nothing(packet: bytes) -> None:
    address, port = read_knock(packet)
    assert (not address and not port) or (socket.inet_aton(address) and 0 <= port < 65536)
