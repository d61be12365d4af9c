"""EXPOSE."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.dockerfile import limits
from sandboxbuild.dockerfile.gotext import parse_uint, plain_list
from sandboxbuild.dockerfile.instructions.base import Lowered, Raw, at_least_one, read_flags
from sandboxbuild.dockerfile.spans import Fault

if TYPE_CHECKING:
    from sandboxbuild.dockerfile.scope import Scope

_IPV4: Final = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])){3}"
_GROUP: Final = r"[0-9A-Fa-f]{1,4}"


class Expose(NamedTuple):
    raw: Raw
    references: tuple[str, ...] = ()

    def lower(self, scope: Scope) -> Lowered:
        ports: list[str] = []
        for operand in sorted(self.raw.words):
            for word in scope.expand_words(operand):
                scope.lint.expose_format(word, self.raw.place)
                ports += parse_ports(word)
                scope.shared.budget.spend(len(ports) * limits.PORT_COST)
                if len(ports) > limits.EXPOSED_PORTS:
                    raise Fault("EXPOSE names too many ports", at=word)
        scope.config = scope.config._replace(exposed_ports=tuple(dict.fromkeys((*scope.config.exposed_ports, *ports))))
        return Lowered(f"EXPOSE {plain_list(ports)}")


def parse_expose(raw: Raw) -> Expose:
    at_least_one(raw)
    read_flags(raw)
    return Expose(raw)


def parse_ports(text: str) -> tuple[str, ...]:
    """`[[ip:]host:]container[/protocol]`, ranges too, to ("80/tcp", ...). What is said of the host is checked and dropped.

    Source: moby/buildkit frontend/dockerfile/dockerfile2llb/convert_expose.go. Raises a Fault.
    """
    parts = text.split(":")
    address, host, container = ":".join(parts[:-2]), parts[-2] if len(parts) > 1 else "", parts[-1]
    port, _, protocol = container.partition("/")
    if not port:
        raise Fault(f"invalid port: {text[:100]!r}: no port specified", at=text)
    if protocol.lower() not in ("", "tcp", "udp", "sctp"):
        raise Fault(f"invalid proto: {protocol[:100]}", at=text, hint="it is tcp, udp or sctp")
    if address and not _is_address(address):
        raise Fault(f"invalid IP address: {address[:100]}", at=text)
    first, last = _range(port, "containerPort", text)
    if host:
        host_first, host_last = _range(host, "hostPort", text)
        if last - first != host_last - host_first and first != last:
            raise Fault(f"invalid ranges specified for container and host Ports: {port} and {host}", at=text)
    return tuple(f"{number}/{protocol.lower() or 'tcp'}" for number in range(first, last + 1))


def _range(text: str, what: str, operand: str) -> tuple[int, int]:
    parts = text.split("-")
    numbers = [parse_uint(part, 10, 16) for part in parts]
    first, last = numbers[0], numbers[-1]
    if len(parts) > 2 or first is None or last is None or last < first:
        raise Fault(f"invalid {what}: {text[:100]}", at=operand)
    return first, last


def _is_address(text: str) -> bool:
    """An IPv4 address, or an IPv6 one in brackets or not. Go's net.ParseIP takes "::" alone, too."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if re.fullmatch(_IPV4, bare):
        return True
    head, double, tail = bare.partition("::")
    groups = _groups(head) + _groups(tail)
    if "::" in tail or not all(re.fullmatch(_GROUP, group) for group in groups[:-1]):
        return False
    if groups and not re.fullmatch(_GROUP, groups[-1]) and not re.fullmatch(_IPV4, groups[-1]):
        return False
    count = len(groups) + (1 if groups and "." in groups[-1] else 0)
    return count < 8 if double else count == 8


def _groups(text: str) -> list[str]:
    return text.split(":") if text else []
