"""Unpacked layers and finished steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import IntegrityError
from sandboxbuild.oci.descriptor import OCI_LAYER_GZIP, Descriptor
from sandboxbuild.store import StepRecord, Store
from sandboxbuild.store.cache import decode_record, encode_record

CHAIN = "sha256:" + "c" * 64
KEY = "sha256:" + "e" * 64
RECORD = StepRecord(Descriptor(OCI_LAYER_GZIP, "sha256:" + "1" * 64, 7), "sha256:" + "2" * 64, CHAIN, "2020-01-01T00:00:00Z")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def commit(store: Store, content: str) -> str:
    with store.layers.staging() as staging:
        Path(staging, "file").write_text(content)
        return store.layers.commit(staging, CHAIN)


def test_committed_layer_is_found_by_its_chain(store: Store) -> None:
    assert store.layers.path(CHAIN) is None
    path = commit(store, "one")
    assert path == store.layers.path(CHAIN)
    assert Path(path, "file").read_text() == "one"


def test_folder_inside_the_staging_can_be_committed(store: Store) -> None:
    with store.layers.staging() as staging:
        os.mkdir(os.path.join(staging, "layer"), 0o751)
        path = store.layers.commit(os.path.join(staging, "layer"), CHAIN)
    assert os.stat(path).st_mode & 0o777 == 0o751


def test_loser_of_a_race_leaves_the_winner_and_no_rubbish(store: Store) -> None:
    first = commit(store, "one")
    assert commit(store, "two") == first
    assert Path(first, "file").read_text() == "one"
    assert os.listdir(store.scratch) == []


def test_staging_that_is_not_committed_vanishes(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.layers.staging() as staging:
        Path(staging, "file").touch()
        1 / 0  # noqa: B018
    assert os.listdir(store.scratch) == []
    assert store.layers.path(CHAIN) is None


def test_chain_never_becomes_a_path_unchecked(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.layers.path("sha256:../../x")


def test_record_is_found_by_its_key(store: Store) -> None:
    assert store.cache.get(KEY) is None
    store.cache.put(KEY, RECORD)
    assert store.cache.get(KEY) == RECORD
    assert store.cache.get(KEY.removeprefix("sha256:")) == RECORD


def test_any_text_is_a_key(store: Store) -> None:
    store.cache.put("../../x\n", RECORD)
    assert store.cache.get("../../x\n") == RECORD
    assert store.cache.get("../../x") is None


def test_step_without_a_layer_has_a_record(store: Store) -> None:
    record = StepRecord(None, "", "", "")
    store.cache.put(KEY, record)
    assert store.cache.get(KEY) == record


def test_removed_record_is_absent(store: Store) -> None:
    store.cache.put(KEY, RECORD)
    store.cache.remove(KEY)
    store.cache.remove(KEY)
    assert store.cache.get(KEY) is None


@pytest.mark.parametrize("data", [b"", b"{", b"{}x", b'{"diff_id":"../x"}', b'{"layer":{}}', b"x" * 100_000])
def test_torn_record_counts_as_absent(store: Store, data: bytes) -> None:
    store.cache.put(KEY, RECORD)
    Path(store.path, "cache", "steps", "e" * 64).write_bytes(data)
    assert store.cache.get(KEY) is None


@settings(max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_none(data: bytes) -> None:
    record = decode_record(data)
    assert record is None or decode_record(encode_record(record)) == record
