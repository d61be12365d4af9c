"""What profiles there are, what hosts each, and whether this host can run it: asked of the drivers, not of the files' word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.launcher.isolation import check_claims, find_host


class ProfileState(NamedTuple):
    """One profile. `missing` says why this host can't run it, "" if it can; `remedy` what would mend that."""

    name: str
    runtime: str
    description: str
    enforces: tuple[str, ...]
    missing: str
    remedy: str


def list_profiles(environ: Mapping[str, str], cache_folder: str) -> tuple[ProfileState, ...]:
    """All profiles by name. Probes runtimes that weren't probed before, which may take seconds. Raises PolicyError for a
    faulty profile.
    """
    from sandboxbuild.launcher.limits import host_facts
    from sandboxbuild.policy.library import PROFILES, library
    from sandboxbuild.policy.profile import load_profile
    from sandboxbuild.policy.runtime import load_runtime

    found = library(environ)
    facts = host_facts(environ)
    states = []
    for name in found.names(PROFILES):
        profile = load_profile(found, name)
        claims = load_runtime(found, profile.runtime).enforced(facts)
        missing, remedy, refuted = _probe(name, profile.runtime, environ, cache_folder)
        enforces = tuple(sorted(claims - refuted))
        states.append(ProfileState(name, profile.runtime, profile.description, enforces, missing, remedy))
    return tuple(states)


def _probe(profile: str, runtime: str, environ: Mapping[str, str], cache_folder: str) -> tuple[str, str, frozenset[str]]:
    """What is missing, what would mend it, and which of the runtime's claims aren't so."""
    try:
        host = find_host(runtime, environ, cache_folder)
        check_claims(profile, runtime, host)
    except SandboxbuildError as error:
        return error.message, error.hint, frozenset()
    return "", "", frozenset(claim for claim, _ in host.refuted)
