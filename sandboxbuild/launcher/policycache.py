"""Resolved policies are kept: the same files come to the same isolation, and reading them takes a tenth of a second.

They lie below the cache folder, where no sandbox can write, under all that they depend on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from typing import Final

from sandboxbuild.errors import ProtocolError
from sandboxbuild.policy import isolation as policy_values
from sandboxbuild.policy.isolation import Isolation
from sandboxbuild.policy.library import PROFILES, RUNTIMES, Library, read_file
from sandboxbuild.protocol.codec import decode, encode
from sandboxbuild.system.apart import done_apart

FOLDER: Final = "policies"
_LIMIT_BYTES: Final = 1024 * 1024
_DIGEST_BYTES: Final = 32


def kept(cache_folder: str, key: str, resolve: Callable[[], Isolation]) -> Isolation:
    """What `resolve` gave before under `key`, else what it gives now. Raises what `resolve` raises."""
    path = os.path.join(cache_folder, FOLDER, key)
    found = _recall(path)
    if found is None and done_apart(lambda: _keep(path, encode(resolve()))):  # it takes pydantic's 12 MB with it
        found = _recall(path)
    if found is None:
        found = resolve()
        _keep(path, encode(found))
    return found


def policy_key(library: Library, profile: str, policy_file: str, facts: Collection[str], *, learning: bool) -> str:
    """All that a resolved policy depends on: what was asked for, the files that could be read for it, and our own code.

    Raises PolicyError for a policy file that can't be read.
    """
    asked = (profile, policy_file, os.getcwd() if policy_file else "", sorted(facts), learning)
    text = read_file(policy_file) if policy_file else b""
    folders = [os.path.dirname(policy_values.__file__)]
    folders += [os.path.join(folder, kind) for folder in library.folders for kind in (PROFILES, RUNTIMES)]
    files = [state for folder in folders for state in _states(folder)]
    return hashlib.sha256(repr((asked, files)).encode() + text).hexdigest()


def _states(folder: str) -> Iterator[tuple[str, int, int, int, int, int]]:
    """What tells whether a file of `folder` is still the same; nothing for a folder that isn't there."""
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return
    for name in names:
        if name.endswith((".py", ".pyc", ".toml")):
            path = os.path.join(folder, name)
            try:
                found = os.stat(path)
            except OSError:
                continue
            yield path, found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _recall(path: str) -> Isolation | None:
    """None where there is none, or none that is whole and ours: its end is the digest of the rest."""
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            data = stream.read(_LIMIT_BYTES)
    except OSError:
        return None
    payload, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or hashlib.sha256(payload).digest() != digest:
        return None
    try:
        return decode(payload, (Isolation,))
    except ProtocolError:
        return None


def _keep(path: str, payload: bytes) -> None:
    """Not being able to is no fault: then the next build reads the files again."""
    staging = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        with open(staging, "xb") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(payload + hashlib.sha256(payload).digest())
        os.rename(staging, path)
    except OSError:
        pass
