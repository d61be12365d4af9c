"""The flattened filesystem."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.errors import IntegrityError
from sandboxbuild.exporters import Output, export
from sandboxbuild.oci.descriptor import Descriptor
from sandboxbuild.store import Store

ImageOf = Callable[..., Descriptor]


def flat(store: Store, image: Descriptor) -> dict[str, Any]:
    """Name -> content of a file, "dir", or (type, link)."""
    stream = io.BytesIO()
    export("tar", store, image, Output("-", stream=stream))
    stream.seek(0)
    found: dict[str, Any] = {}
    with tarfile.open(fileobj=stream) as tar:
        for info in tar:
            if info.isfile():
                found[info.name] = tar.extractfile(info).read()  # type: ignore[union-attr]
            else:
                found[info.name] = "dir" if info.isdir() else (info.type, info.linkname)
    return found


def test_upper_layers_win(store: Store, image_of: ImageOf) -> None:
    image = image_of([("a", b"1"), ("d", None), ("d/x", b"1")], [("a", b"2"), ("d/y", b"2")])
    assert flat(store, image) == {"a": b"2", "d": "dir", "d/x": b"1", "d/y": b"2"}


def test_whiteouts_delete_what_is_below_and_are_not_there(store: Store, image_of: ImageOf) -> None:
    image = image_of(
        [("a", b"1"), ("d", None), ("d/x", b"1"), ("e", None), ("e/x", b"1"), ("f", b"1")],
        [
            (".wh.a", b""),
            (".wh.d", b""),
            ("e/y", b"2"),
            ("e/.wh..wh..opq", b""),
            (".wh.none", b""),
            ("f", b"2"),
            (".wh.f", b""),
        ],
    )
    assert flat(store, image) == {"e": "dir", "e/y": b"2", "f": b"2"}


def test_file_and_directory_replace_each_other(store: Store, image_of: ImageOf) -> None:
    image = image_of([("a", None), ("a/x", b"1"), ("b", b"1")], [("a", b"2"), ("b", None), ("b/y", b"2")])
    assert flat(store, image) == {"a": b"2", "b": "dir", "b/y": b"2"}


def test_hard_link_outlives_the_name_it_was_made_from(store: Store, image_of: ImageOf) -> None:
    image = image_of([("a", b"old"), ("b", ("=", "a")), ("c", ("=", "a"))], [("a", b"new")])
    assert flat(store, image) == {"b": b"old", "c": (tarfile.LNKTYPE, "b"), "a": b"new"}


def test_link_among_the_parents_leads_where_it_did_in_the_image(store: Store, image_of: ImageOf) -> None:
    image = image_of(
        [("usr/lib", None), ("lib", ("->", "usr/lib")), ("abs", ("->", "/usr"))], [("lib/x", b"1"), ("abs/y", b"2")]
    )
    assert flat(store, image) == {
        "usr": "dir",
        "usr/lib": "dir",
        "lib": (tarfile.SYMTYPE, "usr/lib"),
        "abs": (tarfile.SYMTYPE, "/usr"),
        "usr/lib/x": b"1",
        "usr/y": b"2",
    }


@pytest.mark.parametrize(
    "members",
    [
        [("../x", b"1")],
        [("a/../../x", b"1")],
        [("x", ("=", "../../etc/passwd"))],
        [("x", ("=", "none"))],
        [("d", None), ("x", ("=", "d"))],
        [("l", ("->", "l")), ("l/x", b"1")],
        [(".wh.", b"")],
    ],
)
def test_entry_that_makes_no_sense_is_an_integrity_error(store: Store, image_of: ImageOf, members: list[Any]) -> None:
    with pytest.raises(IntegrityError):
        flat(store, image_of(members))


def test_link_out_of_the_root_stays_inside(store: Store, image_of: ImageOf) -> None:
    image = image_of([("l", ("->", "../../../d")), ("d", None)], [("l/x", b"1")])
    assert flat(store, image) == {"l": (tarfile.SYMTYPE, "../../../d"), "d": "dir", "d/x": b"1"}


def test_sparse_file_is_written_out(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        for at in (100_000, 300_000):
            file.seek(at)
            file.write(b"island")
        file.truncate(500_000)
    archive = subprocess.run(["tar", "-cS", "-C", tmp_path, "sparse"], check=True, stdout=subprocess.PIPE).stdout
    assert len(archive) < 100_000
    assert flat(store, image_of(archive))["sparse"] == (tmp_path / "sparse").read_bytes()


def test_directory_has_the_files(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    image = image_of([("bin", 0o555), ("bin/sh", ("mode", 0o755, b"#!")), ("l", ("->", "/bin/sh"))], [("bin/x", b"1")])
    out = tmp_path / "out"
    export("rootfs", store, image, Output(str(out)))
    assert (out / "bin" / "sh").read_bytes() == b"#!"
    assert (out / "bin" / "x").read_bytes() == b"1"
    assert (out / "bin" / "sh").stat().st_mode & 0o777 == 0o755
    assert os.readlink(out / "l") == "/bin/sh"
    assert sorted(os.listdir(tmp_path)) == ["out", "store"]


def test_files_are_added_to_a_directory_that_is_there(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o711)
    (out / "mine").write_text("x")
    export("local", store, image_of([(".", 0o700), ("a", b"1")]), Output(str(out)))
    assert sorted(os.listdir(out)) == ["a", "mine"]
    assert out.stat().st_mode & 0o777 == 0o711


def test_link_in_the_destination_is_not_left_through(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "outside").mkdir()
    (out / "d").symlink_to(tmp_path / "outside")
    try:
        export("rootfs", store, image_of([("d/x", b"1")]), Output(str(out)))
    except IntegrityError:
        pass
    assert os.listdir(tmp_path / "outside") == []


def test_devices_are_left_out_of_a_directory_and_told(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    result = export("rootfs", store, image_of([("dev", None), ("dev/null", ("c", 1, 3))]), Output(str(tmp_path / "out")))
    assert os.listdir(tmp_path / "out" / "dev") == []
    assert "device" in result.warnings[0]


def test_set_id_bits_go_where_others_can_reach_them(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o755)
    image = image_of([("su", ("mode", 0o4755, b"x")), ("tmp", 0o1777)])
    result = export("rootfs", store, image, Output(str(tmp_path / "out")))
    assert (tmp_path / "out" / "su").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out" / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert "set-id" in result.warnings[0]


def test_new_directory_of_root_is_roots_alone(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    export("rootfs", store, image_of([("su", ("mode", 0o4755, b"x"))]), Output(str(tmp_path / "out")))
    is_root = os.geteuid() == 0
    assert (tmp_path / "out").stat().st_mode & 0o777 == (0o700 if is_root else 0o755)
    assert bool((tmp_path / "out" / "su").stat().st_mode & stat.S_ISUID) == is_root


def test_each_platform_of_an_index_has_its_folder(store: Store, image_of: ImageOf, index_of: ImageOf, tmp_path: Path) -> None:
    index = index_of(image_of([("a", b"1")]), image_of([("b", b"2")], architecture="arm64"))
    export("rootfs", store, index, Output(str(tmp_path / "out")))
    assert sorted(os.listdir(tmp_path / "out")) == ["linux_amd64", "linux_arm64"]
    assert flat(store, index) == {
        "linux_amd64": "dir",
        "linux_amd64/a": b"1",
        "linux_arm64": "dir",
        "linux_arm64/b": b"2",
    }
    export("rootfs", store, index, Output(str(tmp_path / "one"), platform="linux/arm64"))
    assert os.listdir(tmp_path / "one") == ["b"]


def test_image_without_layers_is_an_empty_directory(store: Store, image_of: ImageOf, tmp_path: Path) -> None:
    export("rootfs", store, image_of(), Output(str(tmp_path / "out")))
    assert os.listdir(tmp_path / "out") == []
