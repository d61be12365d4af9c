"""Syscall filters: compiled by libseccomp on the launcher's side, loaded as bytes by the process that becomes a step.

The one importer of pyseccomp, which raises at import where libseccomp is missing: so it is imported by the function.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sandboxbuild.errors import IsolationError, PolicyError
from sandboxbuild.system import libc

if TYPE_CHECKING:
    from sandboxbuild.system.syscallprofile import Comparison, Rule, Rules

_SECCOMP_SET_MODE_FILTER: Final = 1
_ENOSYS: Final = 38
_UNKNOWN: Final = -1  # __NR_SCMP_ERROR
_OPTIMIZE, _BINARY_TREE = 8, 2  # SCMP_FLTATR_CTL_OPTIMIZE, libseccomp 2.5
_INSTRUCTION: Final = struct.Struct("=HBBI")  # struct sock_filter: code, jt, jf, k
_RETURN, _JUMP = 0x06, 0x05  # BPF_RET | BPF_K, BPF_JMP | BPF_JA
_LOAD, _JUMP_ABOVE = 0x20, 0x25  # BPF_LD | BPF_W | BPF_ABS of the call's number, BPF_JMP | BPF_JGT | BPF_K
_RETURN_ALLOW: Final = 0x7FFF0000
_RETURN_ERRNO: Final = 0x00050000
_MAX_INSTRUCTIONS: Final = 4096  # BPF_MAXINSNS
MAX_PROGRAM_BYTES: Final = _MAX_INSTRUCTIONS * 8
_LIBRARY: Final = "libseccomp.so.2"
_FOLDERS: Final = ("/lib", "/usr/lib", "/lib64", "/usr/lib64", "/usr/local/lib", "/lib/{0}-linux-gnu", "/usr/lib/{0}-linux-gnu")


def load_program(program: bytes) -> None:
    """Put the calling thread under a compiled filter. Needs SYS_ADMIN in its user namespace, or no_new_privs."""
    libc.seccomp(_SECCOMP_SET_MODE_FILTER, 0, program)


def library_version() -> str:
    """The file name of this host's libseccomp, as in libseccomp.so.2.5.4, without loading it; "" where it isn't found."""
    for folder in _FOLDERS:
        path = f"{folder.format(os.uname().machine)}/{_LIBRARY}"
        if os.path.exists(path):
            return os.path.basename(os.path.realpath(path))
    return ""


def compile_profile(
    document: bytes, *, capabilities: Sequence[str], allow: Iterable[str] = (), deny: Iterable[str] = ()
) -> bytes:
    """The BPF program of a profile in the moby JSON format, for this host and a step with `capabilities` (without CAP_).

    Only the native ABI is open: i386 and x32 calls are ENOSYS, whatever the profile's archMap says. Raises PolicyError for a
    profile that isn't understood or can't be enforced, IsolationError where libseccomp is missing.
    """
    from sandboxbuild.system.syscallprofile import read_rules

    host = os.uname()
    kernel = tuple(int("".join(c for c in part if c.isdecimal()) or 0) for part in host.release.split(".")[:2])
    rules = read_rules(
        document,
        capabilities=capabilities,
        allow=allow,
        deny=deny,
        machine=host.machine,
        kernel=(kernel[0], kernel[1] if len(kernel) > 1 else 0),
    )
    return compile_rules(rules)


def compile_rules(rules: Rules) -> bytes:
    """Two filters in one program: what the first doesn't refuse goes on into the second.

    libseccomp gives a call one action where its rules overlap; the kernel, for stacked filters, takes the strictest. A jump in
    place of the first filter's ALLOW has the same effect, and leaves one program to load.
    """
    seccomp = _library()
    if rules.default is None:
        _check_known(seccomp, rules)
    program = _filter(seccomp, rules.default, rules.rules)
    if rules.refusals:
        program = chain(_filter(seccomp, None, rules.refusals), program)
    if rules.default not in (None, _ENOSYS):
        program = absent_above(max((_number(seccomp, name) for name in rules.names), default=0)) + program
    if len(program) > MAX_PROGRAM_BYTES:
        raise PolicyError(f"the syscall profile needs more than {_MAX_INSTRUCTIONS} instructions")
    return program


def absent_above(number: int) -> bytes:
    """A beginning that lets calls above `number` seem absent: the profile is older than they are, and has no word for them.

    Programs fall back to an older call for ENOSYS, and give up for EPERM.
    """
    beginning = ((_LOAD, 0, 0, 0), (_JUMP_ABOVE, 0, 1, max(number, 0)), (_RETURN, 0, 0, _RETURN_ERRNO | _ENOSYS))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in beginning)


def chain(first: bytes, second: bytes) -> bytes:
    """`first` with each return of ALLOW turned into a jump to `second`, and `second` behind it."""
    count = len(first) // _INSTRUCTION.size
    instructions = []
    for number, (code, jt, jf, k) in enumerate(_INSTRUCTION.iter_unpack(first)):
        if code == _RETURN and k == _RETURN_ALLOW:
            code, jt, jf, k = _JUMP, 0, 0, count - number - 1
        instructions.append(_INSTRUCTION.pack(code, jt, jf, k))
    return b"".join(instructions) + second


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise IsolationError(
            "libseccomp is missing, so the syscall policy can't be enforced", hint="apt-get install libseccomp2"
        ) from error
    return pyseccomp


def _filter(seccomp: Any, default: int | None, rules: Sequence[Rule]) -> bytes:
    made = seccomp.SyscallFilter(_action(seccomp, default))
    made.set_attr(seccomp.Attr.ACT_BADARCH, _action(seccomp, _ENOSYS))
    try:
        made.set_attr(_OPTIMIZE, _BINARY_TREE)
    except OSError:
        pass  # an older library: a linear search, as right and a little slower
    for rule in _decided(default, rules):
        number = _number(seccomp, rule.name)
        if number < 0:
            continue  # not on this architecture, or unknown to libseccomp: then nothing opens it
        try:
            made.add_rule(_action(seccomp, rule.errno), number, *(_argument(seccomp, c) for c in rule.comparisons))
        except OSError as error:
            raise PolicyError(f"the rule for {rule.name} can't be enforced: {error.strerror}") from error
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "rb") as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read(MAX_PROGRAM_BYTES + 1)


def _decided(default: int | None, rules: Sequence[Rule]) -> Iterable[Rule]:
    """Without the rules that say what is so by default, and with the stricter one where two say opposite things of a call."""
    refused = {rule.name for rule in rules if rule.errno is not None and not rule.comparisons}
    for rule in dict.fromkeys(rules):
        if rule.errno is None and rule.name in refused:
            continue
        if rule.errno != default:
            yield rule


def _check_known(seccomp: Any, rules: Rules) -> None:
    """Where all is open but what is named, a name that libseccomp doesn't know would stay open."""
    for rule in (*rules.refusals, *rules.rules):
        if rule.errno is not None and _number(seccomp, rule.name) == _UNKNOWN:
            raise PolicyError(f"{rule.name} can't be refused: libseccomp doesn't know it")


def _number(seccomp: Any, name: str) -> int:
    """The call's number; negative for one that this architecture doesn't have (seccomp_syscall_resolve_name(3))."""
    try:
        return int(seccomp.resolve_syscall(seccomp.Arch.NATIVE, name))
    except (OSError, ValueError):
        return _UNKNOWN


def _action(seccomp: Any, errno: int | None) -> int:
    if errno is None:
        return int(seccomp.ALLOW)
    return int(seccomp.ERRNO(errno)) if errno else int(seccomp.KILL_PROCESS)


def _argument(seccomp: Any, comparison: Comparison) -> Any:
    operator = getattr(seccomp, comparison.operator.upper())
    if comparison.operator == "masked_eq":
        return seccomp.Arg(comparison.argument, operator, comparison.mask, comparison.value)
    return seccomp.Arg(comparison.argument, operator, comparison.value)
