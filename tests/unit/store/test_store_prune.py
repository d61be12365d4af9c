"""Prune: what is chosen, and what is done."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sandboxbuild.oci.config import History, ImageConfig
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor
from sandboxbuild.oci.image import Image
from sandboxbuild.oci.mutate import append_layer, assemble
from sandboxbuild.store import StepRecord, Store
from sandboxbuild.store.inventory import Item
from sandboxbuild.store.prune import Limits, choose_removals


def item(kind: str, key: str, used: int, size: int = 10, keeps: str = "", chains: str = "") -> Item:
    return Item(kind, key, "folder", key, size, used, frozenset(keeps), frozenset(chains))


ITEMS = (
    item("blob", "a", 1),
    item("blob", "b", 2),
    item("blob", "c", 3),
    item("blob", "g", 9),
    item("layer", "A", 4),
    item("layer", "B", 5),
    item("layer", "G", 8),
    item("step", "s", 6, keeps="b", chains="B"),
    item("image", "i", 7, keeps="ca", chains="A"),
)


def chosen(**limits: object) -> str:
    return "".join(removed.key for removed in choose_removals(ITEMS, Limits(**limits)))  # type: ignore[arg-type]


def test_without_limits_goes_what_nothing_keeps() -> None:
    assert chosen() == "Gg"


def test_everything_spares_named_images() -> None:
    assert chosen(everything=True) == "ABsbGg"


def test_least_recently_used_goes_first_until_the_rest_fits() -> None:
    assert chosen(keep_bytes=80) == "A"
    assert chosen(keep_bytes=60) == "ABs"
    assert chosen(keep_bytes=50) == "ABsb"
    assert chosen(keep_bytes=1000) == ""


def test_named_image_goes_when_all_else_is_not_enough() -> None:
    assert chosen(keep_bytes=25) == "ABsbGgi"
    assert chosen(keep_bytes=0) == "ABsbGgiac"


def test_older_than_spares_the_young() -> None:
    assert chosen(older_than_ns=6) == "AB"
    assert chosen(older_than_ns=6, keep_bytes=85) == "A"


def test_what_a_live_build_used_stays() -> None:
    assert chosen(everything=True, protected_ns=5) == "A"
    assert chosen(keep_bytes=0, protected_ns=7) == "ABsb"
    assert chosen(protected_ns=9) == "G"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def put_image(store: Store, name: str, content: bytes) -> Descriptor:
    digest = store.blobs.put_bytes(content)
    layer = Descriptor(OCI_LAYER, digest, len(content))
    assembled = assemble(append_layer(Image(ImageConfig()), layer, digest, History("RUN x")))
    store.blobs.put_bytes(assembled.config)
    store.blobs.put_bytes(assembled.manifest)
    store.images.tag(name, assembled.manifest_descriptor)
    return assembled.manifest_descriptor


def put_step(store: Store, key: str, content: bytes) -> str:
    digest = store.blobs.put_bytes(content)
    with store.layers.staging() as staging:
        Path(staging, "file").write_bytes(content)
        store.layers.commit(staging, digest)
    store.cache.put(key, StepRecord(Descriptor(OCI_LAYER, digest, len(content)), digest, digest, ""))
    return digest


def test_prune_without_limits_removes_garbage_alone(store: Store) -> None:
    put_image(store, "app", b"image")
    step = put_step(store, "key", b"step")
    garbage = store.blobs.put_bytes(b"garbage")
    pruned = store.prune()
    assert (pruned.blobs, pruned.layers, pruned.steps, pruned.images) == (1, 0, 0, 0)
    assert not store.blobs.has(garbage)
    assert store.blobs.has(step) and store.layers.path(step)


def test_prune_of_everything_leaves_images_whole(store: Store) -> None:
    descriptor = put_image(store, "app", b"image")
    step = put_step(store, "key", b"step")
    store.prune(all_unused=True)
    assert (store.layers.path(step), store.cache.get("key"), store.blobs.has(step)) == (None, None, False)
    for digest in store.images.reachable(descriptor):
        assert store.blobs.has(digest)
    assert os.listdir(store.scratch) == []


def test_prune_to_nothing_empties_the_store(store: Store) -> None:
    put_image(store, "app", b"image")
    put_step(store, "key", b"step")
    store.prune(keep_bytes=0)
    assert store.usage().total_bytes == 0
    assert store.images.list() == ()


def test_listing_marks_nothing_as_used(store: Store) -> None:
    put_image(store, "app", b"image")
    assert store.items() == store.items()


def test_live_build_keeps_what_it_used(store: Store) -> None:
    old, used = put_step(store, "old", b"old"), put_step(store, "used", b"used")
    for folder, _, names in os.walk(store.path):
        for name in names:
            os.utime(os.path.join(folder, name), (1, 1))
    for digest in (old, used):
        os.utime(os.path.join(store.path, "layers", digest[7:]), (1, 1))
    with Store(store.path) as build:
        build.hold()
        assert build.blobs.has(used) and build.layers.path(used)
        fresh = build.blobs.put_bytes(b"fresh")
        store.prune(all_unused=True)
        assert build.blobs.has(used) and build.layers.path(used) and build.blobs.has(fresh)
        assert not build.blobs.has(old)
    store.prune(all_unused=True)
    assert not store.blobs.has(fresh)


def test_what_is_used_after_the_listing_stays(store: Store) -> None:
    from sandboxbuild.store.sweep import remove_items

    digest = store.blobs.put_bytes(b"x")
    items = store.items()
    time.sleep(0.005)
    assert store.blobs.has(digest)
    assert remove_items(store._scratch, items, None).blobs == 0
    assert store.blobs.has(digest)


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(store: Store) -> None:
    dead = Path(store.path, "tmp", "dead")
    (dead / "layer-1" / "deep").mkdir(parents=True)
    with Store(store.path, build_id="alive") as build:
        Path(build.scratch, "file").touch()
        assert store.prune().leftovers == 1
        assert not dead.exists()
        assert Path(build.scratch, "file").exists()


def test_last_process_of_a_build_clears_up(store: Store) -> None:
    launcher, executor = Store(store.path, build_id="b"), Store(store.path, build_id="b")
    launcher.hold()
    Path(executor.scratch, "file").touch()
    executor.close()
    assert Path(store.path, "tmp", "b", "file").exists()
    assert store.clear_leftovers() == 0
    launcher.close()
    assert not Path(store.path, "tmp", "b").exists()
    assert os.listdir(os.path.join(store.path, "builds")) == []


def test_launcher_clears_what_dead_builds_left(store: Store) -> None:
    Path(store.path, "tmp", "dead", "deep").mkdir(parents=True)
    Store.create(store.path, os.geteuid(), os.getegid()).close()
    assert not Path(store.path, "tmp", "dead").exists()


def test_trees_are_removed_by_who_is_asked_to(store: Store) -> None:
    put_step(store, "key", b"step")
    asked: list[str] = []
    store.prune(all_unused=True, remove=asked.append)
    assert asked and all(path.startswith(store.scratch) for path in asked)


def test_usage_counts_shared_blobs_once(store: Store) -> None:
    put_image(store, "one", b"x" * 5000)
    put_image(store, "two", b"x" * 5000)
    usage = store.usage()
    assert (usage.blobs, usage.images, usage.layers) == (3, 2, 0)
    assert usage.shared_bytes == usage.blobs_bytes
    assert usage.reclaimable_bytes == 0
