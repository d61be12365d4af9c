from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.errors import InputError
from sandboxbuild.executor.workdir import workdir_actions
from sandboxbuild.fstree.tree import FileTree
from sandboxbuild.plan.operations import WorkdirOp
from tests.unit.plan.trees import after, folder, link, tree


@pytest.fixture
def root_fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("app:x:1000:1001::/:/\n")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def made(root_fd: int, path: str, target: FileTree, user: str = "") -> dict[str, str]:
    return after(workdir_actions(WorkdirOp(path, user), target, root_fd, now_ns=1))


def test_each_missing_directory_is_made_and_roots(root_fd: int) -> None:
    assert made(root_fd, "/a//b/../c/", tree(folder("a"))) == {"/a/c": "dir 0755 0:0"}


def test_the_current_user_owns_them(root_fd: int) -> None:
    assert made(root_fd, "/by/app", tree(), "app") == {"/by": "dir 0755 1000:1001", "/by/app": "dir 0755 1000:1001"}


def test_nothing_is_done_where_it_exists_even_for_an_unknown_user(root_fd: int) -> None:
    assert made(root_fd, "/link", tree(link("link", "real"), folder("real")), "nobody") == {}
    assert made(root_fd, "/", tree()) == {}


def test_an_unknown_user_leaves_it_to_root(root_fd: int) -> None:
    assert made(root_fd, "/new", tree(), "nobody") == {"/new": "dir 0755 0:0"}


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("app:nogroup", "1000:1001"),
        ("5:nogroup", "5:5"),
        ("nobody:7", "0:7"),
        ("app:", "1000:0"),
        (":7", "0:7"),
        ("5:6", "5:6"),
    ],
)
def test_an_unknown_group_leaves_the_users_own(root_fd: int, user: str, owner: str) -> None:
    assert made(root_fd, "/new", tree(), user) == {"/new": f"dir 0755 {owner}"}


def test_links_are_followed_inside_the_root(root_fd: int) -> None:
    assert made(root_fd, "/link/x", tree(link("link", "../../real"))) == {"/real": "dir 0755 0:0", "/real/x": "dir 0755 0:0"}


def test_a_setgid_directory_passes_group_and_bit_on(root_fd: int) -> None:
    assert made(root_fd, "/data/sub", tree(folder("data", 0o2775, 0, 9)), "app") == {"/data/sub": "dir 2755 1000:1001"}
    assert made(root_fd, "/data/sub", tree(folder("data", 0o2775, 0, 9))) == {"/data/sub": "dir 2755 0:9"}


@pytest.mark.parametrize("path", ["/f", "/f/x"])
def test_a_file_in_the_way_is_an_error(root_fd: int, path: str) -> None:
    with pytest.raises(InputError, match="/f: not a directory"):
        made(root_fd, path, tree("f"))
