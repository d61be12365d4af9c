"""Blobs."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from sandboxbuild.errors import IntegrityError, LimitExceeded, UsageError
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.digest import sha256_digest
from sandboxbuild.store import Store
from sandboxbuild.store import disk as disk_module

HELLO = sha256_digest(b"hello")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def files_below(path: str) -> list[str]:
    return sorted(os.path.join(folder, name)[len(path) :] for folder, _, names in os.walk(path) for name in names)


def test_what_is_put_is_read_back(store: Store) -> None:
    digest = store.blobs.put_bytes(b"hello")
    assert digest == HELLO
    assert store.blobs.read(digest, 5) == b"hello"
    assert Path(store.blobs.path(digest)).read_bytes() == b"hello"


def test_stream_in_pieces_has_one_digest(store: Store) -> None:
    with store.blobs.ingest() as ingest:
        for piece in (b"he", bytearray(b"l"), memoryview(b"lo")):
            ingest.write(piece)
        assert ingest.commit(HELLO) == (HELLO, 5)


def test_blob_is_invisible_before_its_commit(store: Store) -> None:
    with store.blobs.ingest() as ingest:
        ingest.write(b"hello")
        assert not store.blobs.has(HELLO)
    assert not store.blobs.has(HELLO)
    assert not [name for name in files_below(store.path) if "blob" in name]


def test_bytes_of_another_digest_are_not_kept(store: Store) -> None:
    with pytest.raises(IntegrityError), store.blobs.ingest() as ingest:
        ingest.write(b"hellO")
        ingest.commit(HELLO)
    assert not store.blobs.has(HELLO)


def test_sha512_blobs_have_their_own_folder(store: Store) -> None:
    digest = "sha512:" + hashlib.sha512(b"x").hexdigest()
    with store.blobs.ingest(algorithm="sha512") as ingest:
        ingest.write(b"x")
        ingest.commit(digest)
    assert store.blobs.read(digest, 10) == b"x"


def test_writer_that_hashes_itself_gives_the_digest(store: Store) -> None:
    with store.blobs.ingest(hashed=False) as ingest:
        ingest.write(b"hello")
        assert ingest.commit(HELLO)[0] == HELLO
    with pytest.raises(IntegrityError), store.blobs.ingest(hashed=False) as ingest:
        ingest.commit()


@pytest.mark.parametrize("digest", ["sha256:../x", "sha256:" + "A" * 64, "../../etc/passwd", ""])
def test_digest_never_becomes_a_path_unchecked(store: Store, digest: str) -> None:
    for use in (store.blobs.path, store.blobs.has, store.blobs.open, store.blobs.discard):
        with pytest.raises(IntegrityError):
            use(digest)


def test_missing_blob_is_an_integrity_error_with_a_hint(store: Store) -> None:
    with pytest.raises(IntegrityError, match="not in the store") as caught:
        store.blobs.read(HELLO, 10)
    assert caught.value.hint


def test_blob_over_the_limit_is_not_read(store: Store) -> None:
    with pytest.raises(IntegrityError, match="more than 4"):
        store.blobs.read(store.blobs.put_bytes(b"hello"), 4)


@pytest.mark.parametrize("content", [b"hellO", b"hell", b"", b"hello world"])
def test_torn_blob_is_removed_and_never_served(store: Store, content: bytes) -> None:
    store.blobs.put_bytes(b"hello")
    Path(store.blobs.path(HELLO)).write_bytes(content)
    with pytest.raises(IntegrityError, match="torn"):
        store.blobs.read(HELLO, 100)
    assert not store.blobs.has(HELLO)


def test_torn_blob_is_healed_by_the_next_ingest(store: Store) -> None:
    store.blobs.put_bytes(b"hello")
    Path(store.blobs.path(HELLO)).write_bytes(b"")
    assert not store.blobs.has(HELLO, 5)
    store.blobs.put_bytes(b"hello")
    assert store.blobs.has(HELLO, 5)
    assert store.blobs.read(HELLO, 5) == b"hello"


def test_verified_stream_ends_in_an_error_for_wrong_bytes(store: Store) -> None:
    store.blobs.put_bytes(b"hello")
    with pytest.raises(IntegrityError):
        list(store.blobs.stream(Descriptor("", HELLO, 4)))


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_is_no_regular_file_is_no_blob(store: Store, tmp_path: Path, kind: str) -> None:
    path = store.blobs.path(HELLO)
    (tmp_path / "canary").write_bytes(b"hello")
    if kind == "symlink":
        os.symlink(tmp_path / "canary", path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        os.mkdir(path)
    with pytest.raises(IntegrityError):
        store.blobs.read(HELLO, 10)


def test_folder_exchanged_for_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    store.blobs.put_bytes(b"hello")
    store.close()
    blobs = Path(store.path) / "blobs" / "sha256"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with Store(store.path, create=False) as again, pytest.raises(UsageError):
        again.blobs.has(HELLO)


def test_full_disk_is_a_limit_and_leaves_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with store.blobs.ingest() as ingest:
        ingest.write(b"first")
        monkeypatch.setattr(disk_module.os, "write", full)
        with pytest.raises(LimitExceeded, match="disk is full"):
            ingest.write(b"second")
        with pytest.raises(LimitExceeded):
            store.blobs.put_bytes(b"other")
        monkeypatch.undo()
    assert not [name for name in files_below(store.path) if "blob" in name]
