"""The filter of a build's steps: the policy's choice, compiled on this side of the sandbox, for the step to load.

A program that was compiled is kept below the cache folder, where no sandbox can write, under all that it depends on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Final

from sandboxbuild.policy.isolation import Isolation, SyscallChoice
from sandboxbuild.policy.library import packaged_folder, read_file
from sandboxbuild.system import seccomp
from sandboxbuild.version import __version__

FOLDER: Final = "filters"
_FORMAT: Final = 3  # of what is compiled from the same words; a new one, a new number
_INSTRUCTION_BYTES: Final = 8


def with_filter(isolation: Isolation, cache_folder: str) -> Isolation:
    """The same with the program that its `syscalls` come to.

    Raises PolicyError for a file that can't be read or enforced, IsolationError where libseccomp is missing.
    """
    choice, step = isolation.syscalls, isolation.step
    document = _document(choice)
    program = filter_program(choice, step.capabilities, cache_folder, document)
    return isolation._replace(step=step._replace(seccomp_program=program, syscalls=_source(document, choice)))


def _document(choice: SyscallChoice) -> bytes:
    return read_file(choice.file or os.path.join(packaged_folder(), "profiles", "syscalls", f"{choice.profile}.json"))


def _source(document: bytes, choice: SyscallChoice) -> str:
    """A digest of all that an operator says of the filter; the same on each host."""
    return hashlib.sha256(repr((sorted(choice.allow), sorted(choice.deny))).encode() + document).hexdigest()


def filter_program(choice: SyscallChoice, capabilities: Sequence[str], cache_folder: str, document: bytes) -> bytes:
    """The BPF program of `choice`, whose file has the bytes `document`, for a step with `capabilities` on this host."""
    path = os.path.join(cache_folder, FOLDER, _key(document, choice, capabilities))
    program = _recall(path)
    if not program:
        program = seccomp.compile_profile(document, capabilities=capabilities, allow=choice.allow, deny=choice.deny)
        _keep(path, program)
    return program


def _key(document: bytes, choice: SyscallChoice, capabilities: Sequence[str]) -> str:
    """All that a program depends on; of the host, its kernel, architecture and library."""
    host = os.uname()
    words = (_FORMAT, __version__, sorted(capabilities), sorted(choice.allow), sorted(choice.deny), host.machine, host.release)
    return hashlib.sha256(repr((*words, seccomp.library_version())).encode() + document).hexdigest()


def _recall(path: str) -> bytes:
    """b"" where there is none, or none that is whole: its end is the digest of the rest."""
    try:
        with open(path, "rb") as stream:
            kept = stream.read(seccomp.MAX_PROGRAM_BYTES + hashlib.sha256().digest_size)
    except OSError:
        return b""
    program, digest = kept[:-32], kept[-32:]
    whole = len(program) % _INSTRUCTION_BYTES == 0 and hashlib.sha256(program).digest() == digest
    return program if whole else b""


def _keep(path: str, program: bytes) -> None:
    """Not being able to is no fault: then the next build compiles again."""
    staging = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(staging, "xb") as stream:
            stream.write(program + hashlib.sha256(program).digest())
        os.rename(staging, path)
    except OSError:
        pass
