"""A syscall profile in the moby JSON format, read strictly and turned into rules for one host: pure, and no library needed.

Arguments that the kernel takes as 32 bits are compared as 32 bits: the upper half of the register is the caller's to choose,
and a filter that looks at all 64 can be walked past. Less, greater and unequal can't be masked, so each becomes the blocks of
values that it accepts. The format is moby's (profiles/seccomp, which conditions rules) and runtime-spec's (config-linux.md,
Seccomp), with the names of errnos that containers/common has beside the numbers.
"""

from __future__ import annotations

import errno as errnos
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import PolicyError

MAX_BYTES: Final = 1 << 20
_MAX_WAYS: Final = 256  # in which one rule may be met
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
# Arguments that the kernel reads as an int or unsigned int, by call (SYSCALL_DEFINE in Linux 6.12; clone's: lower_32_bits).
_NARROW_ARGUMENTS: Final = (
    "accept4:3 access:1 add_key:4 arch_prctl:0 bpf:0,2 clock_getres:0 clock_gettime:0 clock_nanosleep:0,1 clock_settime:0 "
    "clone:0 close_range:0,1,2 dup2:0,1 dup3:0,1,2 epoll_create1:0 epoll_ctl:0,1 eventfd2:0,1 faccessat:2 faccessat2:2,3 "
    "fadvise64:3 fallocate:1 fanotify_init:0,1 fanotify_mark:1 fchmodat2:3 fchownat:4 fcntl:1 finit_module:2 flock:1 "
    "fsconfig:1,4 fsmount:1,2 fsopen:1 fspick:2 futex:1 getitimer:0 getpriority:0 getrandom:2 getrusage:0 getsockopt:1,2 "
    "inotify_init1:0 io_uring_enter:3 io_uring_register:1 io_uring_setup:0 ioctl:1 ioprio_get:0 ioprio_set:0,2 kcmp:0,1,2 "
    "keyctl:0 kill:0,1 landlock_create_ruleset:2 linkat:4 lseek:2 madvise:2 membarrier:0,1 memfd_create:1 memfd_secret:0 "
    "mknod:1 mknodat:2 mlock2:2 mlockall:0 mount_setattr:2 move_mount:4 mq_open:1 msgctl:1 msgget:1 msync:2 "
    "name_to_handle_at:4 newfstatat:3 open:1 open_by_handle_at:2 open_tree:2 openat:2 perf_event_open:1,2,3 personality:0 "
    "pidfd_getfd:1,2 pidfd_open:0,1 pidfd_send_signal:1,3 pipe2:1 pkey_mprotect:3 prctl:0 prlimit64:0,1 process_madvise:3,4 "
    "quotactl:0 quotactl_fd:1 reboot:0,1,2 recvfrom:3 recvmsg:2 renameat2:4 rt_sigaction:0 rt_sigqueueinfo:1 "
    "sched_setscheduler:1 seccomp:0,1 semctl:1,2 semget:1,2 sendmsg:2 sendto:3 setitimer:0 setns:0,1 setpriority:0,1 "
    "setsockopt:1,2 shmat:2 shmctl:1 shmget:0,2 shutdown:1 signalfd4:3 socket:0,1,2 socketpair:0,1,2 splice:5 statx:2,3 "
    "swapon:1 sync_file_range:3 syslog:0 tee:3 tgkill:2 timer_create:0 timer_settime:1 timerfd_create:0,1 timerfd_settime:1 "
    "tkill:1 umount2:1 unlinkat:2 unshare:0 userfaultfd:0 vmsplice:3 wait4:0,2 waitid:0,3"
)
_NARROW: Final = frozenset(
    (name, int(index))
    for name, _, indexes in (entry.partition(":") for entry in _NARROW_ARGUMENTS.split())
    for index in indexes.split(",")
)
_LOW: Final = 0xFFFFFFFF
# No listener and no flag that would have to do something: a step has one thread (TSYNC), and keeps what SPEC_ALLOW gives up.
_FLAGS: Final = frozenset({"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"})
_TOP_KEYS: Final = frozenset(
    {"comment", "defaultAction", "defaultErrnoRet", "defaultErrno", "architectures", "archMap", "flags", "syscalls"}
)
_RULE_KEYS: Final = frozenset({"names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes"})
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
    """`default` as Rule.errno. `refusals` are looked at first, one by one; `rules` decide what they leave. `names` are all that
    the profile knows, those of rules for other steps and hosts too.
    """

    default: int | None
    refusals: tuple[Rule, ...]
    rules: tuple[Rule, ...]
    names: frozenset[str] = frozenset()


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
    unknown = set(map(str, _list(profile, "flags"))) - _FLAGS
    if unknown:
        raise PolicyError(f"the flag {min(unknown)[:80]!a} of the syscall profile can't be had")
    default = _action(profile, "defaultAction", "defaultErrno")
    denied, allowed = frozenset(deny), frozenset(allow)
    found: list[Rule] = []
    names = denied | allowed
    for number, entry in enumerate(_list(profile, "syscalls")):
        where = f"syscalls[{number}]"
        _only(entry, _RULE_KEYS, where)
        rules = _entry_rules(entry, where)
        names |= {rule.name for rule in rules}
        if _applies(entry, capabilities, machine, kernel, where):
            found += [rule for rule in rules if rule.name not in denied | allowed or _keeps(rule, denied)]
    found += [Rule(name, None) for name in sorted(allowed - denied)]
    found += [Rule(name, 1) for name in sorted(denied)]
    return _split(default, found)._replace(names=names)


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


def _action(entry: dict[str, Any], key: str, errno_key: str) -> int | None:
    """The errno is EPERM where neither its number nor its name is given."""
    action = entry.get(key)
    if action not in _ACTIONS:
        raise PolicyError(f"{key} {action!a} can't be enforced: it must be one of {', '.join(sorted(_ACTIONS))}")
    if action == "SCMP_ACT_ALLOW":
        return None
    if action != "SCMP_ACT_ERRNO":
        return 0
    number, name = entry.get(f"{errno_key}Ret"), entry.get(errno_key)
    given = None if number is None else _integer(number, f"{errno_key}Ret", 4095, lowest=1)
    if name in (None, ""):
        return errnos.EPERM if given is None else given
    named = getattr(errnos, str(name), None) if str(name) in errnos.errorcode.values() else None
    if named is None or given not in (None, named):
        raise PolicyError(f"{errno_key} {str(name)[:40]!a} of the syscall profile is no errno, or not its {errno_key}Ret")
    return int(named)


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
    errno = _action(entry, "action", "errno")
    arguments = [_comparison(argument, where) for argument in _list(entry, "args")]
    if len({each.argument for each in arguments}) == len(arguments):
        return [Rule(name, errno, tuple(arguments)) for name in names]
    # Several comparisons of one argument: moby's format means any of them.
    return [Rule(name, errno, (argument,)) for name in names for argument in arguments]


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


def _split(default: int | None, found: list[Rule]) -> Rules:
    """Refusals that depend on arguments come first, so that a call may be allowed but for some values."""
    rules = [narrow for rule in found for narrow in _narrowed(rule)]
    refusals = tuple(rule for rule in rules if rule.errno is not None and rule.comparisons)
    return Rules(default, refusals, tuple(rule for rule in rules if rule.errno is None or not rule.comparisons))


def _narrowed(rule: Rule) -> list[Rule]:
    """The rules that say the same of the lower half where the kernel looks at no more. Raises PolicyError for too many."""
    ways = [
        tuple(_blocks(comparison)) if (rule.name, comparison.argument) in _NARROW else (comparison,)
        for comparison in rule.comparisons
    ]
    if math.prod(map(len, ways)) > _MAX_WAYS:
        raise PolicyError(f"the rule for {rule.name} can't be enforced: it compares too much of 32 bits")
    return [
        rule._replace(comparisons=tuple(c for c in chosen if c.mask or c.operator != "masked_eq")) for chosen in product(*ways)
    ]


def _blocks(comparison: Comparison) -> Iterator[Comparison]:
    """What a comparison of 32 bits accepts: aligned blocks of values, each of which a mask can tell."""
    if comparison.operator == "masked_eq":
        yield comparison._replace(value=comparison.value & _LOW, mask=comparison.mask & _LOW)
        return
    for low, high in _accepted(comparison.operator, comparison.value):
        while low < high:
            size = min(low & -low or _LOW + 1, 1 << (high - low).bit_length() - 1)
            yield Comparison(comparison.argument, "masked_eq", low, _LOW & -size)
            low += size


def _accepted(operator: str, value: int) -> list[tuple[int, int]]:
    """Ranges of 32 bits, the end excluded."""
    end = _LOW + 1
    if operator in ("eq", "ne"):
        value &= _LOW
        return [(value, value + 1)] if operator == "eq" else [(0, value), (value + 1, end)]
    cut = min(value + (operator in ("le", "gt")), end)
    return [(0, cut)] if operator in ("lt", "le") else [(cut, end)]
