"""git's protocol version 2 (gitprotocol-v2): what is asked, and what the answers say. Pure but for reading streams.

Only this version: it lets a client ask for one ref and one commit, where version 0 begins with a list of all refs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sandboxbuild.contexts.gitobjects import shown
from sandboxbuild.contexts.pktline import Mark, Packet, encode
from sandboxbuild.errors import ContextError, LimitExceeded

AGENT: Final = b"agent=sandboxbuild"
REFS_LIMIT: Final = 50_000
CAPABILITIES_LIMIT: Final = 100
_OBJECT_ID: Final = re.compile(rb"[0-9a-f]{40}")
_SHA256_ID: Final = re.compile(rb"[0-9a-f]{64}")
_DATA, _PROGRESS, _ERROR = 1, 2, 3


class Ref(NamedTuple):
    """A ref of the server. `peeled` is what an annotated tag leads to, else b""; ids are 40 hex digits."""

    name: bytes
    object_id: bytes
    peeled: bytes = b""


def read_capabilities(packets: Iterable[Packet]) -> dict[bytes, bytes]:
    """The server's capabilities. Raises ContextError for a server without version 2 or with another kind of object ids."""
    lines = _lines(packets, CAPABILITIES_LIMIT)
    first = next(lines, b"")
    if first.startswith(b"# service="):
        first = next((line for line in lines if line), b"")
    if first != b"version 2":
        raise ContextError("the git server doesn't speak version 2 of the protocol", hint="git 2.18 and later do")
    found = dict(_split(line) for line in lines if line)
    if found.get(b"object-format", b"sha1") != b"sha1":
        raise ContextError(f"the repository's object ids are {shown(found[b'object-format'][:40])}, not sha1")
    if b"fetch" not in found or b"ls-refs" not in found:
        raise ContextError("the git server has neither ls-refs nor fetch")
    return found


def _lines(packets: Iterable[Packet], limit: int) -> Iterator[bytes]:
    """Lines without their newline, b"" for a flush."""
    for number, packet in enumerate(packets):
        if number > limit:
            raise LimitExceeded(f"the git server's answer has more than {limit} lines")
        yield b"" if isinstance(packet, Mark) else _line(packet)


def _line(packet: bytes) -> bytes:
    line = packet.removesuffix(b"\n")
    if line.startswith(b"ERR "):
        raise ContextError(f"the git server says {shown(line[4:200])}")
    return line


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b"=")
    return name, value


def ls_refs_request(prefixes: Sequence[bytes]) -> bytes:
    """A request for the refs whose names begin with one of `prefixes`, tags peeled."""
    arguments = [b"peel\n", b"symrefs\n", *(b"ref-prefix %b\n" % prefix for prefix in prefixes)]
    return encode(b"command=ls-refs\n", AGENT, b"object-format=sha1", Mark.DELIMITER, *arguments, Mark.FLUSH)


def read_refs(packets: Iterable[Packet]) -> tuple[Ref, ...]:
    """The answer to ls-refs. Refs that don't exist yet are left out."""
    found: list[Ref] = []
    for line in _lines(packets, REFS_LIMIT):
        if not line:
            break
        object_id, _, rest = line.partition(b" ")
        name, *attributes = rest.split(b" ")
        if object_id == b"unborn":
            continue
        peeled = next((text.removeprefix(b"peeled:") for text in attributes if text.startswith(b"peeled:")), b"")
        if not _OBJECT_ID.fullmatch(object_id) or (peeled and not _OBJECT_ID.fullmatch(peeled)) or not name:
            raise ContextError("the git server sends a malformed list of refs")
        found.append(Ref(name, object_id, peeled))
    return tuple(found)


def fetch_request(wanted: bytes, depth: int) -> bytes:
    """A request for the commit `wanted` (40 hex digits) with `depth` commits of history, 0 for all of it."""
    arguments = [
        b"no-progress\n",
        b"ofs-delta\n",
        *([b"deepen %d\n" % depth] if depth else []),
        b"want %b\n" % wanted,
        b"done\n",
    ]
    return encode(b"command=fetch", AGENT, b"object-format=sha1", Mark.DELIMITER, *arguments, Mark.FLUSH)


def read_fetch(packets: Iterable[Packet], write: Callable[[bytes], object]) -> tuple[bytes, ...]:
    """The answer to fetch: the pack goes to `write`; gives the commits whose parents were left out. Raises ContextError."""
    shallow: list[bytes] = []
    section = b""
    has_pack = False
    for packet in packets:
        if packet is Mark.FLUSH:
            break
        if isinstance(packet, Mark):
            section = b""
        elif section == b"packfile":
            has_pack = True
            _demultiplex(packet, write)
        elif not section:
            section = _line(packet)
        elif section == b"shallow-info":
            shallow += _shallow(_line(packet))
    if not has_pack:
        raise ContextError("the git server sends no pack")
    return tuple(shallow)


def _demultiplex(packet: bytes, write: Callable[[bytes], object]) -> None:
    """side-band-64k: the first byte says what the rest is."""
    if not packet:
        raise ContextError("the git server sends what isn't git's protocol")
    if packet[0] == _DATA:
        write(packet[1:])
    elif packet[0] == _ERROR:
        raise ContextError(f"the git server says {shown(packet[1:200].strip())}")
    elif packet[0] != _PROGRESS:
        raise ContextError("the git server sends what isn't git's protocol")


def _shallow(line: bytes) -> list[bytes]:
    word, _, commit = line.partition(b" ")
    if word not in (b"shallow", b"unshallow") or not _OBJECT_ID.fullmatch(commit):
        raise ContextError("the git server sends a malformed list of shallow commits")
    return [commit] if word == b"shallow" else []


def candidates(reference: str) -> tuple[bytes, ...]:
    """The refs that a name can mean, the likeliest first: branches before tags, as BuildKit has it."""
    if not reference:
        return (b"HEAD",)
    name = reference.encode("utf-8", "surrogateescape")
    if name == b"HEAD" or name.startswith(b"refs/"):
        return (name,)
    return (b"refs/heads/" + name, b"refs/tags/" + name, b"refs/" + name)


def is_commit_id(reference: str) -> bool:
    return _OBJECT_ID.fullmatch(reference.encode("utf-8", "surrogateescape")) is not None


def is_sha256_id(reference: str) -> bool:
    return _SHA256_ID.fullmatch(reference.encode("utf-8", "surrogateescape")) is not None


def is_plain_reference(reference: str) -> bool:
    """Whether a name can stand in a request: what git-check-ref-format forbids would break a line or means something else."""
    name = reference.encode("utf-8", "surrogateescape")
    forbidden = any(byte <= 0x20 or byte == 0x7F or byte in b"~^:?*[\\" for byte in name)
    return len(name) <= 1024 and not forbidden and b".." not in name and b"@{" not in name and not name.startswith(b"-")


def choose_ref(refs: Sequence[Ref], reference: str) -> Ref | None:
    """The ref that `reference` means, by its name, or by the beginning of a commit's id; None if there is none."""
    by_name = {ref.name: ref for ref in refs}
    for name in candidates(reference):
        if name in by_name:
            return by_name[name]
    if re.fullmatch(r"[0-9a-f]{7,39}", reference):
        short = reference.encode("ascii")
        ids = {ref.peeled or ref.object_id: ref for ref in refs if (ref.peeled or ref.object_id).startswith(short)}
        return next(iter(ids.values())) if len(ids) == 1 else None
    return None
