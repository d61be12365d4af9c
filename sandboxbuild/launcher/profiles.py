"""What profiles there are, what hosts each, and whether this host can run it: asked of the drivers, not of the files' word."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, NamedTuple

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.launcher.isolation import check_claims, find_host

_NODE_FILES: Final = (".containerd.toml", ".shim.toml", ".runtimeclass.yaml")


class ProfileState(NamedTuple):
    """One profile. `missing` says why this host can't run it, "" if it can; `remedy` what would mend that. `node_files` are
    what a Kubernetes node needs for its runtime: containerd's configuration and the RuntimeClass.
    """

    name: str
    runtime: str
    description: str
    enforces: tuple[str, ...]
    missing: str
    remedy: str
    node_files: tuple[str, ...] = ()


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
        runtime = load_runtime(found, profile.runtime)
        missing, remedy, refuted = _probe(name, profile.runtime, environ, cache_folder)
        enforces = tuple(sorted(runtime.enforced(facts) - refuted))
        files = node_files(runtime.path)
        states.append(ProfileState(name, profile.runtime, profile.description, enforces, missing, remedy, files))
    return tuple(states)


def node_files(runtime_file: str) -> tuple[str, ...]:
    """What lies beside a runtime's file for a node."""
    stem = runtime_file.removesuffix(".toml")
    paths = (f"{stem}{ending}" for ending in _NODE_FILES)
    return tuple(path for path in paths if os.path.isfile(path))


def _probe(profile: str, runtime: str, environ: Mapping[str, str], cache_folder: str) -> tuple[str, str, frozenset[str]]:
    """What is missing, what would mend it, and which of the runtime's claims aren't so."""
    try:
        host = find_host(runtime, environ, cache_folder)
        check_claims(profile, runtime, host)
    except SandboxbuildError as error:
        return error.message, error.hint, frozenset()
    return "", "", frozenset(claim for claim, _ in host.refuted)
