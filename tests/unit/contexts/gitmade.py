"""git objects and packs made by hand, and a server of one repository that speaks protocol version 2."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping, Sequence

from sandboxbuild.contexts.gitobjects import BLOB, COMMIT, TREE, object_id
from sandboxbuild.contexts.pktline import Mark, encode
from sandboxbuild.registry import Body
from tests.unit.registry.fake_registry import FakeResponse

URL = "https://git.example.com/app.git"


def head(kind: int, size: int) -> bytes:
    """An object's first bytes in a pack."""
    first, size = kind << 4 | size & 15, size >> 4
    made = bytearray()
    while size:
        made.append(first | 0x80)
        first, size = size & 0x7F, size >> 7
    made.append(first)
    return bytes(made)


def whole(kind: int, content: bytes) -> bytes:
    return head(kind, len(content)) + zlib.compress(content)


def by_reference(base: bytes, delta: bytes) -> bytes:
    return head(7, len(delta)) + base + zlib.compress(delta)


def by_offset(distance: int, delta: bytes) -> bytes:
    made = [distance & 0x7F]
    while distance := distance >> 7:
        distance -= 1
        made.append(0x80 | distance & 0x7F)
    return head(6, len(delta)) + bytes(reversed(made)) + zlib.compress(delta)


def size(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(0x80 | number & 0x7F)
        number >>= 7
    return bytes(made) + bytes((number,))


def insert(base: bytes, content: bytes) -> bytes:
    """A delta that takes the first byte of its base, and then `content` of at most 127 bytes."""
    return size(len(base)) + size(1 + len(content)) + b"\x90\x01" + bytes((len(content),)) + content


def pack(entries: Sequence[bytes], count: int | None = None) -> bytes:
    body = b"PACK" + (2).to_bytes(4, "big") + (len(entries) if count is None else count).to_bytes(4, "big") + b"".join(entries)
    return body + hashlib.sha1(body).digest()


def tree(entries: Sequence[tuple[str, bytes, bytes]]) -> bytes:
    """(mode, name, id) as they come."""
    return b"".join(mode.encode() + b" " + name + b"\0" + object_id for mode, name, object_id in entries)


def commit(tree_id: bytes, time_s: int = 1700000000) -> bytes:
    return b"tree %b\nauthor A <a> 1 +0000\ncommitter A <a> %d +0000\n\nmessage\n" % (tree_id.hex().encode(), time_s)


class Repository:
    """Objects of a commit whose files are `files`; `extra` are entries of the top tree as they are."""

    def __init__(self, files: Mapping[bytes, bytes], extra: Sequence[tuple[str, bytes, bytes]] = ()) -> None:
        self.objects: list[tuple[int, bytes]] = [(BLOB, content) for content in files.values()]
        entries = [("100644", name, object_id(BLOB, content)) for name, content in files.items()]
        top = tree([*entries, *extra])
        self.objects.append((TREE, top))
        self.objects.append((COMMIT, commit(object_id(TREE, top))))
        self.head = object_id(COMMIT, self.objects[-1][1]).hex()

    def add(self, kind: int, content: bytes) -> bytes:
        self.objects.insert(0, (kind, content))
        return object_id(kind, content)

    def pack(self) -> bytes:
        return pack([whole(kind, content) for kind, content in self.objects])


class GitServer:
    """A contexts.Fetch. What it answers can be replaced, to be a hostile one."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.asked: list[tuple[str, bytes]] = []
        self.refs = [f"{repository.head} HEAD symref-target:refs/heads/main\n", f"{repository.head} refs/heads/main\n"]
        self.headers: dict[str, str] = {}
        self.advertisement = encode(
            b"version 2\n", b"agent=x\n", b"ls-refs\n", b"fetch=shallow\n", b"object-format=sha1\n", Mark.FLUSH
        )
        self.pack = repository.pack()
        self.status = 200

    def __call__(self, url: str, headers: dict[str, str], body: Body | None = None) -> FakeResponse:
        request = body.read(65536) if body is not None else b""
        self.asked.append((url, request))
        if body is None:
            return self._answer("advertisement", self.advertisement)
        if b"command=ls-refs" in request:
            return self._answer("result", encode(*(ref.encode() for ref in self.refs), Mark.FLUSH))
        chunks = [b"\x01" + self.pack[at : at + 1000] for at in range(0, len(self.pack), 1000)]
        return self._answer("result", encode(b"packfile\n", b"\x02progress", *chunks, Mark.FLUSH))

    def _answer(self, kind: str, content: bytes) -> FakeResponse:
        return FakeResponse(self.status, {"content-type": f"application/x-git-upload-pack-{kind}", **self.headers}, content)
