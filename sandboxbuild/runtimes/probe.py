"""Whether a runtime does what its file says, found out by asking it and by starting it; remembered until something changes.

What was found is kept under the file, the kernel and our own part in it, below the cache folder, where no sandbox can write. A
build that finds it there reads no TOML and needs no pydantic.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import Runtime
from sandboxbuild.runtimes.namespaces import NamespacesRuntime
from sandboxbuild.runtimes.ocicli import PATIENCE_S, OciRuntime, find_binary

if TYPE_CHECKING:
    from sandboxbuild.policy.runtime import RuntimeDescriptor
    from sandboxbuild.system.cgroups import Place

_VERSION_TIMEOUT_S: Final = 10
_KEPT_S: Final = 30 * 24 * 3600
# The first way has as long as a loaded machine may take. Those after it are for hosts that lack something; runsc's KVM platform
# has been seen to hang on a device that is there and of no use, so one that takes long to start a sandbox is given up.
_NEXT_START_S: Final = 5.0
_NEXT_ANSWER_S: Final = 30.0
_DATE: Final = re.compile(r"(?<!\d)(20\d{6})(?!\d)", re.ASCII)
_NUMBERS: Final = re.compile(r"(?<![\d.])(\d+(?:\.\d+)+)", re.ASCII)
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OUR_PART: Final = ("executor/claims.py", *(f"runtimes/{name}.py" for name in ("claims", "enter", "keeper", "probe", "spec")))


class Found(NamedTuple):
    """What is known of a runtime on this host: how it is called, and which of its file's claims aren't so, and why."""

    driver: str
    binary: str
    version: str
    arguments: tuple[str, ...]
    filtered: bool
    connects_as_root: bool
    shows_processes: bool  # those of steps are the host's
    refuted: tuple[tuple[str, str], ...] = ()

    def runtime(self, name: str, patience_s: float = PATIENCE_S) -> Runtime:
        """Its driver, under the name of its file."""
        if self.driver == "namespaces":
            return NamespacesRuntime()
        return OciRuntime(name, self.binary, self.arguments, filtered=self.filtered, patience_s=patience_s)


def usable(
    name: str,
    data: bytes,
    load: Callable[[], RuntimeDescriptor],
    cache_folder: str,
    facts: Collection[str] = (),
    places: Sequence[Place] = (),
) -> Found:
    """What the runtime `name`, whose file is `data`, is called with here. The first of `probe.alternatives` with which a
    sandbox starts is taken, and the claims that `facts` leave it are tried in that one.

    Raises IsolationError that says what is missing: the program, a newer version, or any way to start it.
    """
    key = _key(data, facts)
    memory = os.path.join(cache_folder, "runtimes", f"{name}-{key[:16]}.json")  # versions beside each other don't take turns
    found = _recall(memory, key)
    if found is None:
        found = _probe(load(), cache_folder, facts, places)
        _remember(memory, key, found)
    return found


def _key(data: bytes, facts: Collection[str]) -> str:
    ours = [_stamp(os.path.join(_PACKAGE, part)) for part in _OUR_PART]
    known = (data, sorted(facts), ours, os.uname().release, os.path.exists("/dev/kvm"), os.geteuid())
    return hashlib.sha256(repr(known).encode()).hexdigest()


def _stamp(path: str) -> tuple[int, int, int]:
    """What tells whether a file is still the same; zeros for one that isn't there."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns


def _recall(path: str, key: str) -> Found | None:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        found = Found(**document["found"])
        if document["key"] == key and document["stamp"] == list(_stamp(found.binary)):
            return found._replace(arguments=tuple(found.arguments), refuted=tuple((c, r) for c, r in found.refuted))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or nothing of ours
    return None


def _remember(path: str, key: str, found: Found) -> None:
    """Not being able to is no fault: then the next build probes again."""
    staging = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(staging, "w", encoding="utf-8") as file:
            json.dump({"key": key, "stamp": _stamp(found.binary), "found": found._asdict()}, file)
        os.rename(staging, path)
        _forget(os.path.dirname(path))
    except OSError:
        pass


def _forget(folder: str) -> None:
    """What was found out long ago is of hosts and versions that may be gone."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.stat(follow_symlinks=False).st_mtime < time.time() - _KEPT_S:
                os.unlink(entry.path)


def _probe(descriptor: RuntimeDescriptor, cache_folder: str, facts: Collection[str], places: Sequence[Place]) -> Found:
    from sandboxbuild.runtimes.claims import refuted

    name, values, claims = descriptor.name, descriptor.values, descriptor.enforced(facts)
    binary = find_binary(values.binary, values.probe.install) if values.driver == "ocicli" else ""
    version = _version(descriptor, binary) if binary else ""
    found = Found(values.driver, binary, version, (), "sandbox_filter" in claims, values.peer == "root", "kernel" not in claims)
    refusals = []
    for number, alternative in enumerate(values.probe.alternatives or [[]]):
        found = found._replace(arguments=(*values.arguments, *alternative))
        start_s, answer_s = (_NEXT_START_S, _NEXT_ANSWER_S) if number else (PATIENCE_S, PATIENCE_S)
        try:
            wrong = refuted(found.runtime(name, start_s), claims, cache_folder, places, answer_s)
        except IsolationError as error:
            refusals.append(f"{' '.join(alternative)}: {error.message}" if alternative else error.message)
        else:
            return found._replace(refuted=tuple(sorted(wrong.items())))
    raise IsolationError(f"the runtime {name} starts no sandbox on this host: {'; '.join(refusals)}")


def _version(descriptor: RuntimeDescriptor, binary: str) -> str:
    """The program's version. Raises IsolationError where it is older than the file's minimum, or says nothing of the kind."""
    probe = descriptor.values.probe
    if not probe.arguments:
        return ""
    version = version_of(binary, probe.arguments, probe.minimum)
    if is_older(version, probe.minimum):
        raise IsolationError(
            f"{binary} is {version or 'of unknown version'}, and {probe.minimum} is the oldest that is known to work",
            hint=probe.install or f"the runtime {descriptor.name} needs {', '.join(descriptor.values.needs)}",
        )
    return version


def version_of(binary: str, arguments: Sequence[str], minimum: str) -> str:
    """What a program says of its version, "" for nothing of the kind. Raises IsolationError where it can't be asked."""
    try:
        done = subprocess.run(
            [binary, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=_VERSION_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise IsolationError(f"{binary} can't be asked for its version: {error}") from error
    return version_in(done.stdout, minimum)


def version_in(text: str, minimum: str) -> str:
    """The first version in a program's answer: a date of eight digits if the minimum is one, else numbers with dots."""
    found = (_DATE if minimum.isdecimal() and len(minimum) == 8 else _NUMBERS).search(text)
    return found.group(1) if found else ""


def is_older(version: str, minimum: str) -> bool:
    """Whether a version is below a minimum; one that isn't known is, unless there is no minimum."""
    if not minimum:
        return False
    return not version or [int(part) for part in version.split(".")] < [int(part) for part in minimum.split(".")]
