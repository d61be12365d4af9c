"""Whiteouts, read and written."""

import pytest

from sandboxbuild.fstree.whiteout import (
    NotAWhiteout,
    Whiteout,
    is_aufs_bookkeeping,
    looks_like_whiteout,
    opaque_path,
    read_whiteout,
    whiteout_path,
)


@pytest.mark.parametrize("path", [b"a", b"etc/passwd", b"d/x.wh.y"])
def test_a_path_survives_both_ways(path: bytes) -> None:
    assert read_whiteout(whiteout_path(path)) == Whiteout(path)
    assert read_whiteout(opaque_path(path)) == Whiteout(path, opaque=True)
    assert read_whiteout(path) is None


def test_the_root_can_be_opaque() -> None:
    assert read_whiteout(opaque_path(b"")) == Whiteout(b"", opaque=True)


@pytest.mark.parametrize("path", [b".wh.", b"a/.wh..", b"a/.wh...", b".wh.a/b", b"x/.wh.y/.wh.z"])
def test_whiteouts_that_hide_nothing_are_refused(path: bytes) -> None:
    with pytest.raises(NotAWhiteout):
        read_whiteout(path)


def test_folders_of_aufs_are_told_from_opaque_directories() -> None:
    assert is_aufs_bookkeeping(b".wh..wh.plnk/12.34")
    assert is_aufs_bookkeeping(b".wh..wh.aufs")
    assert not is_aufs_bookkeeping(b"a/.wh..wh..opq")
    assert not is_aufs_bookkeeping(b"a/.wh.b")


def test_a_file_with_the_prefix_cannot_be_in_a_layer() -> None:
    assert looks_like_whiteout(b"a/.wh.b")
    assert not looks_like_whiteout(b"a/b.wh.")
