"""(profile, policy, what the runtime enforces) -> Isolation, or the error that says what can't be had. Fails closed."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Iterator
from typing import NamedTuple

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.document import Policy, PolicyDocument
from sandboxbuild.policy.isolation import Isolation, NetworkRules, StepIsolation
from sandboxbuild.policy.narrowing import narrowed
from sandboxbuild.policy.profile import Profile

OWN_PORTS = frozenset({53, 3128})  # the names' and the proxy's own in a step's namespace
# Ports on which a build that is being learned finds listeners: ssh, http, https, git, mail, databases, brokers, key servers.
LEARNED_PORTS = frozenset(
    {21, 22, 25, 80, 443, 587, 873, 1433, 3000, 3306, 3690, 4873, 5000, 5432, 5672, 6379, 8000, 8080, 8081, 8443, 9000, 9200}
    | {9418, 11211, 11371, 27017}
)


class Ask(NamedTuple):
    """Something that must be enforced, and the key that asks for it ("" where every build asks)."""

    claim: str
    key: tuple[str, ...]


def resolve(
    profile: Profile, policy: Policy | None, runtime: str, enforced: Collection[str], *, learning: bool = False
) -> Isolation:
    """The isolation of a build. `policy` replaces the profile's, or narrows it if it says so; None leaves it.

    `enforced` are the claims of `runtime` that hold on this host. Raises PolicyError that names the profile's or the
    policy's key and the runtime, for the first thing that the runtime doesn't enforce.
    """
    chosen = policy or profile.policy
    narrows = policy is not None and policy.document.narrows
    for asking in (profile.policy, chosen) if narrows else (chosen,):
        _demand(asking, profile, runtime, enforced)
    isolation = isolation_of(chosen, profile.name, runtime)
    if narrows:
        isolation = narrowed(isolation_of(profile.policy, profile.name, runtime), isolation, chosen)
    return _learning(isolation) if learning else isolation


def asks(document: PolicyDocument) -> Iterator[Ask]:
    """All that a policy wants of its runtime."""
    for claim in ("ids", "capabilities", "syscalls"):
        yield Ask(claim, ())
    yield Ask("host_network", ("network", "host_network")) if document.network.host_network else Ask("network", ())
    for limit in document.limits.asked():
        if limit != "build_timeout":  # the launcher's own
            yield Ask(limit, ("limits", limit))


def _demand(policy: Policy, profile: Profile, runtime: str, enforced: Collection[str]) -> None:
    """Raise for the first thing that `policy` asks for and that isn't enforced."""
    for ask in asks(policy.document):
        if ask.claim not in enforced:
            what = f"{'.'.join(ask.key)} ({policy.place(*ask.key)})" if ask.key else ask.claim
            raise PolicyError(
                f"profile {profile.name} asks for {what}, which the runtime {runtime} doesn't enforce here",
                hint="sandboxbuild doctor says what the host lacks; another runtime or policy may do",
            )


def isolation_of(policy: Policy, profile: str, runtime: str) -> Isolation:
    """What a policy comes to by itself."""
    document = policy.document
    limits = document.limits
    network = document.network.value()
    offline = document.network.mode == "none"
    step = StepIsolation(
        capabilities=document.capabilities.value(),
        network="none" if offline else "gateway",
        allowed_ports=() if offline else served_ports(network),
        memory_bytes=limits.memory or 0,
        pids=limits.pids or 0,
        open_files=limits.open_files or 0,
        cpu_seconds=max(1, round(limits.cpu_time)) if limits.cpu_time else 0,
        disk_bytes=limits.disk or 0,
        inodes=limits.inodes or 0,
        output_bytes=limits.output or 0,
        step_timeout_s=limits.step_timeout or 0.0,
        host_network=document.network.host_network,
        cpus=limits.cpu or 0.0,
        proxy=document.network.proxy,
    )
    return Isolation(
        profile=profile,
        policy=policy.file,
        runtime=runtime,
        step=step,
        network=network,
        registries=document.registries.value(),
        sources=document.sources.value(),
        syscalls=document.syscalls.value(os.path.dirname(os.path.abspath(policy.file))),
        build_timeout_s=limits.build_timeout or 0.0,
    )


def served_ports(rules: NetworkRules) -> tuple[int, ...]:
    """The ports that listeners of a step's namespace must serve. The rest of the work is the gateway's."""
    groups = (rules.run, *(rule.allow for rule in rules.rules))
    named = {port for group in groups for entry in group for port in entry.ports}
    return tuple(sorted((named | (LEARNED_PORTS if rules.learning else set())) - OWN_PORTS))


def _learning(isolation: Isolation) -> Isolation:
    """Names are let through to be learned; the addresses that may be reached stay what the ranges say."""
    network = isolation.network._replace(learning=True)
    step = isolation.step._replace(network="gateway", allowed_ports=served_ports(network))
    registries = isolation.registries._replace(from_dockerfile=True)
    return isolation._replace(network=network, step=step, registries=registries)
