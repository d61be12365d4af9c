"""What an address is: public, or one of the kinds that only a policy's range can open, or one that nothing opens.

Sources: the IANA special-purpose address registries (RFC 6890 and its updates), RFC 4291, 6052, 8215, 3056, 4380, 5214; for
the metadata addresses, the clouds' own documentation.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

METADATA: Final = "metadata"
PUBLIC: Final = "public"

# Classes of kinds, for those whom the operator himself sends somewhere: registries, contexts (class_of).
PRIVATE: Final = "private"
LOOPBACK: Final = "loopback"
RESERVED: Final = "reserved"  # documentation, benchmarks, future use: no host of the Internet
FORBIDDEN: Final = "forbidden"  # link-local, metadata services, multicast, unspecified: never, whatever anybody says

# First match wins. The metadata rows are never opened: AWS, Google, Azure, OpenStack, DigitalOcean and Oracle (169.254.169.0),
# ECS and EKS credentials (169.254.170.0), Tencent (169.254.0.0), Scaleway (169.254.42.0, fd00:42::), Alibaba (100.100.100.200),
# Azure's wire server (168.63.129.16), Oracle classic (192.0.0.192), EC2 over IPv6 (fd00:ec2::), Google over IPv6 (fd20:ce::).
_TABLE: Final[tuple[tuple[str, str], ...]] = (
    (METADATA, "169.254.169.0/24"),
    (METADATA, "169.254.170.0/24"),
    (METADATA, "169.254.0.0/24"),
    (METADATA, "169.254.42.0/24"),
    (METADATA, "100.100.100.200/32"),
    (METADATA, "168.63.129.16/32"),
    (METADATA, "192.0.0.192/32"),
    (METADATA, "fd00:ec2::/32"),
    (METADATA, "fd00:42::/32"),
    (METADATA, "fd20:ce::/32"),
    ("this network", "0.0.0.0/8"),
    ("loopback", "127.0.0.0/8"),
    ("private", "10.0.0.0/8"),
    ("private", "172.16.0.0/12"),
    ("private", "192.168.0.0/16"),
    ("link-local", "169.254.0.0/16"),
    ("shared (carrier-grade NAT)", "100.64.0.0/10"),
    ("reserved", "192.0.0.0/24"),
    ("documentation", "192.0.2.0/24"),
    ("documentation", "198.51.100.0/24"),
    ("documentation", "203.0.113.0/24"),
    ("reserved (6to4 relay)", "192.88.99.0/24"),
    ("benchmark", "198.18.0.0/15"),
    ("multicast", "224.0.0.0/4"),
    ("reserved", "240.0.0.0/4"),
    ("unspecified", "::/128"),
    ("loopback", "::1/128"),
    ("IPv4-mapped", "::ffff:0:0/96"),
    ("IPv4-translated", "::ffff:0:0:0/96"),
    ("IPv4-compatible", "::/96"),
    ("NAT64", "64:ff9b::/96"),
    ("NAT64", "64:ff9b:1::/48"),
    ("discard-only", "100::/64"),
    ("Teredo", "2001::/32"),
    ("benchmark", "2001:2::/48"),
    ("reserved", "2001::/23"),
    ("documentation", "2001:db8::/32"),
    ("documentation", "3fff::/20"),
    ("6to4", "2002::/16"),
    ("segment routing", "5f00::/16"),
    ("unique local", "fc00::/7"),
    ("link-local", "fe80::/10"),
    ("site-local", "fec0::/10"),
    ("multicast", "ff00::/8"),
)
SPECIAL: Final[tuple[tuple[str, Network], ...]] = tuple((kind, ipaddress.ip_network(text)) for kind, text in _TABLE)
GLOBAL_V6: Final = ipaddress.ip_network("2000::/3")


_CLASSES: Final = {
    **dict.fromkeys((METADATA, "link-local", "multicast", "unspecified", "this network"), FORBIDDEN),
    **dict.fromkeys(("private", "unique local", "site-local", "shared (carrier-grade NAT)"), PRIVATE),
    "loopback": LOOPBACK,
    PUBLIC: PUBLIC,
}
# What a host's own stack or its network's translator turns back into the IPv4 address: that one counts (RFC 4291, 6052, 3056).
_CARRIERS: Final = frozenset({"IPv4-mapped", "IPv4-compatible", "NAT64", "6to4"})
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")


class Classified(NamedTuple):
    """`kind` is "public", "metadata" or a word for the range; `embedded` an IPv4 address that the IPv6 one carries."""

    kind: str
    embedded: ipaddress.IPv4Address | None = None


def classify(address: Address) -> Classified:
    """The kind of `address`. One that embeds an IPv4 metadata address is metadata, whatever carries it."""
    embedded = embedded_ipv4(address) if isinstance(address, ipaddress.IPv6Address) else None
    if embedded is not None and classify(embedded).kind == METADATA:
        return Classified(METADATA, embedded)
    for kind, network in SPECIAL:
        if address in network:
            return Classified(kind, embedded)
    if isinstance(address, ipaddress.IPv6Address) and address not in GLOBAL_V6:
        return Classified("reserved", embedded)
    return Classified(PUBLIC, embedded)


def class_of(address: Address) -> str:
    """PUBLIC, PRIVATE, LOOPBACK, RESERVED or FORBIDDEN."""
    kind, embedded = classify(address)
    if embedded is not None and kind in _CARRIERS and address not in _LOCAL_NAT64:
        return class_of(embedded)
    return _CLASSES.get(kind, RESERVED)


def embedded_ipv4(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that a translator, a tunnel or a mapped socket would take `address` for."""
    number = int(address)
    low = number & 0xFFFFFFFF
    top = number >> 32
    if top in (0, 0xFFFF, 0xFFFF0000, 0x64_FF9B << 64) and low > 1:
        return ipaddress.IPv4Address(low)
    if number >> 112 == 0x2002:
        return ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF)
    if number >> 96 == 0x2001_0000:
        return ipaddress.IPv4Address(low ^ 0xFFFFFFFF)
    if number >> 80 == 0x64_FF9B_0001:
        return _local_nat64(number)
    if top & 0xFDFFFFFF == 0x5EFE:  # ISATAP, RFC 5214 6.1
        return ipaddress.IPv4Address(low)
    return None


def _local_nat64(number: int) -> ipaddress.IPv4Address:
    """RFC 6052 2.2 for a /48 or /96 prefix: bits 48-63 and 72-87, or the last 32. The worse of the two counts."""
    last = ipaddress.IPv4Address(number & 0xFFFFFFFF)
    split = ipaddress.IPv4Address((number >> 64 & 0xFFFF) << 16 | number >> 40 & 0xFFFF)
    return split if classify(split).kind == METADATA else last


def parse_addresses(texts: Iterable[str]) -> Iterator[Address]:
    """Addresses as a resolver prints them; those with a zone, and what is none, are left out."""
    for text in texts:
        try:
            yield ipaddress.IPv6Address(text) if ":" in text and "%" not in text else ipaddress.IPv4Address(text)
        except ValueError:
            continue


def within(address: Address, ranges: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in ranges)
