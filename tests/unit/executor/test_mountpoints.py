"""Mount points are made below a descriptor, and taken away again only while they are still ours and empty."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.executor.mountpoints import MadeStub, open_target, remove_stubs
from sandboxbuild.executor.stepspec import StepMount, StepSpec, from_message, to_message


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def make(root: int, path: str, *, directory: bool = True) -> list[MadeStub]:
    made: list[MadeStub] = []
    os.close(open_target(root, path, directory=directory, made=made))
    return made


def test_what_was_made_goes_and_the_times_come_back(root: int, tmp_path: Path) -> None:
    os.utime(tmp_path / "root", ns=(10**18, 10**18))
    made = [*make(root, "/a/b/c"), *make(root, "/etc/hosts", directory=False), *make(root, "/etc/other", directory=False)]
    assert (tmp_path / "root/a/b/c").is_dir()
    assert (tmp_path / "root/etc/hosts").read_bytes() == b""
    remove_stubs(made)
    assert list((tmp_path / "root").iterdir()) == []
    assert (tmp_path / "root").stat().st_mtime_ns == 10**18


def test_what_was_there_is_left_alone(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir()
    assert make(root, "/a") == []
    remove_stubs(make(root, "/a/b"))
    assert (tmp_path / "root/a").is_dir()


@pytest.mark.parametrize("change", ["write", "replace", "fill"])
def test_what_the_step_made_its_own_stays(root: int, tmp_path: Path, change: str) -> None:
    made = make(root, "/d/f", directory=False)
    path = tmp_path / "root/d/f"
    if change == "write":
        path.write_text("content")
    elif change == "replace":
        path.rename(tmp_path / "root/d/g")
        path.write_text("")
    else:
        (tmp_path / "root/d/more").write_text("")
    remove_stubs(made)
    assert (tmp_path / "root/d").is_dir()
    assert path.exists() == (change != "fill")


def test_a_parent_that_became_a_link_leads_nowhere(root: int, tmp_path: Path) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "f").write_text("")
    made = make(root, "/d/f", directory=False)
    (tmp_path / "root/d").rename(tmp_path / "root/moved")
    (tmp_path / "root/d").symlink_to(tmp_path / "canary")
    remove_stubs(made)
    assert (tmp_path / "canary" / "f").exists()
    assert not (tmp_path / "root/moved/f").exists()


@pytest.mark.parametrize("link", ["../../../canary/x", "/canary/x", "b/../../../canary/x"])
def test_dangling_links_are_followed_inside(root: int, tmp_path: Path, link: str) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "root/link").symlink_to(link)
    remove = make(root, "/link", directory=False)
    assert (tmp_path / "root/canary/x").is_file()
    assert list((tmp_path / "canary").iterdir()) == []
    remove_stubs(remove)
    assert not (tmp_path / "root/canary").exists()


@pytest.mark.parametrize(("path", "directory"), [("/file", True), ("/folder", False), ("/file/below", True), ("/loop/x", True)])
def test_what_is_in_the_way_is_an_error(root: int, tmp_path: Path, path: str, directory: bool) -> None:
    (tmp_path / "root/file").write_text("")
    (tmp_path / "root/folder").mkdir()
    (tmp_path / "root/loop").symlink_to("loop")
    with pytest.raises(OSError):
        make(root, path, directory=directory)


def test_a_spec_goes_through_a_message_unchanged() -> None:
    import marshal

    spec = StepSpec("/r", ("a", "b"), mounts=(StepMount("file", "/x", content=b"\0"),), listen=(("tcp", "127.0.0.1", 1),))
    assert from_message(marshal.loads(marshal.dumps(to_message(spec)))) == spec
