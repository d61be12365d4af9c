"""From what a build did to the smallest policy under which it passes again. Pure: audit records in, TOML out."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping

from sandboxbuild.gateway.addresses import PUBLIC, SPECIAL, classify, parse_addresses
from sandboxbuild.gateway.audit import CONNECT, FETCH, PULL, Record


def learn(records: Iterable[Record]) -> str:
    """A policy's text: the hosts and ports that steps and fetches reached, the repositories and digests that were pulled."""
    kept = tuple(records)
    steps = _reached(record for record in kept if record.kind == CONNECT)
    fetches = _reached(record for record in kept if record.kind == FETCH)
    pulls = {record.name: None for record in kept if record.kind == PULL and record.name and not record.reason}
    digests = {f"{r.name}:{r.reference}": r.digest for r in kept if r.kind == PULL and r.digest and _is_tag(r.reference)}
    sections = (
        _network("run", steps),
        _network("fetch", fetches),
        "[registries]\nfrom_dockerfile = false\npull = " + _array(map(json.dumps, sorted(pulls))),
        _digests(digests),
    )
    return "# Learned from one build: what it reached, and nothing else.\n\n" + "\n\n".join(filter(None, sections)) + "\n"


class _Reached:
    """The ports of one host, and the ranges that its addresses needed."""

    __slots__ = ("ports", "ranges")

    def __init__(self) -> None:
        self.ports: set[int] = set()
        self.ranges: set[str] = set()


def _reached(records: Iterable[Record]) -> Mapping[str, _Reached]:
    hosts: defaultdict[str, _Reached] = defaultdict(_Reached)
    for record in records:
        if record.address:
            hosts[record.name].ports.add(record.port)
            hosts[record.name].ranges.update(_ranges(record.address))
    return hosts


def _ranges(text: str) -> Iterable[str]:
    """The named ranges that an address lies in, which a policy must open; none for a public one."""
    for address in parse_addresses([text]):
        if classify(address).kind != PUBLIC:
            matches = (network for _, network in SPECIAL if network.version == address.version and address in network)
            yield str(next(matches))


def _network(section: str, hosts: Mapping[str, _Reached]) -> str:
    entries = [_entry(host, hosts[host]) for host in sorted(hosts)]
    return f"[network.{section}]\nallow = " + _array(entries)


def _entry(host: str, reached: _Reached) -> str:
    ports = sorted(reached.ports)
    if len(ports) == 1 and not reached.ranges:
        return json.dumps(f"{host}:{ports[0]}")
    ranges = f", ranges = {json.dumps(sorted(reached.ranges))}" if reached.ranges else ""
    return f"{{ host = {json.dumps(host)}, ports = {json.dumps(ports)}{ranges} }}"


def _digests(digests: Mapping[str, str]) -> str:
    if not digests:
        return ""
    return "[sources.digests]\n" + "\n".join(f"{json.dumps(name)} = {json.dumps(digests[name])}" for name in sorted(digests))


def _is_tag(reference: str) -> bool:
    return bool(reference) and ":" not in reference


def _array(entries: Iterable[str]) -> str:
    lines = "".join(f"    {entry},\n" for entry in entries)
    return f"[\n{lines}]" if lines else "[]"
