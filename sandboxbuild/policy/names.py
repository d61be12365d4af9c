"""Host names, as strictly as a boundary needs them: one spelling, no address in disguise, no trick with dots."""

from __future__ import annotations

import re
from typing import Final

NAME_LIMIT: Final = 253  # RFC 1035 2.3.4, less the root's dot
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)

# Names under which clouds serve credentials to machines; their addresses are refused as well.
METADATA_NAMES: Final = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "metadata",
        "metadata.azure.com",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
        "metadata.tencentyun.com",
        "metadata.platformequinix.com",
        "metadata.packet.net",
        "rancher-metadata",
    }
)


def name_fault(name: str) -> str:
    """Why `name` can't be a host name that is let through, or "". Lower case, ASCII (IDNA's A-labels), no trailing dot.

    An address in any spelling of inet_aton(3) ends in a number, so a last label that is one is refused (as the WHATWG URL
    standard's "ends in a number checker" does).
    """
    if not name:
        return "an empty name"
    if len(name) > NAME_LIMIT:
        return f"a name of more than {NAME_LIMIT} characters"
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]) or ":" in name:
        return "an address instead of a name"
    for label in labels:
        if not _LABEL.fullmatch(label):
            return "a name that isn't lower-case letters, digits, hyphens and single dots"
    return ""


def pattern_fault(pattern: str) -> str:
    """Why `pattern` can't be the host of an allow entry, or "". A wildcard is a whole first label above two others."""
    if pattern == "*":
        return "a wildcard for every name (any_name = true says that on purpose)"
    if not pattern.startswith("*."):
        return name_fault(pattern)
    rest = pattern[2:]
    fault = name_fault(rest)
    if not fault and "." not in rest:
        return "a wildcard over a whole top-level domain"
    return fault


def name_matches(pattern: str, name: str) -> bool:
    """Whether `name` is meant by `pattern`: equal, below "*.example.org", or any name of two labels and more for "*"."""
    if pattern == "*":
        return "." in name
    if pattern.startswith("*."):
        return name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def pattern_covers(wide: str, narrow: str) -> bool:
    """Whether each name that `narrow` matches is matched by `wide`."""
    if wide in ("*", narrow):
        return wide == narrow or narrow.startswith("*.") or "." in narrow
    if not wide.startswith("*."):
        return False
    return narrow.removeprefix("*").endswith(wide[1:]) and narrow.removeprefix("*.") != wide[2:]
