"""Whether a runtime does what its file says, found out by asking it and by starting it; remembered until something changes.

A runtime's answer is remembered under the program, the kernel and the arguments, in a file below the cache folder, where no
sandbox can write.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from typing import Final, NamedTuple

from sandboxbuild.errors import IsolationError
from sandboxbuild.policy.runtime import RuntimeFile
from sandboxbuild.runtimes import SandboxMount, SandboxSpec
from sandboxbuild.runtimes.bundle import TARGET, ensure_bundle
from sandboxbuild.runtimes.namespaces import id_ranges
from sandboxbuild.runtimes.ocicli import OciRuntime, find_binary
from sandboxbuild.system import idmap

_FORMAT: Final = 1
_VERSION_TIMEOUT_S: Final = 10
_START_TIMEOUT_S: Final = 30.0
_DATE: Final = re.compile(r"(?<!\d)(20\d{6})(?!\d)", re.ASCII)
_NUMBERS: Final = re.compile(r"(?<![\d.])(\d+(?:\.\d+)+)", re.ASCII)
_ANSWER: Final = b"it runs"


class Found(NamedTuple):
    """What is known of a runtime on this host: its version, and all arguments that it is to be called with."""

    version: str
    arguments: tuple[str, ...]


def usable(name: str, values: RuntimeFile, cache_folder: str) -> Found:
    """What the runtime `name` is called with here. The first of `probe.alternatives` with which a sandbox starts is taken.

    Raises IsolationError that says what is missing: the program, a newer version, or any way to start it.
    """
    binary = find_binary(values.binary)
    memory = os.path.join(cache_folder, "runtimes", f"{name}.json")
    key = _key(binary, values)
    found = _recall(memory, key)
    if found is None:
        found = _probe(name, binary, values, cache_folder)
        _remember(memory, key, found)
    return found


def _key(binary: str, values: RuntimeFile) -> str:
    status = os.stat(binary)
    facts = (_FORMAT, binary, status.st_size, status.st_mtime_ns, os.uname().release, os.path.exists("/dev/kvm"))
    return hashlib.sha256(repr((facts, values.model_dump_json())).encode()).hexdigest()


def _recall(path: str, key: str) -> Found | None:
    try:
        with open(path, encoding="utf-8") as file:
            document = json.load(file)
        if document["key"] == key:
            return Found(str(document["version"]), tuple(map(str, document["arguments"])))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or nothing of ours
    return None


def _remember(path: str, key: str, found: Found) -> None:
    """Not being able to is no fault: then the next build probes again."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        staging = f"{path}.{os.getpid()}"
        with open(staging, "w", encoding="utf-8") as file:
            json.dump({"key": key, **found._asdict()}, file)
        os.rename(staging, path)
    except OSError:
        pass


def _probe(name: str, binary: str, values: RuntimeFile, cache_folder: str) -> Found:
    version = _version(name, binary, values)
    refusals = []
    for alternative in values.probe.alternatives or [[]]:
        arguments = (*values.arguments, *alternative)
        try:
            _try_to_start(OciRuntime(name, binary, arguments), cache_folder)
        except IsolationError as error:
            refusals.append(f"{' '.join(alternative)}: {error.message}" if alternative else error.message)
        else:
            return Found(version, arguments)
    raise IsolationError(f"the runtime {name} starts no sandbox on this host: {'; '.join(refusals)}")


def _version(name: str, binary: str, values: RuntimeFile) -> str:
    """The program's version. Raises IsolationError where it is older than the file's minimum, or says nothing of the kind."""
    if not values.probe.arguments:
        return ""
    try:
        done = subprocess.run(
            [binary, *values.probe.arguments],
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
    minimum = values.probe.minimum
    version = version_in(done.stdout, minimum)
    if minimum and (not version or _parts(version) < _parts(minimum)):
        raise IsolationError(
            f"{binary} is {version or 'of unknown version'}, and {minimum} is the oldest that is known to work",
            hint=f"the runtime {name} needs {', '.join(values.needs)}" if values.needs else "",
        )
    return version


def version_in(text: str, minimum: str) -> str:
    """The first version in a program's answer: a date of eight digits if the minimum is one, else numbers with dots."""
    found = (_DATE if minimum.isdecimal() and len(minimum) == 8 else _NUMBERS).search(text)
    return found.group(1) if found else ""


def _parts(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _try_to_start(runtime: OciRuntime, cache_folder: str) -> None:
    """Have the bundle's interpreter say a word in a sandbox. Raises IsolationError."""
    bundle = ensure_bundle(cache_folder)
    plan = idmap.find()
    uids, gids = id_ranges(plan)
    word = _ANSWER.decode()
    spec = SandboxSpec(
        build_id=f"probe-{os.getpid()}",
        argv=(*bundle.argv_prefix, "-c", f"print({word!r}, end='')"),
        environment=bundle.environment,
        mounts=(SandboxMount(bundle.path, TARGET),),
        uid_ranges=uids,
        gid_ranges=gids,
        identity=plan.identity,
        network="none",
        scratch="",
    )
    sandbox = runtime.launch(spec)
    try:
        sandbox.stdin.close()
        said = sandbox.stdout.read(len(_ANSWER) + 1)
        sandbox.wait(_START_TIMEOUT_S)
    except TimeoutError as error:
        raise IsolationError("a sandbox of nothing but the interpreter didn't end") from error
    finally:
        sandbox.close()
    if said != _ANSWER:
        raise IsolationError("the interpreter doesn't run in it")
