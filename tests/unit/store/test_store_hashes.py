"""The memory of file contents."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from sandboxbuild.fstree.entry import Entry
from sandboxbuild.oci.digest import sha256_digest
from sandboxbuild.store import Store

DIGEST = sha256_digest(b"x")
LONG_AGO = 1_600_000_000_123_456_789


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "store")


def entry(**changes: object) -> Entry:
    values: dict[str, object] = {
        "path": b"a",
        "mode": stat.S_IFREG | 0o644,
        "size_bytes": 1,
        "mtime_ns": LONG_AGO,
        "ctime_ns": LONG_AGO,
        "inode": (1, 2),
    }
    return Entry(**(values | changes))  # type: ignore[arg-type]


def learned(path: str, what: Entry) -> Store:
    store = Store(path)
    assert store.hashes.lookup(what) is None
    store.hashes.remember(what, DIGEST)
    store.hashes.save()
    return store


def test_unchanged_file_is_known_to_the_next_build(path: str) -> None:
    learned(path, entry())
    assert Store(path).hashes.lookup(entry(path=b"renamed")) == DIGEST


@pytest.mark.parametrize(
    "changes",
    [{"size_bytes": 2}, {"mtime_ns": 1}, {"ctime_ns": LONG_AGO + 1}, {"inode": (1, 3)}, {"inode": (2, 2)}, {"inode": (0, 0)}]
    + [{"mode": stat.S_IFLNK | 0o777}],
)
def test_changed_file_is_not_known(path: str, changes: dict[str, object]) -> None:
    learned(path, entry())
    assert Store(path).hashes.lookup(entry(**changes)) is None


def test_file_that_changed_just_now_is_not_remembered(path: str) -> None:
    now = time.time_ns()
    store = learned(path, entry(ctime_ns=now, mtime_ns=now))
    assert store.hashes.lookup(entry(ctime_ns=now, mtime_ns=now)) is None


def test_times_in_whole_seconds_need_two_seconds_to_settle(path: str) -> None:
    whole = time.time_ns() // 10**9 * 10**9 - 10**9
    store = learned(path, entry(ctime_ns=whole, mtime_ns=whole))
    assert store.hashes.lookup(entry(ctime_ns=whole, mtime_ns=whole)) is None


def test_what_was_not_asked_for_is_not_remembered(path: str) -> None:
    store = Store(path)
    store.hashes.remember(entry(), DIGEST)
    assert store.hashes.lookup(entry()) is None


@pytest.mark.parametrize(
    "content", [b"", b"x", b"sbhash01" + b"\0" * 76, b"\0" * 100], ids=["empty", "short", "checksum", "magic"]
)
def test_torn_memory_is_an_empty_one(path: str, content: bytes) -> None:
    learned(path, entry())
    Path(path, "cache", "hashes").write_bytes(content)
    assert Store(path).hashes.lookup(entry()) is None


def test_two_builds_both_keep_what_they_learned(path: str) -> None:
    one, two = Store(path), Store(path)
    first, second = entry(inode=(1, 10)), entry(inode=(1, 11))
    for store, what in ((one, first), (two, second)):
        store.hashes.lookup(what)
        store.hashes.remember(what, DIGEST)
    one.hashes.save()
    two.hashes.save()
    fresh = Store(path).hashes
    assert (fresh.lookup(first), fresh.lookup(second)) == (DIGEST, DIGEST)


def test_memory_of_two_thousand_files_is_small(path: str) -> None:
    store = Store(path)
    for number in range(2000):
        store.hashes.lookup(entry(inode=(1, number)))
        store.hashes.remember(entry(inode=(1, number)), DIGEST)
    store.hashes.save()
    assert os.path.getsize(os.path.join(path, "cache", "hashes")) < 150_000
