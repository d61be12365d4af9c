"""RuntimeDescriptor: what hosts a sandbox, how it is called, and what it enforces: one file in runtimes/."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.claims import REFUTED
from sandboxbuild.policy.document import InvalidPolicy, problems_of
from sandboxbuild.policy.library import RUNTIMES, Library
from sandboxbuild.policy.network import Section
from sandboxbuild.policy.toml import read_toml

Claim = Literal[
    "network",  # a step has no network but the gateway's
    "host_network",  # a step can be given the host's network
    "ids",  # uid 0 inside is nobody's uid 0 outside
    "syscalls",  # the policy's filter is in force in each step
    "capabilities",
    "sandbox_filter",  # the bundle's linux.seccomp is in force for all of the sandbox, executor and steps
    "kernel",  # a step's system calls are not the host kernel's to serve
    "memory",
    "pids",
    "cpu",
    "cpu_time",
    "disk",
    "inodes",
    "output",
    "open_files",
    "step_timeout",
]


class Condition(Section):
    """[when.FACT]: claims that hold on hosts where a probe found FACT."""

    enforces: list[Claim]


class Probe(Section):
    """[probe]: `binary` with `arguments` must succeed; `minimum` is the oldest version, a date or numbers with dots.

    `alternatives` are further arguments of which the first that a sandbox starts with is used. `install` is the command
    that mends a program that is missing or too old.
    """

    arguments: list[str] = []
    minimum: str = ""
    alternatives: list[list[str]] = []
    install: str = ""


class RuntimeFile(Section):
    """The file's keys. `driver` is a module of runtimes; `arguments` go before the driver's own.

    `peer` says who connects to the host's sockets when the executor does: itself, or a process of the runtime's own that is
    the sandbox's id 0 outside.
    """

    description: Annotated[str, Field(min_length=1, max_length=300)]
    driver: Literal["namespaces", "ocicli", "containerd", "kubernetes"]
    binary: str = ""
    shim: str = ""
    arguments: list[str] = []
    enforces: list[Claim]
    when: dict[str, Condition] = {}
    needs: list[str] = []
    peer: Literal["executor", "root"] = "executor"
    probe: Probe = Probe()


class RuntimeDescriptor(NamedTuple):
    """A runtime by name, with its file's values."""

    name: str
    path: str
    values: RuntimeFile

    def enforced(self, facts: Collection[str]) -> frozenset[str]:
        """The claims that hold on a host where the probes found `facts`, less those that were refuted."""
        conditional = [claim for fact, condition in self.values.when.items() if fact in facts for claim in condition.enforces]
        return frozenset(claim for claim in [*self.values.enforces, *conditional] if f"{REFUTED}{claim}" not in facts)


def load_runtime(library: Library, name: str) -> RuntimeDescriptor:
    """Raises PolicyError with file and line."""
    found = library.find(RUNTIMES, name)
    located = read_toml(found.path, found.data)
    try:
        values = RuntimeFile.model_validate(located.document)
    except ValidationError as error:
        raise InvalidPolicy(problems_of(error, located, RuntimeFile)) from error
    if values.driver == "ocicli" and not values.binary:
        raise PolicyError(f"{found.path}:{located.line_of(('driver',))}: driver: ocicli needs a binary")
    return RuntimeDescriptor(name, found.path, values)
