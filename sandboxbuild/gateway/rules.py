"""Where a connection may go: (rules, who asks, resolved addresses) -> Allowed or Refused. Pure; nothing is looked up here."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Final, NamedTuple, Union

from sandboxbuild.policy.addresses import METADATA, PUBLIC, Address, classify, parse_addresses, within
from sandboxbuild.policy.isolation import Allow, NetworkRules
from sandboxbuild.policy.names import METADATA_NAMES, name_fault, name_matches

RUN: Final = "run"
FETCH: Final = "fetch"


class Asker(NamedTuple):
    """Who wants to connect: `step` as the executor numbers it, `kind` run or fetch, the stage's name, the RUN's text."""

    step: str
    kind: str = RUN
    stage: str = ""
    run: str = ""


class Admitted(NamedTuple):
    """The name may be resolved: `entries` are the allow entries that name the host (and the port, if one was asked for)."""

    entries: tuple[Allow, ...]

    @property
    def ports(self) -> tuple[int, ...]:
        return tuple(sorted({port for entry in self.entries for port in entry.ports}))


class Allowed(NamedTuple):
    """`addresses` may be connected to, in the resolver's order; `rule` is the entry's text; `inspect` says to read names."""

    addresses: tuple[str, ...]
    rule: str
    inspect: bool


class Refused(NamedTuple):
    """`hint` is what would allow it. `code` for machines: name, port, address, metadata, literal, syntax, resolve."""

    reason: str
    hint: str
    code: str


def admit(rules: NetworkRules, asker: Asker, host: str, port: int | None = None) -> Union[Admitted, Refused]:
    """Whether `host` (and `port`) may be asked for at all. Comes before any resolution: a refused name makes no query."""
    fault = _fault(host, port)
    if fault is not None:
        return fault
    named = tuple(entry for entry in entries_for(rules, asker) if name_matches(entry.host, host))
    fitting = tuple(entry for entry in named if port is None or port in entry.ports)
    if fitting:
        return Admitted(fitting)
    if rules.learning:
        return Admitted((Allow(host, (port,) if port else (), text="learning"),))
    what = f"port {port} of {host}" if named else f"{host}:{port}" if port else host
    return Refused(f"{what} isn't allowed", allow_hint(asker.kind, host, port), "port" if named else "name")


def _fault(host: str, port: int | None) -> Refused | None:
    fault = name_fault(host)
    if fault:
        code = "literal" if "address" in fault else "syntax"
        return Refused(f"{printable(host)} is {fault}", "ask for a host by its name", code)
    if host in METADATA_NAMES:
        return Refused(f"{host} is a cloud's metadata service", "no policy opens it", METADATA)
    if port is not None and not 0 < port < 65536:
        return Refused(f"port {port} doesn't exist", "", "syntax")
    return None


def entries_for(rules: NetworkRules, asker: Asker) -> Iterable[Allow]:
    """The allow entries that hold for `asker`: its class's, and for a RUN those of the rules that fit stage and text."""
    if asker.kind == FETCH:
        return rules.fetch
    fitting = [rule for rule in rules.rules if _fits(rule.stage, asker.stage) and _fits(rule.run, asker.run)]
    return (*rules.run, *(entry for rule in fitting for entry in rule.allow))


def _fits(pattern: str, text: str) -> bool:
    return not pattern or fnmatchcase(text, pattern)


def choose(rules: NetworkRules, host: str, admitted: Admitted, addresses: Sequence[str]) -> Union[Allowed, Refused]:
    """The addresses of an admitted name that may be connected to. One metadata address among them refuses the name."""
    ranges = [ipaddress.ip_network(text) for text in rules.ranges]
    refused: list[tuple[Address, str]] = []
    usable: list[str] = []
    rule = admitted.entries[0]
    for address in parse_addresses(addresses):
        kind = classify(address).kind
        if kind == METADATA:
            return Refused(f"{host} resolves to {address}, a cloud's metadata service", "no policy opens it", METADATA)
        entry = _opening_entry(address, admitted.entries, ranges)
        if entry is None:
            refused.append((address, kind))
            continue
        rule = entry if not usable else rule
        usable.append(str(address))
    if usable:
        inspect = all(entry.inspect for entry in admitted.entries)
        return Allowed(tuple(usable), rule.text or rule.host, inspect)
    return _no_address(host, refused)


def _opening_entry(
    address: Address, entries: tuple[Allow, ...], ranges: list[ipaddress.IPv4Network | ipaddress.IPv6Network]
) -> Allow | None:
    """The first entry under which `address` may be used; what an IPv6 address carries must be usable as well."""
    kind, embedded = classify(address)
    for entry in entries:
        opened = [*ranges, *map(ipaddress.ip_network, entry.ranges)]
        carried_fits = embedded is None or classify(embedded).kind == PUBLIC or within(embedded, opened)
        if (kind == PUBLIC or within(address, opened)) and carried_fits:
            return entry
    return None


def _no_address(host: str, refused: list[tuple[Address, str]]) -> Refused:
    if not refused:
        return Refused(f"{host} has no address", "", "resolve")
    address, kind = refused[0]
    network = ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False)
    hint = f'open the range with [network] ranges = ["{network}"], or ranges on the entry that allows {host}'
    return Refused(f"{host} resolves to {address}, which is {kind}, not public", hint, "address")


def decide(rules: NetworkRules, asker: Asker, host: str, port: int, addresses: Sequence[str]) -> Union[Allowed, Refused]:
    """The whole decision at once, for a request whose addresses are known."""
    admitted = admit(rules, asker, host, port)
    return admitted if isinstance(admitted, Refused) else choose(rules, host, admitted, addresses)


def allow_hint(kind: str, host: str, port: int | None) -> str:
    """The policy line that would allow it."""
    return (
        f'allow it with: [network.{kind}] allow = ["{host}:{port}"]'
        if port
        else f'allow it with: [network.{kind}] allow = ["{host}"]'
    )


def printable(text: str) -> str:
    """A stranger's text, short and without anything that could move a cursor."""
    return ascii(text[:80])
