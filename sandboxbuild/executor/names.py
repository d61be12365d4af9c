"""The DNS answerer of a step: an allowed name gets an address that stands for it alone, any other doesn't exist.

No query goes anywhere: the stand-in is a number that the step's own loopback answers to, and the gateway looks the name up
when a connection is made. A refused name is NXDOMAIN rather than REFUSED, since resolvers ask again after REFUSED.
"""

from __future__ import annotations

import socket
import threading
from typing import Final

from sandboxbuild.errors import RegistryError
from sandboxbuild.executor.tunnel import Tunnel
from sandboxbuild.protocol.dns import (
    AAAA,
    FORMERR,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    SERVFAIL,
    A,
    BadMessage,
    Query,
    read_query,
    write_answer,
    write_error,
)

FIRST_STAND_IN: Final = 0xC6120002  # 198.18.0.2; .0 and .1 are the network's and the answerer's own (RFC 2544's range)
NAMES_LIMIT: Final = 16_384
TTL_S: Final = 600
_LOOPBACK: Final = bytes((127, 0, 0, 1))


class StandIns:
    """Which address stands for which name, in one step. Thread-safe."""

    def __init__(self) -> None:
        self._by_name: dict[str, bytes] = {}
        self._by_address: dict[str, str] = {}
        self._lock = threading.Lock()

    def address_of(self, name: str) -> bytes | None:
        """The stand-in of `name`, a new one for a new name; None when there are too many."""
        with self._lock:
            address = self._by_name.get(name)
            if address is None and len(self._by_name) < NAMES_LIMIT:
                address = (FIRST_STAND_IN + len(self._by_name)).to_bytes(4)
                self._by_name[name] = address
                self._by_address[socket.inet_ntoa(address)] = name
            return address

    def knows(self, name: str) -> bool:
        with self._lock:
            return name in self._by_name

    def name_of(self, address: str) -> str:
        """The name that `address` stands for, "" for none."""
        with self._lock:
            return self._by_address.get(address, "")


def answer(message: bytes, tunnel: Tunnel, stand_ins: StandIns) -> bytes:
    """The answer to a query, b"" where there is none to give."""
    try:
        query = read_query(message)
    except BadMessage as error:
        return b"" if error.query_id < 0 else write_error(error.query_id, NOTIMP if error.opcode else FORMERR)
    if query.name == "localhost" or query.name.endswith(".localhost"):
        return write_answer(query, NOERROR, (_LOOPBACK,) if query.kind == A else ())
    try:
        return _answer_name(query, tunnel, stand_ins)
    except RegistryError:  # the gateway is gone: the step finds out, and so does the build
        return write_answer(query, SERVFAIL)


def _answer_name(query: Query, tunnel: Tunnel, stand_ins: StandIns) -> bytes:
    """Only questions for addresses are put to the gateway: programs try many other kinds that mean nothing to a policy."""
    if query.kind not in (A, AAAA):
        return write_answer(query, NOERROR if stand_ins.knows(query.name) else NXDOMAIN)
    if not tunnel.may_ask(query.name):
        return write_answer(query, NXDOMAIN)
    address = stand_ins.address_of(query.name)
    if address is None:
        return write_answer(query, SERVFAIL)
    return write_answer(query, NOERROR, (address,) if query.kind == A else (), TTL_S)
