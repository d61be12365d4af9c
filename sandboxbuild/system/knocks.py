"""Connections that a step begins to stand-in addresses, seen on its loopback even where nobody listens: for errors alone."""

from __future__ import annotations

import socket
import struct
from typing import Final

from sandboxbuild.system import libc

KNOCK_BYTES: Final = 64
_IPV4: Final = 0x0800  # ETH_P_IP
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_LOAD_INDEXED, _HEADER_LENGTH, _AND, _RETURN = 0x50, 0xB1, 0x54, 0x06
_EQUAL, _ANY_BIT = 0x15, 0x45

# Classic BPF over the IPv4 header: TCP, first fragment, to 198.18.0.0/15, SYN without ACK.
_FILTER: Final = (
    (_LOAD_BYTE, 0, 0, 9),
    (_EQUAL, 0, 9, socket.IPPROTO_TCP),
    (_LOAD_WORD, 0, 0, 16),
    (_AND, 0, 0, 0xFFFE0000),
    (_EQUAL, 0, 6, 0xC6120000),
    (_LOAD_HALF, 0, 0, 6),
    (_ANY_BIT, 4, 0, 0x1FFF),
    (_HEADER_LENGTH, 0, 0, 0),
    (_LOAD_INDEXED, 0, 0, 13),
    (_AND, 0, 0, 0x12),
    (_EQUAL, 1, 0, 0x02),
    (_RETURN, 0, 0, 0),
    (_RETURN, 0, 0, KNOCK_BYTES),
)


def open_knocks() -> socket.socket:
    """A socket on this network namespace's loopback that gets each such packet's head. Needs NET_RAW; raises OSError."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0)  # 0: nothing yet
    try:
        libc.attach_filter(opened.fileno(), b"".join(struct.pack("=HBBI", *one) for one in _FILTER))
        opened.bind(("lo", _IPV4))
    except BaseException:
        opened.close()
        raise
    return opened


def read_knock(packet: bytes) -> tuple[str, int]:
    """The address and port of a packet's head; ("", 0) for what is too short to have them."""
    header = (packet[0] & 0x0F) * 4 if packet else 0
    if header < 20 or len(packet) < header + 4:
        return "", 0
    return socket.inet_ntoa(packet[16:20]), int.from_bytes(packet[header + 2 : header + 4])
