"""Connections that go only to those parts of the Internet where they may.

The address that was checked is the one that is connected to, so that a name can't change its meaning in between.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence

from sandboxbuild.errors import RegistryError
from sandboxbuild.policy.addresses import LOOPBACK, class_of

Lookup = Callable[[str], "list[str]"]
"""The addresses of a name, as text; an empty list for none. Raises OSError."""


class AddressRefused(RegistryError):
    """A name leads only to addresses that this connection may not go to."""


class NoAddress(RegistryError):
    """A name that doesn't exist, or has no address: asking again at once is of no use."""


def classify(text: str) -> str:
    """The class of a literal address (policy.addresses). Raises ValueError for other text."""
    return class_of(ipaddress.ip_address(text.partition("%")[0]))


def is_literal(host: str) -> bool:
    try:
        classify(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_loopback_host(host: str) -> bool:
    """Whether a host's name alone (without port) says loopback: localhost, 127.0.0.0/8, ::1."""
    bare = host.strip("[]").lower()
    return bare == "localhost" or (is_literal(bare) and classify(bare) == LOOPBACK)


def system_lookup(name: str) -> list[str]:
    """getaddrinfo(3): the host's own way."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def connect(
    host: str, port: int, allowed: Callable[[str, str], bool], timeout_s: float, lookup: Lookup = system_lookup
) -> tuple[socket.socket, str]:
    """A TCP connection to `host`, and the address it went to. `allowed(address, class)` is asked for each address.

    Raises AddressRefused when no address is allowed, NoAddress when there is none, OSError when none answers.
    """
    bare = host.strip("[]")
    addresses = [bare] if is_literal(bare) else system_lookup(bare) if is_loopback_host(bare) else lookup(bare)
    if not addresses:
        raise NoAddress(f"{host} has no address")
    permitted = [address for address in addresses if allowed(address, classify(address))]
    if not permitted:
        kinds = ", ".join(sorted({classify(address) for address in addresses}))
        raise AddressRefused(f"{host} leads to {kinds} addresses, where this connection may not go")
    return _connect_first(permitted, port, timeout_s)


def _connect_first(addresses: Sequence[str], port: int, timeout_s: float) -> tuple[socket.socket, str]:
    last: OSError | None = None
    for address in addresses:
        connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect((address, port))
        except OSError as error:
            connection.close()
            last = error
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, address
    raise last or OSError("no address")
