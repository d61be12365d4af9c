"""What `sandboxbuild policy check|show|diff` say: the faults of a file, what a policy comes to, how two of them differ."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.document import InvalidPolicy, Policy, Problem
from sandboxbuild.policy.isolation import Isolation
from sandboxbuild.policy.profile import load_policy
from sandboxbuild.policy.resolve import isolation_of
from sandboxbuild.units import exact_duration, exact_size

# Field of StepIsolation and Isolation, or of Budget -> the key of a policy file that says it.
_LIMIT_KEYS: Final = {
    "memory_bytes": "memory",
    "pids": "pids",
    "cpus": "cpu",
    "cpu_seconds": "cpu_time",
    "disk_bytes": "disk",
    "inodes": "inodes",
    "output_bytes": "output",
    "open_files": "open_files",
    "step_timeout_s": "step_timeout",
    "build_timeout_s": "build_timeout",
}
_BUDGET_KEYS: Final = {
    "connections": "connections",
    "connections_total": "connections_total",
    "upload_bytes": "upload",
    "download_bytes": "download",
    "connected_s": "time",
    "idle_s": "idle",
}


def check_policy(path: str) -> list[Problem]:
    """All faults of a policy file, [] for none. Raises PolicyError for a file that can't be read."""
    try:
        load_policy(path)
    except InvalidPolicy as error:
        return error.problems
    except PolicyError as error:
        file, _, rest = error.message.partition(":")
        line, colon, message = rest.partition(": ")
        if file != path or not colon or not line.isdigit():
            raise
        return [Problem(path, int(line), "", message)]
    return []


def show_policy(policy: Policy) -> str:
    """What a policy comes to, one fact a line, in the order of the sections: for people and for diffs."""
    return "".join(f"{line}\n" for line in _facts(isolation_of(policy, "", "")))


def show_isolation(isolation: Isolation) -> str:
    """The same for a resolved build."""
    head = f"profile {isolation.profile}, runtime {isolation.runtime}, policy {isolation.policy}\n"
    return head + "".join(f"{line}\n" for line in _facts(isolation))


def diff_policies(one: Policy, other: Policy) -> str:
    """A unified diff of what two policies come to; "" where they come to the same."""
    lines = difflib.unified_diff(
        show_policy(one).splitlines(keepends=True),
        show_policy(other).splitlines(keepends=True),
        _printable(one.file),
        _printable(other.file),
        n=0,
    )
    return "".join(lines)


def _facts(isolation: Isolation) -> Iterator[str]:
    network = isolation.network
    yield f"network for steps: {isolation.step.network}" + (", the host's on demand" if network.host_network else "")
    if isolation.step.proxy:
        yield "steps get HTTP_PROXY and friends"
    for title, entries in (("run", network.run), ("fetch", network.fetch)):
        for entry in sorted(entries):
            yield f"{title} may reach {_entry(entry.host, entry.ports, entry.ranges)}" + (
                "" if entry.inspect else ", not inspected"
            )
    for rule in network.rules:
        for entry in sorted(rule.allow):
            who = " and ".join(f"{key} {_quoted(value)}" for key, value in (("stage", rule.stage), ("run", rule.run)) if value)
            yield f"run of {who} may reach {_entry(entry.host, entry.ports, entry.ranges)}"
    yield from (f"addresses in {text} may be used" for text in network.ranges)
    for title, budget in (("a step", network.step_budget), ("the build", network.build_budget)):
        yield from (f"connections of {title}: {key} {text}" for key, text in _amounts(budget._asdict(), _BUDGET_KEYS))
    yield from (f"pull {pattern}" for pattern in isolation.registries.pull)
    if isolation.registries.from_dockerfile:
        yield "pull what the Dockerfile names"
    if isolation.sources.require_digest:
        yield "bases need a digest"
    yield from (f"bases may be {pattern}" for pattern in isolation.sources.allow)
    yield from (f"base {reference} must be {digest}" for reference, digest in isolation.sources.digests)
    syscalls = isolation.syscalls
    yield f"system calls: {_quoted(syscalls.file) if syscalls.file else syscalls.profile}"
    yield from (f"system call {name} allowed" for name in syscalls.allow)
    yield from (f"system call {name} denied" for name in syscalls.deny)
    yield f"capabilities: {' '.join(isolation.step.capabilities) or 'none'}"
    limits = isolation.step._asdict() | {"build_timeout_s": isolation.build_timeout_s}
    yield from (f"limit {key}: {text}" for key, text in _amounts(limits, _LIMIT_KEYS))


def _amounts(values: Mapping[str, Any], keys: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The policy's own key and text for each of the fields `keys` that isn't 0, so that it can be written as it is read."""
    for field, key in keys.items():
        value = values[field]
        if value and field.endswith("_bytes"):
            yield key, exact_size(value)
        elif value and field.endswith(("_s", "_seconds")):
            yield key, exact_duration(value)
        elif value:
            yield key, f"{value}"


def _entry(host: str, ports: tuple[int, ...], ranges: tuple[str, ...]) -> str:
    name = "any public name" if host == "*" else host
    return f"{name} port {','.join(map(str, ports))}" + (f" in {','.join(ranges)}" if ranges else "")


def _quoted(text: str) -> str:
    return json.dumps(text)


def _printable(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii").replace("\n", "?")
