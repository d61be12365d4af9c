"""Bringing up a loopback device by rtnetlink(7): works on Linux and in gVisor, which lacks the older ioctls."""

from __future__ import annotations

import _socket
import os
import struct
from typing import Final

_RTM_NEWLINK, _RTM_NEWADDR, _NLMSG_ERROR = 16, 20, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_REPLACE = 0x1, 0x4, 0x400, 0x100
_NETLINK_ROUTE: Final = 0
_IFF_UP: Final = 1
_LOOPBACK_INDEX: Final = 1  # the first device of every network namespace
_IFA_ADDRESS, _IFA_LOCAL = 1, 2


def loopback_up(addresses: tuple[tuple[str, int], ...] = ()) -> None:
    """Set `lo` up and give it IPv4 addresses beside 127.0.0.1, each with a prefix length. Raises OSError."""
    link = struct.pack("=BxHiII", _socket.AF_UNSPEC, 0, _LOOPBACK_INDEX, _IFF_UP, _IFF_UP)
    requests = [_message(_RTM_NEWLINK, 0, link)]
    for address, prefix in addresses:
        body = struct.pack("=BBBBI", _socket.AF_INET, prefix, 0, 0, _LOOPBACK_INDEX)
        packed = _socket.inet_aton(address)
        body += _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed)
        requests.append(_message(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, body))
    route = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, _NETLINK_ROUTE)
    try:
        for request in requests:
            route.send(request)
            _check(route.recv(4096))
    finally:
        route.close()


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags | _NLM_F_REQUEST | _NLM_F_ACK, 1, 0) + body


def _check(answer: bytes) -> None:
    length, kind = struct.unpack_from("=IH", answer)
    if kind == _NLMSG_ERROR and length >= 20:
        (code,) = struct.unpack_from("=i", answer, 16)
        if code:
            raise OSError(-code, os.strerror(-code))
