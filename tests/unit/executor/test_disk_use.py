"""What a step's writing is counted as, over folders of the test's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxbuild.executor import diskuse
from sandboxbuild.executor.diskuse import DiskUse


@pytest.fixture
def top(tmp_path: Path) -> Path:
    folder = tmp_path / "upper"
    folder.mkdir()
    return folder


def use(top: Path, *, disk_bytes: int = 0, inodes: int = 0) -> DiskUse:
    return DiskUse(str(top), [str(top)], disk_bytes, inodes)


def test_what_was_there_before_does_not_count(top: Path) -> None:
    (top / "old").write_bytes(b"x" * 200_000)
    counted = use(top, disk_bytes=100_000, inodes=1)
    assert counted.exceeded() == ""
    (top / "new").write_bytes(b"x" * 50_000)
    assert counted.exceeded() == ""
    (top / "more").touch()
    assert counted.exceeded() == "inodes"


def test_bytes_in_folders_of_folders_count(top: Path) -> None:
    counted = use(top, disk_bytes=100_000)
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_bytes(b"x" * 150_000)
    assert counted.exceeded() == "disk"


def test_a_file_with_several_links_is_written_once(top: Path) -> None:
    counted = use(top, disk_bytes=200_000)
    (top / "one").write_bytes(b"x" * 120_000)
    os.link(top / "one", top / "two")
    assert counted.exceeded() == ""


def test_holes_take_no_space(top: Path) -> None:
    counted = use(top, disk_bytes=100_000)
    with (top / "sparse").open("wb") as stream:
        stream.truncate(1 << 30)
    assert counted.exceeded() == ""


def test_links_lead_nowhere(top: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "large").write_bytes(b"x" * 200_000)
    counted = use(top, disk_bytes=100_000, inodes=1)
    (top / "link").symlink_to(tmp_path / "outside")
    assert counted.exceeded() == ""


def test_what_is_deleted_and_open_counts(top: Path) -> None:
    counted = use(top, disk_bytes=100_000)
    with (top / "gone").open("wb") as stream:
        (top / "gone").unlink()
        stream.write(b"x" * 150_000)
        stream.flush()
        assert counted.exceeded() == "disk"
    assert counted.exceeded() == ""


def test_folders_that_go_deeper_than_a_walk_are_too_many(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diskuse, "_DEPTH_LIMIT", 5)
    counted = use(top, disk_bytes=1 << 30)
    (top / "/".join("abcdef")).mkdir(parents=True)
    assert counted.exceeded() == "disk"


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert DiskUse(str(tmp_path), [str(tmp_path / "absent")], 10_000, 1).exceeded() == ""


def test_looks_are_some_time_apart(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(diskuse.time, "monotonic", lambda: clock[0])
    counted = use(top, inodes=1)
    assert counted.look() == ""
    for number in range(5):
        (top / str(number)).touch()
    assert counted.look() == ""
    clock[0] += diskuse.LOOK_S
    assert counted.look() == "inodes"
