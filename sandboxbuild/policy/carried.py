"""The parts of a policy that no record of a build tells, as TOML: a learned policy has them from the one it was learned under.

Without them, a policy learned under strict rules would be weaker than those rules: a policy file replaces a profile's policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from sandboxbuild.policy.capabilities import DEFAULT
from sandboxbuild.policy.isolation import BUILD_BUDGET, STEP_BUDGET, Budget, Isolation, SourceRules, SyscallChoice

Value = str | int | float | bool | list[str]

_SIZES: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
_TIMES: Final = (("h", 3600 * 10**9), ("m", 60 * 10**9), ("s", 10**9), ("ms", 10**6), ("us", 10**3))


def carried_sections(isolation: Isolation) -> tuple[str, ...]:
    """[network] (how it is served and how much, not to where), [syscalls], [capabilities] and [limits]; no empty ones.

    The host's network isn't granted again: what steps did there, nobody saw.
    """
    network = isolation.network
    sections = (
        section("network", {"proxy": isolation.step.proxy}),
        section("network.limits.step", _budget(network.step_budget, STEP_BUDGET)),
        section("network.limits.build", _budget(network.build_budget, BUILD_BUDGET)),
        section("syscalls", _syscalls(isolation.syscalls)),
        section("capabilities", _capabilities(isolation.step.capabilities)),
        section("limits", _limits(isolation)),
    )
    return tuple(filter(None, sections))


def source_section(sources: SourceRules) -> str:
    """[sources] without its pins, "" where it demands nothing."""
    return section("sources", {"require_digest": sources.require_digest, "allow": list(sources.allow)})


def section(name: str, values: Mapping[str, Value]) -> str:
    """A table of the values that say something, "" for none of them."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value]
    return "\n".join((f"[{name}]", *lines)) if lines else ""


def _syscalls(choice: SyscallChoice) -> dict[str, Value]:
    named = {"file": choice.file} if choice.file else {"profile": choice.profile}
    return {**named, "allow": list(choice.allow), "deny": list(choice.deny)}


def _capabilities(names: Iterable[str]) -> dict[str, Value]:
    kept = tuple(names)
    dropped = [name for name in DEFAULT if name not in kept]
    return {"drop": dropped, "add": [name for name in kept if name not in DEFAULT]}


def _budget(budget: Budget, default: Budget) -> dict[str, Value]:
    """What differs from what every policy has."""
    fresh = budget._replace(**{name: 0 for name in budget._fields if getattr(budget, name) == getattr(default, name)})
    return {
        "connections": fresh.connections,
        "connections_total": fresh.connections_total,
        "upload": _size(fresh.upload_bytes),
        "download": _size(fresh.download_bytes),
        "time": _duration(fresh.connected_s),
        "idle": _duration(fresh.idle_s),
    }


def _limits(isolation: Isolation) -> dict[str, Value]:
    step = isolation.step
    return {
        "memory": _size(step.memory_bytes),
        "pids": step.pids,
        "cpu": step.cpus,
        "cpu_time": _duration(step.cpu_seconds),
        "disk": _size(step.disk_bytes),
        "inodes": step.inodes,
        "output": _size(step.output_bytes),
        "open_files": step.open_files,
        "step_timeout": _duration(step.step_timeout_s),
        "build_timeout": _duration(isolation.build_timeout_s),
    }


def _size(size_bytes: int) -> str:
    """ "8GiB", "1000B"; "" for none."""
    return _in_units(size_bytes, (*_SIZES, ("B", 1)))


def _duration(seconds: float) -> str:
    """ "90m", "1500ms"; "" for none."""
    return _in_units(round(seconds * 1e9), (*_TIMES, ("ns", 1)))


def _in_units(number: int, units: Iterable[tuple[str, int]]) -> str:
    """A whole number of the largest unit that it is one of."""
    fitting = (f"{number // size}{unit}" for unit, size in units if number % size == 0)
    return next(fitting) if number else ""
