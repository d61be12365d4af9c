"""Making, opening and recovering a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxbuild.errors import IsolationError, UsageError
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor
from sandboxbuild.oci.digest import sha256_digest
from sandboxbuild.store import StepRecord, Store
from sandboxbuild.store.recovery import recover

CHAIN = "sha256:" + "c" * 64
MINUTE_NS = 60 * 10**9


def test_store_is_for_its_owner_alone(tmp_path: Path) -> None:
    Store(str(tmp_path / "a" / "store"))
    assert (tmp_path / "a" / "store").stat().st_mode & 0o777 == 0o700


def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    digest = Store(str(tmp_path)).blobs.put_bytes(b"x")
    assert Store(str(tmp_path)).blobs.has(digest)


def test_absent_store_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Store(str(tmp_path / "none"), create=False)


def test_store_of_another_mapping_is_refused(tmp_path: Path) -> None:
    Store(str(tmp_path), ids="range:100000")
    Store(str(tmp_path), ids="range:100000")
    with pytest.raises(IsolationError, match="range:200000"):
        Store(str(tmp_path), ids="range:200000")


def test_store_of_another_layout_is_refused(tmp_path: Path) -> None:
    Store(str(tmp_path))
    (tmp_path / "store.json").write_text('{"version":99,"ids":""}')
    with pytest.raises(UsageError, match="99"):
        Store(str(tmp_path))
    (tmp_path / "store.json").write_text("x")
    with pytest.raises(UsageError):
        Store(str(tmp_path))


def test_build_id_never_leaves_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        Store(str(tmp_path), build_id="../x").hold()


def filled(path: str) -> tuple[Store, str]:
    store = Store(path)
    digest = store.blobs.put_bytes(b"x")
    with store.layers.staging() as staging:
        store.layers.commit(staging, CHAIN)
    store.cache.put("key", StepRecord(Descriptor(OCI_LAYER, digest, 1), digest, CHAIN, ""))
    return store, digest


def run(store: Store, boot: str, now_ns: int) -> int:
    return recover(store._scratch, store.blobs, store.images, None, boot, now_ns)


def made_ns(store: Store) -> int:
    return os.stat(os.path.join(store.path, "layers", "c" * 64, "made")).st_mtime_ns


def test_after_a_power_loss_young_layers_are_dropped_and_whole_blobs_kept(tmp_path: Path) -> None:
    store, digest = filled(str(tmp_path))
    run(store, "boot-1", made_ns(store) + MINUTE_NS)
    assert run(store, "boot-2", made_ns(store) + 9 * MINUTE_NS) == 1
    assert store.layers.path(CHAIN) is None
    assert store.blobs.has(digest)


def test_after_a_power_loss_torn_blobs_are_dropped(tmp_path: Path) -> None:
    store, digest = filled(str(tmp_path))
    run(store, "boot-1", made_ns(store))
    Path(store.blobs.path(digest)).write_bytes(b"")
    assert run(store, "boot-2", made_ns(store)) == 2
    assert not store.blobs.has(digest)


def test_layer_that_had_time_to_settle_survives(tmp_path: Path) -> None:
    store, _ = filled(str(tmp_path))
    run(store, "boot-1", made_ns(store) + 3 * MINUTE_NS)
    assert run(store, "boot-2", made_ns(store) + 9 * MINUTE_NS) == 0
    assert store.layers.path(CHAIN) is not None


def test_same_boot_drops_nothing(tmp_path: Path) -> None:
    store, _ = filled(str(tmp_path))
    run(store, "boot-1", made_ns(store))
    assert run(store, "boot-1", made_ns(store)) == 0
    assert store.layers.path(CHAIN) is not None


def test_launcher_finds_the_store_as_the_executor_left_it(tmp_path: Path) -> None:
    store = Store.create(str(tmp_path / "s"), os.geteuid(), os.getegid(), ids="range:1")
    assert store.blobs.put_bytes(b"x") == sha256_digest(b"x")
    with Store.create(str(tmp_path / "s"), os.geteuid(), os.getegid(), ids="range:1") as again:
        assert again.blobs.has(sha256_digest(b"x"))
