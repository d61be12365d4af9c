"""Which part of the Internet an address belongs to, and connections that go only where that is allowed.

The address that was checked is the one that is connected to, so that a name can't change its meaning in between.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

from sandboxbuild.errors import RegistryError

PUBLIC: Final = "public"
PRIVATE: Final = "private"
LOOPBACK: Final = "loopback"
RESERVED: Final = "reserved"  # documentation, benchmarks, future use: no host of the Internet
FORBIDDEN: Final = "forbidden"  # link-local, metadata services, multicast, unspecified: never, whatever anybody says

# Metadata services outside the link-local ranges: AWS by IPv6, Alibaba, Azure's host agent, Oracle's older one.
_METADATA: Final = frozenset(
    ipaddress.ip_address(text) for text in ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")  # RFC 6598
_EMBEDDING: Final = tuple(ipaddress.ip_network(text) for text in ("64:ff9b::/96", "::/96"))  # RFC 6052, RFC 4291
_TRANSLATED: Final = ipaddress.ip_network("64:ff9b:1::/48")  # RFC 8215


class AddressRefused(RegistryError):
    """A name leads only to addresses that this connection may not go to."""


def classify(text: str) -> str:
    """The class of a literal address. IPv4 inside IPv6 counts as the IPv4 address. Raises ValueError for other text."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return classify(str(embedded))
        if address in _TRANSLATED or address.teredo is not None:
            return RESERVED
    if address in _METADATA or address.is_link_local or address.is_multicast or address.is_unspecified:
        return FORBIDDEN
    if address.is_loopback:
        return LOOPBACK
    if isinstance(address, ipaddress.IPv4Address) and address in _SHARED:
        return PRIVATE
    if address.is_global and not address.is_reserved:
        return PUBLIC
    return PRIVATE if _is_site_local(address) else RESERVED


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if any(address in network for network in _EMBEDDING) and int(address) > 1:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _is_site_local(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    networks = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16") if address.version == 4 else ("fc00::/7", "fec0::/10")
    return any(address in ipaddress.ip_network(network) for network in networks)


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


def connect(host: str, port: int, allowed: Callable[[str, str], bool], timeout_s: float) -> tuple[socket.socket, str]:
    """A TCP connection to `host`, and the address it went to. `allowed(address, class)` is asked for each address.

    Raises AddressRefused when no address is allowed, OSError when none answers.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys((info[0], info[4]) for info in found))
    permitted = [(family, place) for family, place in addresses if allowed(str(place[0]), classify(str(place[0])))]
    if not permitted:
        kinds = ", ".join(sorted({classify(str(place[0])) for _, place in addresses}))
        raise AddressRefused(f"{host} leads to {kinds} addresses, where this connection may not go")
    return _connect_first(permitted, timeout_s)


def _connect_first(places: Sequence[tuple[int, Any]], timeout_s: float) -> tuple[socket.socket, str]:
    last: OSError | None = None
    for family, place in places:
        connection = socket.socket(family, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_s)
            connection.connect(place)
        except OSError as error:
            connection.close()
            last = error
            continue
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection, str(place[0])
    raise last or OSError("no address")
