from __future__ import annotations

import stat

import pytest

from sandboxbuild.errors import InputError
from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.filtered import FilteredTree
from sandboxbuild.fstree.paths import clean, rooted
from sandboxbuild.fstree.tree import FileTree, resolve


def file(path: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o644)


def link(path: bytes, target: bytes) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, link_target=target)


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("", "."),
        (".", "."),
        ("/", "/"),
        ("a//b/./c", "a/b/c"),
        ("../../a", "../../a"),
        ("/../a", "/a"),
        ("a/..", "."),
        ("a/", "a"),
    ],
)
def test_a_path_is_cleaned_as_go_cleans_it(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


def test_a_rooted_path_never_leaves_the_root() -> None:
    assert rooted("../../etc") == "etc"
    assert rooted("/a/../..") == ""


def test_parents_that_no_entry_names_are_directories() -> None:
    tree = FileTree([file(b"a/b/c"), file(b"a/x")])
    assert tree.children(b"") == (b"a",)
    assert tree.children(b"a") == (b"b", b"x")
    parent = tree.entry(b"a/b")
    assert parent is not None
    assert parent.is_directory


def test_an_empty_tree_has_a_root() -> None:
    root = FileTree().entry(b"")
    assert root is not None
    assert root.is_directory
    assert FileTree().children(b"") == ()


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/link/f", b"real/f"),
        (b"up/f", b"real/f"),
        (b"absolute", b"real"),
        (b"escaping/f", b"real/f"),
        (b"dangling/x", b"nowhere/x"),
        (b"real/../real/./f", b"real/f"),
        (b"../../real", b"real"),
        (b"new/../other", b"other"),
        (b"chain", b"real"),
    ],
)
def test_links_are_followed_inside_the_root(path: bytes, expected: bytes) -> None:
    tree = FileTree(
        [
            file(b"real/f"),
            link(b"link", b"real"),
            link(b"up", b"./real/../real"),
            link(b"absolute", b"/real"),
            link(b"escaping", b"../../../real"),
            link(b"dangling", b"nowhere"),
            link(b"chain", b"link"),
        ]
    )
    assert resolve(tree, path).path == expected


def test_links_in_a_circle_are_an_error() -> None:
    with pytest.raises(InputError, match="too many symbolic links"):
        resolve(FileTree([link(b"a", b"b"), link(b"b", b"a")]), b"a")


def test_a_file_in_the_middle_of_a_path_is_an_error() -> None:
    with pytest.raises(InputError, match="not a directory"):
        resolve(FileTree([file(b"f")]), b"f/x")


class IgnoreAllBut:
    """Rules: everything is ignored but one path."""

    def __init__(self, kept: bytes) -> None:
        self.kept = kept
        self.looked_into: list[bytes] = []

    def ignores(self, path: bytes, is_directory: bool) -> bool:
        return path != self.kept

    def may_reinclude_below(self, path: bytes) -> bool:
        self.looked_into.append(path)
        return self.kept.startswith(path + b"/")


def test_an_ignored_directory_stays_for_what_is_taken_back_in_it() -> None:
    rules = IgnoreAllBut(b"a/b/keep")
    tree = FilteredTree(FileTree([file(b"a/b/keep"), file(b"a/b/other"), file(b"a/c/f"), file(b"top")]), rules)
    assert tree.children(b"") == (b"a",)
    assert tree.children(b"a") == (b"b",)
    assert tree.children(b"a/b") == (b"keep",)
    assert tree.entry(b"a/c") is None
    assert tree.entry(b"top") is None
    assert tree.entry(b"") is not None


def test_a_directory_that_nothing_is_taken_back_in_is_not_looked_into() -> None:
    class Listed(FileTree):
        def __init__(self) -> None:
            super().__init__([file(b"node_modules/x/y"), file(b"keep/f")])
            self.listed: list[bytes] = []

        def children(self, path: bytes) -> tuple[bytes, ...]:
            self.listed.append(path)
            return super().children(path)

    tree = Listed()
    assert FilteredTree(tree, IgnoreAllBut(b"keep/f")).entry(b"node_modules") is None
    assert tree.listed == []
