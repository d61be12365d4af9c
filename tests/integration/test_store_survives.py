"""A store under several processes: killed at any moment, racing each other, pruned meanwhile, and on a full disk."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.errors import LimitExceeded
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.store import Store

MANIFEST = "application/vnd.oci.image.manifest.v1+json"

# Does everything that a build does to a store, for ever, from one seed.
WRITER = """
import json, os, random, sys
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.store import StepRecord, Store

store, seed = Store(sys.argv[1], create=False), random.Random(int(sys.argv[2]))
store.hold()
print("ready", flush=True)
while True:
    content = seed.randbytes(seed.randrange(1, 300_000))
    with store.blobs.ingest() as ingest:
        for start in range(0, len(content), 50_000):
            ingest.write(content[start:start + 50_000])
        digest, size = ingest.commit()
    with store.layers.staging() as staging:
        for number in range(5):
            with open(os.path.join(staging, str(number)), "wb") as file:
                file.write(content[:1000])
        store.layers.commit(staging, digest)
    layer = Descriptor("application/vnd.oci.image.layer.v1.tar", digest, size)
    store.cache.put(digest, StepRecord(layer, digest, digest, ""))
    config = store.blobs.put_bytes(b'{"n":%d}' % seed.randrange(10))
    document = {"schemaVersion": 2, "config": {"mediaType": "a/b", "digest": config, "size": 7},
                "layers": [{"mediaType": layer.media_type, "digest": digest, "size": size}]}
    manifest = json.dumps(document).encode()
    described = Descriptor("application/vnd.oci.image.manifest.v1+json", store.blobs.put_bytes(manifest), len(manifest))
    store.images.tag("app%d" % seed.randrange(3), described)
    assert store.blobs.has(digest) and store.layers.path(digest) and store.cache.get(digest), "what was made is gone"
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(str(tmp_path / "store")) as store:
        yield store


def start(store: Store, seed: int) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.path, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def stop(process: subprocess.Popen[bytes]) -> str:
    """Kill it; what it had to say."""
    process.send_signal(signal.SIGKILL)
    return process.communicate()[1].decode()


def check(store: Store) -> None:
    """Everything visible is whole."""
    for folder in ("sha256", "sha512"):
        for name in os.listdir(os.path.join(store.path, "blobs", folder)):
            data = Path(store.path, "blobs", folder, name).read_bytes()
            assert hashlib.new(folder, data).hexdigest() == name
    for name in os.listdir(os.path.join(store.path, "layers")):
        assert sorted(os.listdir(os.path.join(store.path, "layers", name))) == ["fs", "made"]
        assert len(os.listdir(os.path.join(store.path, "layers", name, "fs"))) == 5
    for name in os.listdir(os.path.join(store.path, "cache", "steps")):
        record = store.cache.get(name)
        assert record is not None and record.layer is not None
        assert store.blobs.has(record.layer.digest, record.layer.size_bytes)
    assert len(store.images.list()) == len(os.listdir(os.path.join(store.path, "images")))
    for image in store.images.list():
        for digest, size_bytes in store.images.reachable(image.descriptor).items():
            assert store.blobs.has(digest, size_bytes if size_bytes != 7 else None), image


def test_killed_writers_leave_the_store_whole(store: Store) -> None:
    chance = random.Random(7)
    for round_number in range(8):
        process = start(store, round_number)
        time.sleep(chance.random() / 20)
        assert stop(process) == ""
        check(store)
    store.prune()
    check(store)
    assert os.listdir(os.path.join(store.path, "tmp")) == [store._scratch.build_id]
    assert len(os.listdir(os.path.join(store.path, "builds"))) == 1


def test_four_writers_don_t_disturb_each_other(store: Store) -> None:
    # Two pairs with the same seed write the same things at the same time.
    processes = [start(store, number // 2) for number in range(4)]
    time.sleep(0.5)
    assert [stop(process) for process in processes] == [""] * 4
    check(store)


def test_prune_takes_nothing_from_live_builds(store: Store) -> None:
    processes = [start(store, number) for number in range(3)]
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        store.prune(keep_bytes=0)
        assert all(process.poll() is None for process in processes), stop(processes[0])
    assert [stop(process) for process in processes] == [""] * 3
    check(store)
    assert store.usage().blobs > 0
    store.prune(keep_bytes=0)
    assert store.usage().total_bytes == 0


def test_killed_prune_leaves_the_store_whole(store: Store) -> None:
    pruner = "import sys; from sandboxbuild.store import Store; Store(sys.argv[1], create=False).prune(all_unused=True)"
    for round_number in range(5):
        process = start(store, round_number)
        time.sleep(0.1)
        stop(process)
        pruning = subprocess.Popen([sys.executable, "-c", pruner, store.path])
        time.sleep(0.05 + round_number * 0.01)
        pruning.send_signal(signal.SIGKILL)
        pruning.wait()
        for image in store.images.list():
            assert all(map(store.blobs.has, store.images.reachable(image.descriptor)))
    store.prune(all_unused=True)
    assert os.listdir(os.path.join(store.path, "layers")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "disk")
    os.mkdir(path)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts")
def test_full_disk_is_a_limit_and_the_store_goes_on_working(small_disk: str) -> None:
    with Store(os.path.join(small_disk, "store")) as store:
        kept = store.blobs.put_bytes(b"kept")
        with pytest.raises(LimitExceeded, match="disk is full") as caught:
            store.blobs.put_bytes(bytes(2 << 20))
        assert caught.value.exit_code == 102
        filler = Path(small_disk, "filler")
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(2 << 20))
        with pytest.raises(LimitExceeded):
            store.images.tag("app", Descriptor(MANIFEST, kept, 4))
        assert os.listdir(store.scratch) == []
        assert store.images.list() == ()
        filler.unlink()
        assert store.blobs.read(kept, 10) == b"kept"
        assert store.blobs.put_bytes(bytes(100_000))


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
def test_what_root_makes_in_the_executors_store_is_the_executors(tmp_path: Path) -> None:
    owner = 0x7000_0000 + 65536
    with Store.create(str(tmp_path / "store"), owner, owner, ids="range:1") as store:
        descriptor = Descriptor(MANIFEST, store.blobs.put_bytes(b"x"), 1)
        store.images.tag("app", descriptor)
        store.prune()
        for folder, folders, names in os.walk(store.path):
            for name in [".", *folders, *names]:
                status = os.lstat(os.path.join(folder, name))
                assert (status.st_uid, status.st_gid) == (owner, owner), os.path.join(folder, name)
