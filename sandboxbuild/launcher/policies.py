"""Which policy a build has: profile, policy file and command line, put together before anything is started."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from sandboxbuild.errors import PolicyError, UsageError
from sandboxbuild.gateway.access import source_fault
from sandboxbuild.launcher.limits import host_facts
from sandboxbuild.launcher.policycache import kept, policy_key
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.launcher.stores import bundle_folder
from sandboxbuild.oci.reference import parse_reference
from sandboxbuild.policy.isolation import Allow, Isolation, SourceRules
from sandboxbuild.policy.library import Library, library
from sandboxbuild.protocol.events import BaseResolved


def resolve_policy(settings: BuildSettings, environ: Mapping[str, str], facts: Collection[str] | None = None) -> Isolation:
    """What the build is confined to. `facts` are what probes found on this host (see runtimes/*.toml); None asks them.

    Raises PolicyError for a profile or policy that is faulty or that the runtime doesn't enforce, and for a network that the
    policy doesn't grant; UsageError for an --allow-host that names no host.
    """
    facts = host_facts(environ) if facts is None else facts
    found = library(environ)
    learning = bool(settings.learn)
    key = policy_key(found, settings.profile, settings.policy_file, facts, learning=learning)
    folder = bundle_folder(environ, is_root=os.geteuid() == 0)
    isolation = kept(folder, key, lambda: read_files(found, settings.profile, settings.policy_file, facts, learning=learning))
    isolation = with_hosts(isolation, allowed_hosts(settings.allow_hosts))
    return with_network(isolation, settings.network)


def read_files(found: Library, profile_name: str, policy_file: str, facts: Collection[str], *, learning: bool) -> Isolation:
    """What profile, policy file and runtime descriptor come to. Raises PolicyError."""
    from sandboxbuild.policy.profile import load_policy, load_profile  # pydantic comes with it
    from sandboxbuild.policy.resolve import resolve
    from sandboxbuild.policy.runtime import load_runtime

    profile = load_profile(found, profile_name)
    policy = load_policy(policy_file) if policy_file else None
    runtime = load_runtime(found, profile.runtime)
    return resolve(profile, policy, runtime.name, runtime.enforced(facts), learning=learning)


def check_base(rules: SourceRules, base: BaseResolved) -> None:
    """Whether [sources] lets a build have a base: also one out of the store, which no gateway sees. Raises PolicyError."""
    if not (rules.allow or rules.require_digest or rules.digests):
        return
    reference = parse_reference(base.reference)
    declined = source_fault(rules, reference.name, reference.tag, reference.digest)
    pinned = dict(rules.digests).get(f"{reference.name}:{reference.tag}", base.digest)
    if declined is not None:
        raise PolicyError(declined.reason, hint=declined.hint)
    if not reference.digest and pinned != base.digest:
        raise PolicyError(f"{reference.name}:{reference.tag} is {base.digest}, and [sources] demands {pinned}")


def allowed_hosts(texts: Sequence[str]) -> tuple[Allow, ...]:
    """The values of --allow-host as entries of a policy. Raises UsageError."""
    if not texts:
        return ()
    from pydantic import TypeAdapter, ValidationError

    from sandboxbuild.policy.network import Entry

    adapter = TypeAdapter(Entry)
    entries = []
    for text in texts:
        try:
            entries.append(adapter.validate_python(text).value())
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"--allow-host: {reason}", hint="--allow-host files.example.com:443") from error
    return tuple(entries)


def with_hosts(isolation: Isolation, hosts: tuple[Allow, ...]) -> Isolation:
    """The same with more names for all steps. Raises PolicyError where steps have no names at all."""
    if not hosts:
        return isolation
    from sandboxbuild.policy.resolve import served_ports

    if isolation.step.network == "none":
        raise PolicyError("--allow-host names hosts for steps, and the policy gives steps no network")
    network = isolation.network._replace(run=(*hosts, *isolation.network.run))
    return isolation._replace(network=network, step=isolation.step._replace(allowed_ports=served_ports(network)))


def with_network(isolation: Isolation, mode: str) -> Isolation:
    """The same with the network of --network: default, none or host. Raises PolicyError for a host's that isn't granted."""
    step = isolation.step
    if mode == "none":
        step = step._replace(network="none", allowed_ports=(), host_network=False)
    elif mode == "host":
        if not step.host_network:
            raise PolicyError(
                "--network=host is not allowed by the policy",
                hint="a --policy-file with [network] host_network = true allows it",
            )
        step = step._replace(network="host")
    return isolation._replace(step=step)
