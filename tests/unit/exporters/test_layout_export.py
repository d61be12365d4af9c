"""OCI layouts and Docker archives."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.errors import InputError, IntegrityError, LimitExceeded, UsageError
from sandboxbuild.exporters import Output, export, exporter
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.oci.digest import sha256_digest
from sandboxbuild.store import Store

ImageOf = Callable[..., Descriptor]
FILES = [("a", b"hello")]


def read_tar(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar if info.isfile()}  # type: ignore[union-attr]


def read_folder(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def annotations(index: bytes) -> list[dict[str, str]]:
    return [entry.get("annotations", {}) for entry in json.loads(index)["manifests"]]


def exported(kind: str, store: Store, image: Descriptor, **fields: Any) -> bytes:
    stream = io.BytesIO()
    export(kind, store, image, Output("-", stream=stream, **fields))
    return stream.getvalue()


def test_directory_and_tar_hold_the_same_files(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    image = image_of(FILES, [("b", b"x")])
    export("oci", store, image, Output(str(tmp_path / "out"), names=("app",)))
    files = read_folder(tmp_path / "out")
    assert files == read_tar(exported("oci", store, image, names=("app",)))
    assert len(files) == 2 + 4
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert sha256_digest(content) == "sha256:" + name.rpartition("/")[2]


def test_same_image_is_the_same_tar(store: Store, image_of: ImageOf) -> None:
    image = image_of(FILES)
    for kind in ("oci", "docker", "tar"):
        assert exported(kind, store, image, names=("app",)) == exported(kind, store, image, names=("app",))


def test_each_name_is_an_entry_of_the_index(store: Store, image_of: ImageOf) -> None:
    files = read_tar(exported("oci", store, image_of(FILES), names=("app", "h.example.com/x:2", "app")))
    assert annotations(files["index.json"]) == [
        {"io.containerd.image.name": "docker.io/library/app:latest", "org.opencontainers.image.ref.name": "latest"},
        {"io.containerd.image.name": "h.example.com/x:2", "org.opencontainers.image.ref.name": "2"},
    ]


def test_image_without_a_name_is_one_bare_entry(store: Store, image_of: ImageOf) -> None:
    assert annotations(read_tar(exported("oci", store, image_of(FILES)))["index.json"]) == [{}]


def test_layout_that_is_there_gets_the_image_beside_the_others(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    first, second, third = image_of(FILES), image_of([("b", b"2")]), image_of([("c", b"3")])
    export("oci", store, first, Output(out, names=("app:1",)))
    export("oci", store, second, Output(out, names=("app:2",)))
    export("oci", store, third, Output(out, names=("app:1",)))
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    found = {entry["annotations"]["org.opencontainers.image.ref.name"]: entry["digest"] for entry in index["manifests"]}
    assert found == {"1": third.digest, "2": second.digest}


def test_directory_with_other_things_is_refused(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(UsageError, match="no OCI layout"):
        export("oci", store, image_of(FILES), Output(str(tmp_path / "out")))
    assert os.listdir(tmp_path / "out") == ["precious"]


def test_empty_directory_is_filled_in_its_place(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    inode = (tmp_path / "out").stat().st_ino
    export("oci", store, image_of(FILES), Output(str(tmp_path / "out")))
    assert (tmp_path / "out").stat().st_ino == inode
    assert (tmp_path / "out" / "index.json").exists()


@pytest.mark.parametrize("kind", ["oci", "docker", "rootfs", "tar"])
@pytest.mark.parametrize("name", ["out.tar", "out"])
def test_torn_blob_fails_the_export_and_leaves_nothing(
    store: Store, image_of: ImageOf, tmp_path: Path, kind: str, name: str
) -> None:
    image = image_of(FILES)
    layer = store.images.document(image).layers[0]  # type: ignore[union-attr]
    content = Path(store.blobs.path(layer.digest)).read_bytes()
    Path(store.blobs.path(layer.digest)).write_bytes(content[:-1] + b"!")
    with pytest.raises(IntegrityError):
        export(kind, store, image, Output(str(tmp_path / name)))
    assert sorted(os.listdir(tmp_path)) == ["store"]


def test_failed_export_leaves_the_old_file(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    image = image_of(FILES)
    (tmp_path / "out.tar").write_bytes(b"old")
    layer = store.images.document(image).layers[0]  # type: ignore[union-attr]
    os.unlink(store.blobs.path(layer.digest))
    with pytest.raises(IntegrityError):
        export("docker", store, image, Output(str(tmp_path / "out.tar")))
    assert (tmp_path / "out.tar").read_bytes() == b"old"


def test_docker_archive_names_config_layers_and_tags(store: Store, image_of: ImageOf) -> None:
    image = image_of(FILES, [("b", b"x")])
    files = read_tar(exported("docker", store, image, names=("app:1", "h.example.com/x:2", "app@" + image.digest)))
    (entry,) = json.loads(files["manifest.json"])
    assert entry["RepoTags"] == ["app:1", "h.example.com/x:2"]
    assert json.loads(files[entry["Config"]])["config"]["Cmd"] == ["/bin/sh"]
    assert len(entry["Layers"]) == 2
    assert all(layer in files for layer in entry["Layers"])
    assert "oci-layout" in files


def test_docker_archive_of_an_index_tells_which_platform_old_readers_see(
    store: Store, image_of: ImageOf, index_of: ImageOf
) -> None:
    index = index_of(image_of(FILES), image_of([("b", b"x")], architecture="arm64"))
    stream = io.BytesIO()
    result = export("docker", store, index, Output("-", platform="linux/arm64", stream=stream))
    files = read_tar(stream.getvalue())
    (entry,) = json.loads(files["manifest.json"])
    assert json.loads(files[entry["Config"]])["architecture"] == "arm64"
    assert len(files) == 3 + 7
    assert "linux/amd64" in result.warnings[0]


def test_platform_that_is_not_there_is_an_error(store: Store, image_of: ImageOf) -> None:
    with pytest.raises(InputError, match="s390x"):
        exported("docker", store, image_of(FILES), platform="linux/s390x")


def test_docker_archive_is_never_a_directory(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        export("docker", store, image_of(FILES), Output(str(tmp_path / "out"), as_tar=False))


def test_full_disk_is_a_limit(store: Store, image_of: ImageOf) -> None:
    with pytest.raises(LimitExceeded, match="/dev/full"):
        export("oci", store, image_of(FILES), Output("/dev/full", as_tar=True))


def test_unknown_type_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="floppy"):
        exporter("floppy")


def test_unwritable_destination_is_a_usage_error(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        export("oci", store, image_of(FILES), Output(str(tmp_path / "file" / "out.tar")))
    with pytest.raises(UsageError, match="is a directory"):
        export("docker", store, image_of(FILES), Output(str(tmp_path)))


@pytest.mark.parametrize(
    ("destination", "as_tar", "is_tar"),
    [
        ("-", None, True),
        ("x.tar", None, True),
        ("x", None, False),
        ("x.tar", False, False),
        ("x", True, True),
        ("-", False, True),
    ],
)
def test_form_follows_the_destination_unless_told(destination: str, as_tar: bool | None, is_tar: bool) -> None:
    assert Output(destination, as_tar=as_tar).is_tar is is_tar
