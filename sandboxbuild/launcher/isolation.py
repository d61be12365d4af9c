"""Which driver hosts a build: the runtime's file says it, and what a host has is found out before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from sandboxbuild.errors import PolicyError
from sandboxbuild.launcher.limits import SWITCH, host_facts
from sandboxbuild.launcher.policies import resolve_policy
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.policy.claims import CORE_CLAIMS, REFUTED
from sandboxbuild.policy.isolation import Isolation
from sandboxbuild.policy.library import RUNTIMES, library
from sandboxbuild.runtimes import Runtime
from sandboxbuild.runtimes.probe import usable
from sandboxbuild.system import cgroups

if TYPE_CHECKING:
    from sandboxbuild.policy.runtime import RuntimeDescriptor


class Host(NamedTuple):
    """A driver. `connects_as_root` says that the sandbox's connections to host sockets come from its id 0. `refuted` are the
    claims of the runtime's file that aren't so on this host, and why. `shows_processes` says that the steps' processes are
    the host's.
    """

    runtime: Runtime
    connects_as_root: bool = False
    shows_processes: bool = True
    refuted: tuple[tuple[str, str], ...] = ()


def find_host(name: str, environ: Mapping[str, str], cache_folder: str) -> Host:
    """The driver for the runtime `name` of runtimes/*.toml. What probes find is remembered below `cache_folder`.

    Raises PolicyError for a runtime whose driver isn't here, IsolationError for one that this host can't run.
    """
    found = library(environ)
    file = found.find(RUNTIMES, name)

    def load() -> RuntimeDescriptor:
        from sandboxbuild.policy.runtime import load_runtime  # pydantic comes with it

        descriptor = load_runtime(found, name)
        if descriptor.values.driver not in ("namespaces", "ocicli"):
            raise PolicyError(
                f"the runtime {name} needs the driver {descriptor.values.driver}, which this version doesn't have",
                hint="--profile plain needs no runtime; `sandboxbuild profiles` lists the others",
            )
        return descriptor

    places = () if environ.get(SWITCH) == "off" else cgroups.find_places(cgroups.read_hierarchies())
    known = usable(name, file.data, load, cache_folder, host_facts(environ), places)
    return Host(known.runtime(name), known.connects_as_root, known.shows_processes, known.refuted)


def check_claims(profile: str, name: str, host: Host) -> None:
    """Raises PolicyError where a runtime isn't what a profile chooses it for: whether or not a policy asks for that."""
    for claim, reason in host.refuted:
        if claim in CORE_CLAIMS:
            raise PolicyError(
                f"profile {profile} needs the runtime {name} to enforce {claim}, as its file claims; here it doesn't: {reason}",
                hint="mend the runtime's program or file, or use another profile",
            )


def confine(settings: BuildSettings, environ: Mapping[str, str], cache_folder: str) -> tuple[Isolation, Host]:
    """What a build is confined to, and the driver that does it. Raises PolicyError where they don't agree, IsolationError."""
    isolation = resolve_policy(settings, environ)
    host = find_host(isolation.runtime, environ, cache_folder)
    check_claims(isolation.profile, isolation.runtime, host)
    if host.refuted:
        facts = host_facts(environ) | {f"{REFUTED}{claim}" for claim, _ in host.refuted}
        isolation = resolve_policy(settings, environ, facts)
    return isolation, host
