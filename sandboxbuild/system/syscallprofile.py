"""A syscall profile in the moby JSON format, read strictly and turned into rules for one host: pure, and no library needed.

Arguments that the kernel takes as 32 bits are compared as 32 bits: the upper half of the register is the caller's to choose,
and a filter that looks at all 64 can be walked past. "Not equal" can't be masked, so it is a refusal of the equal value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import PolicyError

MAX_BYTES: Final = 1 << 20
_ACTIONS: Final = frozenset(
    {"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD"}
)
_OPERATORS: Final = {
    "SCMP_CMP_NE": "ne",
    "SCMP_CMP_LT": "lt",
    "SCMP_CMP_LE": "le",
    "SCMP_CMP_EQ": "eq",
    "SCMP_CMP_GE": "ge",
    "SCMP_CMP_GT": "gt",
    "SCMP_CMP_MASKED_EQ": "masked_eq",
}
_ARCHITECTURES: Final = {
    "x86_64": ("SCMP_ARCH_X86_64", "amd64"),
    "aarch64": ("SCMP_ARCH_AARCH64", "arm64"),
    "riscv64": ("SCMP_ARCH_RISCV64", "riscv64"),
    "ppc64le": ("SCMP_ARCH_PPC64LE", "ppc64le"),
    "s390x": ("SCMP_ARCH_S390X", "s390x"),
}
# (call, argument) that the kernel reads as an int or unsigned int: their man pages, section SYNOPSIS.
_NARROW: Final = frozenset(
    {("socket", 0), ("socket", 1), ("socket", 2), ("socketpair", 0), ("socketpair", 1), ("socketpair", 2), ("ioctl", 1)}
    | {("personality", 0), ("prctl", 0), ("clone", 0), ("fcntl", 1), ("unshare", 0), ("setns", 1), ("bpf", 0), ("keyctl", 0)}
    | {("setsockopt", 1), ("setsockopt", 2), ("getsockopt", 1), ("getsockopt", 2), ("kill", 1), ("madvise", 2), ("mprotect", 2)}
)
_LOW: Final = 0xFFFFFFFF
_TOP_KEYS: Final = frozenset({"comment", "defaultAction", "defaultErrnoRet", "architectures", "archMap", "syscalls"})
_RULE_KEYS: Final = frozenset({"names", "name", "action", "errnoRet", "args", "comment", "includes", "excludes"})
_FILTER_KEYS: Final = frozenset({"caps", "arches", "minKernel"})
_ARG_KEYS: Final = frozenset({"index", "value", "valueTwo", "op"})


class Comparison(NamedTuple):
    """Argument number `argument` against `value`; with "masked_eq", `mask` is what of it counts."""

    argument: int
    operator: str
    value: int
    mask: int = 0


class Rule(NamedTuple):
    """What happens to one call whose arguments meet every comparison. `errno` None allows it, 0 kills the process."""

    name: str
    errno: int | None
    comparisons: tuple[Comparison, ...] = ()


class Rules(NamedTuple):
    """`default` as Rule.errno. `refusals` are looked at first, one by one; `rules` decide what they leave."""

    default: int | None
    refusals: tuple[Rule, ...]
    rules: tuple[Rule, ...]


def read_rules(
    document: bytes,
    *,
    capabilities: Sequence[str],
    allow: Iterable[str] = (),
    deny: Iterable[str] = (),
    machine: str = "x86_64",
    kernel: tuple[int, int] = (6, 0),
) -> Rules:
    """The rules of a profile for a step with `capabilities` (without CAP_).

    `deny` wins over `allow`, and both over the profile, which names many calls only to give their refusal an errno.

    Raises PolicyError for what isn't understood: an unknown key, action or operator is never skipped.
    """
    profile = _parse(document)
    _check_architecture(profile, machine)
    default = _action(profile, "defaultAction", "defaultErrnoRet", 1)
    denied, allowed = frozenset(deny), frozenset(allow)
    found: list[Rule] = []
    for number, entry in enumerate(_list(profile, "syscalls")):
        where = f"syscalls[{number}]"
        _only(entry, _RULE_KEYS, where)
        if _applies(entry, capabilities, machine, kernel, where):
            found += [rule for rule in _entry_rules(entry, where) if rule.name not in denied | allowed or _keeps(rule, denied)]
    found += [Rule(name, None) for name in sorted(allowed - denied)]
    found += [Rule(name, 1) for name in sorted(denied)]
    return _split(default, found)


def _keeps(rule: Rule, denied: frozenset[str]) -> bool:
    """Whether a profile's rule for a call that an operator names still holds: one that refuses certain arguments does."""
    return rule.name not in denied and (rule.errno is None or bool(rule.comparisons))


def _parse(document: bytes) -> dict[str, Any]:
    if len(document) > MAX_BYTES:
        raise PolicyError(f"the syscall profile has more than {MAX_BYTES} bytes")
    try:
        profile = json.loads(document, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise PolicyError(f"the syscall profile is no JSON: {str(error)[:200]}") from error
    if not isinstance(profile, dict):
        raise PolicyError("the syscall profile is no JSON object")
    _only(profile, _TOP_KEYS, "the syscall profile")
    return profile


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _only(entry: Any, known: frozenset[str], where: str) -> None:
    if not isinstance(entry, dict):
        raise PolicyError(f"{where} is no JSON object")
    unknown = sorted(set(entry) - known)
    if unknown:
        raise PolicyError(f"{where} has the unknown key {unknown[0][:80]!a}")


def _list(entry: dict[str, Any], key: str) -> list[Any]:
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise PolicyError(f"{key} of the syscall profile is no list")
    return value


def _check_architecture(profile: dict[str, Any], machine: str) -> None:
    if machine not in _ARCHITECTURES:
        raise PolicyError(f"no syscall filter can be made for a {machine} host")
    listed = [str(entry.get("architecture")) for entry in _list(profile, "archMap") if isinstance(entry, dict)]
    listed += [str(name) for name in _list(profile, "architectures")]
    if listed and _ARCHITECTURES[machine][0] not in listed:
        raise PolicyError(f"the syscall profile is not made for {machine}")


def _action(entry: dict[str, Any], key: str, errno_key: str, usual: int) -> int | None:
    action = entry.get(key)
    if action not in _ACTIONS:
        raise PolicyError(f"{key} {action!a} can't be enforced: it must be one of {', '.join(sorted(_ACTIONS))}")
    if action == "SCMP_ACT_ALLOW":
        return None
    if action != "SCMP_ACT_ERRNO":
        return 0
    number = entry.get(errno_key)
    return usual if number is None else _integer(number, errno_key, 4095, lowest=1)


def _integer(value: Any, what: str, highest: int, *, lowest: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise PolicyError(f"{what} of the syscall profile must be a number from {lowest} to {highest}")
    return value


def _applies(entry: dict[str, Any], capabilities: Sequence[str], machine: str, kernel: tuple[int, int], where: str) -> bool:
    included, excluded = (entry.get(key) or {} for key in ("includes", "excludes"))
    for part in (included, excluded):
        _only(part, _FILTER_KEYS, where)
    held = {f"CAP_{name}" for name in capabilities}
    names = set(_ARCHITECTURES[machine])
    if not set(_list(included, "caps")) <= held or held & set(_list(excluded, "caps")):
        return False
    if (included.get("arches") and not names & set(_list(included, "arches"))) or names & set(_list(excluded, "arches")):
        return False
    if included.get("minKernel") and kernel < _version(included["minKernel"]):
        return False
    return not (excluded.get("minKernel") and kernel >= _version(excluded["minKernel"]))


def _version(text: Any) -> tuple[int, int]:
    parts = str(text).split(".")
    if len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):
        raise PolicyError(f"minKernel {str(text)[:40]!a} is no kernel version")
    return int(parts[0]), int(parts[1])


def _entry_rules(entry: dict[str, Any], where: str) -> list[Rule]:
    names = [*_list(entry, "names"), *([entry["name"]] if entry.get("name") else [])]
    if not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise PolicyError(f"{where} has no names of system calls")
    errno = _action(entry, "action", "errnoRet", 1)
    arguments = [_comparison(argument, where) for argument in _list(entry, "args")]
    if len({each.argument for each in arguments}) == len(arguments):
        return [Rule(name, errno, tuple(_narrowed(name, argument) for argument in arguments)) for name in names]
    # Several comparisons of one argument: moby's format means any of them.
    return [Rule(name, errno, (_narrowed(name, argument),)) for name in names for argument in arguments]


def _comparison(argument: Any, where: str) -> Comparison:
    _only(argument, _ARG_KEYS, where)
    operator = _OPERATORS.get(argument.get("op"))
    if operator is None:
        raise PolicyError(f"{where} has the unknown operator {str(argument.get('op'))[:80]!a}")
    index = _integer(argument.get("index", 0), "index", 5)
    value = _integer(argument.get("value", 0), "value", 2**64 - 1)
    second = _integer(argument.get("valueTwo", 0), "valueTwo", 2**64 - 1)
    # libseccomp's order: for MASKED_EQ the first value is the mask.
    return Comparison(index, operator, second, value) if operator == "masked_eq" else Comparison(index, operator, value)


def _narrowed(name: str, comparison: Comparison) -> Comparison:
    if (name, comparison.argument) not in _NARROW:
        return comparison
    if comparison.operator == "eq":
        return Comparison(comparison.argument, "masked_eq", comparison.value & _LOW, _LOW)
    if comparison.operator == "masked_eq":
        return comparison._replace(value=comparison.value & _LOW, mask=comparison.mask & _LOW)
    return comparison


def _split(default: int | None, found: list[Rule]) -> Rules:
    """Refusals that depend on arguments come first, so that a call may be allowed but for some values."""
    refusals: list[Rule] = []
    rules: list[Rule] = []
    for rule in found:
        narrow = [c for c in rule.comparisons if (rule.name, c.argument) in _NARROW and c.operator not in ("eq", "masked_eq")]
        if rule.errno is not None and rule.comparisons:
            refusals.append(rule)
        elif not narrow:
            rules.append(rule)
        elif len(rule.comparisons) == 1 and narrow[0].operator == "ne":
            refusals.append(Rule(rule.name, 1 if default is None else default, (_equal(narrow[0]),)))
            rules.append(Rule(rule.name, None))
        else:
            raise PolicyError(f"a comparison of argument {narrow[0].argument} of {rule.name} can't be enforced: it has 32 bits")
    return Rules(default, tuple(refusals), tuple(rules))


def _equal(comparison: Comparison) -> Comparison:
    return Comparison(comparison.argument, "masked_eq", comparison.value & _LOW, _LOW)
