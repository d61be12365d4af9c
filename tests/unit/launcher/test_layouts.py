"""An OCI layout's image comes into the store whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from sandboxbuild.errors import ContextError, IntegrityError
from sandboxbuild.launcher.layouts import LayoutImage, load_image, parse_layout
from sandboxbuild.store import Store

OCI = "application/vnd.oci.image"


def put(layout: Path, data: bytes, media_type: str, **more: object) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}


def image(layout: Path, tag: str, content: bytes = b"layer") -> dict[str, object]:
    config = put(layout, json.dumps({"os": "linux", "architecture": "amd64", "tag": tag}).encode(), f"{OCI}.config.v1+json")
    layers = [put(layout, content, f"{OCI}.layer.v1.tar")]
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": layers}
    named = {"annotations": {"org.opencontainers.image.ref.name": tag}}
    return put(layout, json.dumps(manifest).encode(), f"{OCI}.manifest.v1+json", **named)


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    folder = tmp_path / "layout"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def write_index(layout: Path, *manifests: dict[str, object]) -> None:
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))


def test_a_layout_is_named_with_a_tag_a_digest_or_neither() -> None:
    digest = "sha256:" + "a" * 64
    assert parse_layout("oci-layout:///a/b:v1") == LayoutImage("/a/b", "v1")
    assert parse_layout(f"oci-layout://a@{digest}") == LayoutImage("a", digest)
    assert parse_layout("oci-layout://a/b") == LayoutImage("a/b")
    with pytest.raises(ContextError):
        parse_layout("oci-layout://a@sha256:../x")


def test_all_blobs_of_the_chosen_image_come_into_the_store(layout: Path, store: Store) -> None:
    first, second = image(layout, "v1"), image(layout, "latest", b"other")
    write_index(layout, first, second)
    assert load_image(LayoutImage(str(layout)), store).digest == second["digest"]
    assert load_image(LayoutImage(str(layout), "v1"), store).digest == first["digest"]
    assert store.blobs.has("sha256:" + hashlib.sha256(b"layer").hexdigest())


def test_the_only_image_needs_no_name(layout: Path, store: Store) -> None:
    only = image(layout, "v1")
    write_index(layout, only)
    assert load_image(LayoutImage(str(layout)), store).digest == only["digest"]
    with pytest.raises(ContextError, match="no image"):
        load_image(LayoutImage(str(layout), "v2"), store)


def test_bytes_that_are_not_their_digests_are_refused(layout: Path, store: Store) -> None:
    write_index(layout, image(layout, "v1"))
    (layout / "blobs" / "sha256" / hashlib.sha256(b"layer").hexdigest()).write_bytes(b"LAYER")
    with pytest.raises(IntegrityError):
        load_image(LayoutImage(str(layout)), store)


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../secret"])
def test_a_blob_that_is_a_link_to_outside_is_not_read(layout: Path, store: Store, target: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"layer")
    write_index(layout, image(layout, "v1"))
    blob = layout / "blobs" / "sha256" / hashlib.sha256(b"layer").hexdigest()
    blob.unlink()
    blob.symlink_to(target)
    with pytest.raises((ContextError, IntegrityError)):
        load_image(LayoutImage(str(layout)), store)


def test_images_of_other_platforms_that_the_layout_lacks_are_left_out(layout: Path, store: Store) -> None:
    here = image(layout, "v1")
    absent = {"mediaType": f"{OCI}.manifest.v1+json", "digest": "sha256:" + "b" * 64, "size": 3}
    document = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [here, absent]}
    index = put(layout, json.dumps(document).encode(), f"{OCI}.index.v1+json")
    write_index(layout, index)
    assert load_image(LayoutImage(str(layout)), store).digest == index["digest"]
    assert store.blobs.has(str(here["digest"]))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schemaVersion":2,"manifests":[{}]}', '{"schemaVersion":2,"layers":[]}'])
def test_a_malformed_index_is_an_error_of_ours(layout: Path, store: Store, text: str) -> None:
    (layout / "index.json").write_text(text)
    with pytest.raises(ContextError):
        load_image(LayoutImage(str(layout)), store)


def test_a_fifo_in_place_of_the_index_is_not_waited_for(layout: Path, store: Store) -> None:
    os.mkfifo(layout / "index.json")
    with pytest.raises(ContextError):
        load_image(LayoutImage(str(layout)), store)
