"""Which driver hosts a build: the runtime's file says it, and what a host has is found out before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sandboxbuild.errors import PolicyError
from sandboxbuild.runtimes import Runtime
from sandboxbuild.runtimes.namespaces import NamespacesRuntime

EMBEDDED = "namespaces"


class Host(NamedTuple):
    """A driver. `connects_as_root` says that the sandbox's connections to host sockets come from its id 0."""

    runtime: Runtime
    connects_as_root: bool = False


def find_host(name: str, environ: Mapping[str, str], cache_folder: str) -> Host:
    """The driver for the runtime `name` of runtimes/*.toml. What probes find is remembered below `cache_folder`.

    Raises PolicyError for a runtime whose driver isn't here, IsolationError for one that this host can't run.
    """
    if name == EMBEDDED:
        return Host(NamespacesRuntime())
    from sandboxbuild.policy.library import library
    from sandboxbuild.policy.runtime import load_runtime
    from sandboxbuild.runtimes.ocicli import OciRuntime
    from sandboxbuild.runtimes.probe import usable

    values = load_runtime(library(environ), name).values
    if values.driver == "namespaces":
        return Host(NamespacesRuntime())
    if values.driver != "ocicli":
        raise PolicyError(
            f"the runtime {name} needs the driver {values.driver}, which this version doesn't have",
            hint="--profile plain needs no runtime; `sandboxbuild profiles` lists the others",
        )
    runtime = OciRuntime(name, values.binary, usable(name, values, cache_folder).arguments)
    return Host(runtime, values.peer == "root")
