"""Named images."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sandboxbuild.errors import IntegrityError, UsageError
from sandboxbuild.oci.config import History, ImageConfig
from sandboxbuild.oci.descriptor import OCI_LAYER, Descriptor
from sandboxbuild.oci.digest import sha256_digest
from sandboxbuild.oci.image import Image
from sandboxbuild.oci.mutate import append_layer, assemble, assemble_index
from sandboxbuild.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


def put_image(store: Store, content: bytes, architecture: str = "amd64") -> Descriptor:
    digest = store.blobs.put_bytes(content)
    layer = Descriptor(OCI_LAYER, digest, len(content))
    assembled = assemble(append_layer(Image(ImageConfig(architecture=architecture)), layer, digest, History("RUN x")))
    store.blobs.put_bytes(assembled.config)
    store.blobs.put_bytes(assembled.manifest)
    return assembled.manifest_descriptor


def test_image_is_found_by_any_form_of_its_name(store: Store) -> None:
    descriptor = put_image(store, b"one")
    store.images.tag("app", descriptor)
    for name in ("app", "app:latest", "docker.io/library/app:latest"):
        found = store.images.find(name)
        assert found is not None
        assert (found.name, found.descriptor) == ("docker.io/library/app:latest", descriptor)
    assert store.images.find("app:2") is None


def test_image_is_found_by_manifest_and_config_digest(store: Store) -> None:
    descriptor = put_image(store, b"one")
    store.images.tag("app", descriptor)
    config = store.images.document(descriptor).config.digest  # type: ignore[union-attr]
    for text in (descriptor.digest, descriptor.digest[7:19], "sha256:" + descriptor.digest[7:11], config, config[7:19]):
        found = store.images.find(text)
        assert found is not None and found.descriptor == descriptor


def test_digits_of_two_images_are_refused(store: Store) -> None:
    for number in range(2):
        digest = "sha256:abcd" + str(number) * 60
        entry = {"name": f"x{number}", "descriptor": {"mediaType": "a/b", "digest": digest, "size": 1}}
        name = store.images.file_of(f"docker.io/library/x{number}:latest")
        Path(store.path, "images", name).write_text(json.dumps(entry))
    with pytest.raises(UsageError, match="2 images"):
        store.images.find("abcd")
    assert store.images.find("abcd0") is not None


def test_name_moves_to_the_image_that_was_tagged_last(store: Store) -> None:
    first, second = put_image(store, b"one"), put_image(store, b"two")
    store.images.tag("app", first)
    store.images.tag("app", second)
    assert [image.descriptor for image in store.images.list()] == [second]


def test_image_without_a_name_is_kept_by_its_digest(store: Store) -> None:
    descriptor = put_image(store, b"one")
    image = store.images.tag(descriptor.digest, descriptor)
    assert not image.is_named
    assert store.images.find(descriptor.digest[7:19]) is not None


def test_name_of_nothing_is_refused(store: Store) -> None:
    with pytest.raises(UsageError):
        store.images.tag("../x", put_image(store, b"one"))
    with pytest.raises(UsageError):
        store.images.find("no name!")


def test_image_that_is_not_there_gets_no_name(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.images.tag("app", Descriptor("a/b", sha256_digest(b"x"), 1))


def test_removed_name_is_gone(store: Store) -> None:
    store.images.tag("app", put_image(store, b"one"))
    assert store.images.remove("app:latest")
    assert not store.images.remove("app")
    assert store.images.list() == ()


def test_reachable_blobs_are_manifest_config_and_layers(store: Store) -> None:
    descriptor = put_image(store, b"one")
    found = store.images.reachable(descriptor)
    assert len(found) == 3
    assert found[sha256_digest(b"one")] == 3


def test_index_leads_to_each_platform(store: Store) -> None:
    images = (put_image(store, b"one"), put_image(store, b"two", "arm64"))
    data, descriptor = assemble_index(images)
    store.blobs.put_bytes(data)
    assert len(store.images.reachable(descriptor)) == 7
    platforms = [image.platform for image, _ in store.images.manifests(descriptor)]
    assert platforms == ["linux/amd64", "linux/arm64"]


@pytest.mark.parametrize("content", ["", "{", "{}", '{"name":"other","descriptor":{"mediaType":"a/b","digest":"x","size":1}}'])
def test_torn_or_false_entry_is_no_image(store: Store, content: str) -> None:
    store.images.tag("app", put_image(store, b"one"))
    file = os.listdir(os.path.join(store.path, "images"))[0]
    Path(store.path, "images", file).write_text(content)
    assert store.images.list() == ()


def test_entry_under_another_names_file_is_no_image(store: Store) -> None:
    store.images.tag("app", put_image(store, b"one"))
    folder = Path(store.path, "images")
    (folder / os.listdir(folder)[0]).rename(folder / ("0" * 64 + ".json"))
    assert store.images.list() == ()
