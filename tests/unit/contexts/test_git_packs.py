from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path

import pytest

from sandboxbuild.contexts.gitdelta import apply_delta
from sandboxbuild.contexts.gitobjects import BLOB, COMMIT, object_id
from sandboxbuild.contexts.gitpack import Pack, PackFile, PackLimits
from sandboxbuild.errors import ContextError, LimitExceeded
from tests.unit.contexts.gitmade import by_offset, by_reference, head, insert, pack, size, whole

SMALL = PackLimits(pack_bytes=1 << 20, objects=50, object_bytes=1 << 16, work_bytes=1 << 20, cache_bytes=1 << 12, depth=8)


def opened(tmp_path: Path, data: bytes, limits: PackLimits = SMALL) -> Pack:
    path = tmp_path / "pack"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return Pack(descriptor, limits)
    finally:
        os.close(descriptor)


def test_objects_are_named_by_what_they_are(tmp_path: Path) -> None:
    with opened(tmp_path, pack([whole(BLOB, b"one"), whole(BLOB, b""), whole(COMMIT, b"x" * 5000)])) as found:
        assert found.read(object_id(BLOB, b"one"), BLOB) == b"one"
        assert found.read(object_id(BLOB, b""), BLOB) == b""
        assert found.read(object_id(COMMIT, b"x" * 5000), COMMIT) == b"x" * 5000
        assert object_id(BLOB, b"two") not in found


def test_an_object_of_another_kind_is_not_the_one_that_was_wanted(tmp_path: Path) -> None:
    with opened(tmp_path, pack([whole(BLOB, b"one")])) as found, pytest.raises(ContextError, match="left out"):
        found.read(object_id(BLOB, b"one"), COMMIT)


def test_deltas_lead_to_their_objects_by_offset_and_by_name(tmp_path: Path) -> None:
    base = whole(BLOB, b"base")
    first = by_offset(len(base), insert(b"base", b"-1"))
    second = by_reference(object_id(BLOB, b"b-1"), insert(b"b-1", b"-2"))
    with opened(tmp_path, pack([base, first, second])) as found:
        assert found.read(object_id(BLOB, b"b-1"), BLOB) == b"b-1"
        assert found.read(object_id(BLOB, b"b-2"), BLOB) == b"b-2"


def test_a_base_may_stand_behind_the_delta_that_names_it(tmp_path: Path) -> None:
    late = by_reference(object_id(BLOB, b"b2"), insert(b"b2", b"3"))
    early = by_reference(object_id(BLOB, b"base"), insert(b"base", b"2"))
    with opened(tmp_path, pack([late, early, whole(BLOB, b"base")])) as found:
        assert found.read(object_id(BLOB, b"b3"), BLOB) == b"b3"


def chain(length: int, padding: int = 0) -> list[bytes]:
    entries, content = [whole(BLOB, b"0" * (padding + 1))], b"0" * (padding + 1)
    for number in range(length):
        delta = (
            size(len(content)) + size(padding + 2) + b"\xb0" + (padding + 1).to_bytes(2, "little") + bytes((1, number % 256))
        )
        entries.append(by_offset(len(entries[-1]), delta))
        content = content[: padding + 1] + bytes((number % 256,))
    return entries


def test_a_chain_of_deltas_is_bounded(tmp_path: Path) -> None:
    opened(tmp_path, pack(chain(8, 5000))).__exit__()
    with pytest.raises(LimitExceeded, match="chain"):
        opened(tmp_path, pack(chain(12, 5000)))


def test_work_is_bounded_where_memory_alone_would_not_be(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="unfolds"):
        opened(tmp_path, pack(chain(8, 60000)), SMALL._replace(work_bytes=200_000))


ONE = whole(BLOB, b"content")


@pytest.mark.parametrize(
    "entries",
    [
        [head(BLOB, 3) + zlib.compress(b"content")],
        [head(BLOB, 30) + zlib.compress(b"content")],
        [head(BLOB, 0) + zlib.compress(b"content")],
        [head(BLOB, 7) + b"not zlib at all"],
        [head(BLOB, 7) + zlib.compress(b"content")[:-6]],
        [head(0, 7) + zlib.compress(b"content")],
        [head(5, 7) + zlib.compress(b"content")],
        [ONE, by_offset(3, insert(b"content", b"x"))],
        [ONE, by_offset(10_000, insert(b"content", b"x"))],
        [ONE, by_reference(bytes(20), insert(b"content", b"x"))],
        [ONE, by_offset(len(ONE), insert(b"other base", b"x"))],
        [ONE, by_offset(len(ONE), size(7) + size(5) + b"\x90\x01")],
        [ONE, by_offset(len(ONE), size(7) + size(9) + b"\x91\x05\x09")],
        [ONE, by_offset(len(ONE), size(7) + size(2) + b"\0\0")],
        [ONE, by_offset(len(ONE), b"")],
        [b"\xff" * 12],
        [],
    ],
)
def test_what_is_no_pack_is_a_context_error(tmp_path: Path, entries: list[bytes]) -> None:
    with pytest.raises(ContextError):
        opened(tmp_path, pack(entries, max(1, len(entries))))


def test_deltas_that_name_each_other_lead_nowhere(tmp_path: Path) -> None:
    entries = [by_reference(object_id(BLOB, b"b"), insert(b"b", b"")), by_reference(object_id(BLOB, b"a"), insert(b"a", b""))]
    with pytest.raises(ContextError, match="without its base"):
        opened(tmp_path, pack(entries))


def test_limits_are_looked_at_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="objects"):
        opened(tmp_path, pack([ONE], 1 << 31))
    with pytest.raises(LimitExceeded, match="object of more than"):
        opened(tmp_path, pack([head(COMMIT, 1 << 40) + zlib.compress(b"x")]))
    with pytest.raises(LimitExceeded):
        apply_delta(b"x", size(1) + size(1 << 40), 1 << 20)


def test_a_large_file_comes_in_pieces_and_is_no_base_of_deltas(tmp_path: Path) -> None:
    content = os.urandom(1 << 20)
    entry = whole(BLOB, content)
    limits = SMALL._replace(pack_bytes=2 << 20, work_bytes=8 << 20)
    with opened(tmp_path, pack([entry]), limits) as found:
        pieces = list(found.pieces(object_id(BLOB, content)))
        assert b"".join(pieces) == content
        assert max(map(len, pieces)) <= 1 << 18
    with pytest.raises(LimitExceeded, match="delta"):
        opened(tmp_path, pack([entry, by_offset(len(entry), insert(content, b"x"))]), limits)


@pytest.mark.parametrize("content", [os.urandom(600_000), b"ab" * 400_000, bytes(1 << 18), bytes((1 << 18) + 1)])
def test_an_object_that_takes_several_pieces_ends_where_the_next_begins(tmp_path: Path, content: bytes) -> None:
    limits = SMALL._replace(pack_bytes=4 << 20, work_bytes=64 << 20)
    behind = [whole(BLOB, b"%d" % number) for number in range(20)]
    with opened(tmp_path, pack([whole(BLOB, content), *behind, whole(COMMIT, b"last")]), limits) as found:
        assert b"".join(found.pieces(object_id(BLOB, content))) == content
        assert found.read(object_id(COMMIT, b"last"), COMMIT) == b"last"


def written(tmp_path: Path, data: bytes, step: int) -> bytes:
    path = tmp_path / "written"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        file = PackFile(descriptor, SMALL)
        for at in range(0, len(data), step):
            file.write(data[at : at + step])
        file.finish()
    finally:
        os.close(descriptor)
    return path.read_bytes()


@pytest.mark.parametrize("step", [1, 7, 20, 21, 100_000])
def test_a_pack_is_checked_against_its_own_checksum_as_it_comes(tmp_path: Path, step: int) -> None:
    data = pack([ONE])
    assert written(tmp_path, data, step) == data
    for broken in (data[:-1], data + b"x", data[:12] + b"x" + data[13:], hashlib.sha1().digest()):
        with pytest.raises(ContextError):
            written(tmp_path, broken, step)


def test_a_pack_that_is_too_large_ends_early(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded):
        written(tmp_path, bytes(SMALL.pack_bytes + 1), 1 << 16)
