"""From what a build did to the smallest policy under which it passes again. Pure: audit records in, TOML out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from sandboxbuild.gateway.audit import CONNECT, FETCH, NAME, PULL, Record
from sandboxbuild.policy.addresses import PUBLIC, SPECIAL, classify, parse_addresses
from sandboxbuild.policy.carried import carried_sections, source_section
from sandboxbuild.policy.isolation import Allow, Isolation
from sandboxbuild.policy.names import name_matches

_HEAD: Final = """\
# Learned from one build: what it reached, and nothing else. What no record tells (syscalls, capabilities, limits) is what it
# ran under.
"""


def learn(records: Iterable[Record], isolation: Isolation) -> str:
    """A policy's text: the hosts and ports that steps and fetches reached, the repositories and digests that were pulled.

    All the rest is that of `isolation`, under which the build ran. A name that was looked up and never connected to has no
    port that could be allowed: a comment tells of it.
    """
    kept = tuple(records)
    network = isolation.network
    steps = _reached((r for r in kept if r.kind == CONNECT), (*network.run, *(a for rule in network.rules for a in rule.allow)))
    fetches = _reached((r for r in kept if r.kind == FETCH), network.fetch)
    pulls = {record.name: None for record in kept if record.kind == PULL and record.name and not record.reason}
    digests = {f"{r.name}:{r.reference}": r.digest for r in kept if r.kind == PULL and r.digest and _is_tag(r.reference)}
    idle = sorted({record.name for record in kept if record.kind == NAME} - {host for host, _ in steps})
    sections = (
        "\n".join((_network("run", steps), *(f"# looked up, and never connected to: {json.dumps(name)}" for name in idle))),
        _network("fetch", fetches),
        "[registries]\nfrom_dockerfile = false\npull = " + _array(map(json.dumps, sorted(pulls))),
        source_section(isolation.sources),
        _digests({**dict(isolation.sources.digests), **digests}),
        *carried_sections(isolation),
    )
    return "\n\n".join((_HEAD.rstrip(), *filter(None, sections))) + "\n"


class _Reached:
    """The ports of one host, and the ranges that its addresses needed."""

    __slots__ = ("ports", "ranges")

    def __init__(self) -> None:
        self.ports: set[int] = set()
        self.ranges: set[str] = set()


def _reached(records: Iterable[Record], entries: Iterable[Allow]) -> Mapping[tuple[str, bool], _Reached]:
    """By host and whether the names on the wire are read, which one of `entries` may have switched off."""
    unread = [entry for entry in entries if not entry.inspect]
    hosts: defaultdict[tuple[str, bool], _Reached] = defaultdict(_Reached)
    for record in records:
        if record.address:
            is_read = not any(name_matches(entry.host, record.name) and record.port in entry.ports for entry in unread)
            hosts[record.name, is_read].ports.add(record.port)
            hosts[record.name, is_read].ranges.update(_ranges(record.address))
    return hosts


def _ranges(text: str) -> Iterable[str]:
    """The named ranges that an address lies in, which a policy must open; none for a public one."""
    for address in parse_addresses([text]):
        if classify(address).kind != PUBLIC:
            matches = (network for _, network in SPECIAL if network.version == address.version and address in network)
            yield str(next(matches))


def _network(section: str, hosts: Mapping[tuple[str, bool], _Reached]) -> str:
    entries = [_entry(host, hosts[host, is_read], is_read=is_read) for host, is_read in sorted(hosts)]
    return f"[network.{section}]\nallow = " + _array(entries)


def _entry(host: str, reached: _Reached, *, is_read: bool) -> str:
    ports = sorted(reached.ports)
    if len(ports) == 1 and not reached.ranges and is_read:
        return json.dumps(f"{host}:{ports[0]}")
    ranges = f", ranges = {json.dumps(sorted(reached.ranges))}" if reached.ranges else ""
    unread = "" if is_read else ", inspect = false"
    return f"{{ host = {json.dumps(host)}, ports = {json.dumps(ports)}{ranges}{unread} }}"


def _digests(digests: Mapping[str, str]) -> str:
    if not digests:
        return ""
    return "[sources.digests]\n" + "\n".join(f"{json.dumps(name)} = {json.dumps(digests[name])}" for name in sorted(digests))


def _is_tag(reference: str) -> bool:
    return bool(reference) and ":" not in reference


def _array(entries: Iterable[str]) -> str:
    lines = "".join(f"    {entry},\n" for entry in entries)
    return f"[\n{lines}]" if lines else "[]"
