"""A policy that narrows a profile's: what it leaves out is the profile's; to grant more than that is an error."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.document import Policy
from sandboxbuild.policy.isolation import Allow, Budget, Isolation, NetworkRules, SourceRules, StepIsolation, SyscallChoice
from sandboxbuild.policy.names import pattern_covers


def narrowed(base: Isolation, asked: Isolation, policy: Policy) -> Isolation:
    """The isolation with each section of `policy` that its file has, and `base`'s elsewhere. Raises PolicyError with a line."""
    given = policy.document.model_fields_set
    network = _network(base.network, asked.network, policy) if "network" in given else base.network
    step = _step(base.step, asked.step, policy)
    if "registries" in given and asked.registries != base.registries:
        wider = set(asked.registries.pull) - set(base.registries.pull)
        if wider or asked.registries.from_dockerfile > base.registries.from_dockerfile:
            raise _wider(policy, ("registries",), "pulls")
    return base._replace(
        policy=policy.file,
        network=network,
        step=step._replace(allowed_ports=asked.step.allowed_ports, host_network=network.host_network, proxy=asked.step.proxy)
        if "network" in given
        else step,
        registries=asked.registries if "registries" in given else base.registries,
        sources=_sources(base.sources, asked.sources, policy),
        syscalls=_syscalls(base.syscalls, asked.syscalls, policy) if "syscalls" in given else base.syscalls,
        build_timeout_s=_lower(base.build_timeout_s, asked.build_timeout_s),
    )


def _wider(policy: Policy, key: tuple[str | int, ...], what: str) -> PolicyError:
    return PolicyError(
        f"{policy.place(*key)}: {'.'.join(map(str, key))}: grants {what} that the profile doesn't, in a policy that narrows it",
        hint="leave it out, or leave narrows out to replace the profile's policy",
    )


def _network(base: NetworkRules, asked: NetworkRules, policy: Policy) -> NetworkRules:
    for name in ("run", "fetch"):
        if not _within(getattr(asked, name), getattr(base, name), base.ranges, asked.ranges):
            raise _wider(policy, ("network", name, "allow"), "names, ports or ranges")
    for number, rule in enumerate(asked.rules):
        if rule not in base.rules and not _within(rule.allow, base.run, base.ranges, asked.ranges):
            raise _wider(policy, ("network", "rule", number), "names, ports or ranges")
    if asked.host_network and not base.host_network:
        raise _wider(policy, ("network", "host_network"), "the host's network")
    if not _covered(asked.ranges, base.ranges):
        raise _wider(policy, ("network", "ranges"), "ranges")
    return asked._replace(
        step_budget=_lower_budget(base.step_budget, asked.step_budget),
        build_budget=_lower_budget(base.build_budget, asked.build_budget),
    )


def _within(asked: Iterable[Allow], base: Iterable[Allow], base_ranges: tuple[str, ...], ranges: tuple[str, ...]) -> bool:
    bases = tuple(base)
    return all(any(_entry_within(one, other, base_ranges, ranges) for other in bases) for one in asked)


def _entry_within(asked: Allow, base: Allow, base_ranges: tuple[str, ...], ranges: tuple[str, ...]) -> bool:
    return (
        pattern_covers(base.host, asked.host)
        and set(asked.ports) <= set(base.ports)
        and asked.inspect >= base.inspect
        and _covered((*asked.ranges, *ranges), (*base.ranges, *base_ranges))
    )


def _covered(asked: Iterable[str], base: Iterable[str]) -> bool:
    wide = [ipaddress.ip_network(text) for text in base]
    return all(
        any(one.version == other.version and one.subnet_of(other) for other in wide)  # type: ignore[arg-type]  # same version
        for one in map(ipaddress.ip_network, asked)
    )


def _step(base: StepIsolation, asked: StepIsolation, policy: Policy) -> StepIsolation:
    if "capabilities" in policy.document.model_fields_set and not set(asked.capabilities) <= set(base.capabilities):
        raise _wider(policy, ("capabilities",), "capabilities")
    lowered: dict[str, Any] = {
        name: _lower(getattr(base, name), getattr(asked, name))
        for name, default in StepIsolation._field_defaults.items()
        if type(default) in (int, float)
    }
    capabilities = asked.capabilities if "capabilities" in policy.document.model_fields_set else base.capabilities
    network = "none" if asked.network == "none" else base.network
    return base._replace(capabilities=capabilities, network=network, **lowered)


def _sources(base: SourceRules, asked: SourceRules, policy: Policy) -> SourceRules:
    if base.allow and asked.allow and not set(asked.allow) <= set(base.allow):
        raise _wider(policy, ("sources", "allow"), "sources")
    pins = dict(asked.digests)
    if any(pins.get(name, digest) != digest for name, digest in base.digests):
        raise _wider(policy, ("sources", "digests"), "another digest")
    return SourceRules(
        base.require_digest or asked.require_digest,
        asked.allow or base.allow,
        tuple(sorted({**pins, **dict(base.digests)}.items())),
    )


def _syscalls(base: SyscallChoice, asked: SyscallChoice, policy: Policy) -> SyscallChoice:
    same_filter = (asked.profile, asked.file) == (base.profile, base.file)
    if not (same_filter or (asked.profile == "strict" and base.profile == "default")) or set(asked.allow) - set(base.allow):
        raise _wider(policy, ("syscalls",), "system calls")
    return asked._replace(deny=tuple(sorted({*base.deny, *asked.deny})))


def _lower(base: float, asked: float) -> float:
    """The smaller of two limits, 0 being none."""
    return min(base, asked) if base and asked else base or asked


def _lower_budget(base: Budget, asked: Budget) -> Budget:
    return Budget(*(_lower(one, other) for one, other in zip(base, asked, strict=True)))  # type: ignore[arg-type]  # each keeps its type
