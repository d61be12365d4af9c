"""Resolution below a descriptor: openat2 and the walk that stands in for it give the same answers."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxbuild.system import files, walk


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    inner = tmp_path / "root"
    (inner / "etc").mkdir(parents=True)
    (inner / "a" / "b").mkdir(parents=True)
    (inner / "etc" / "passwd").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    os.symlink("/etc/passwd", inner / "absolute")
    os.symlink("../../../../secret", inner / "climbing")
    os.symlink("../../etc", inner / "a" / "up")
    os.symlink("/a/b/new", inner / "dangling")
    os.symlink("loop", inner / "loop")
    os.symlink("/a/", inner / "slashed")
    os.symlink(str(tmp_path), inner / "host")
    fd = os.open(inner, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def _outcome(opener: object, *args: object, **kwargs: object) -> object:
    try:
        fd = opener(*args, **kwargs)  # type: ignore[operator]
    except OSError as error:
        return error.errno
    try:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino
    finally:
        os.close(fd)


PARTS = st.sampled_from(
    [
        "",
        ".",
        "..",
        "a",
        "b",
        "up",
        "etc",
        "passwd",
        "absolute",
        "climbing",
        "dangling",
        "loop",
        "slashed",
        "host",
        "no",
        "secret",
    ]
)
PATHS = st.lists(PARTS, min_size=1, max_size=6).map("/".join)


@given(path=PATHS, flags=st.sampled_from([os.O_PATH, os.O_RDONLY, os.O_PATH | os.O_NOFOLLOW, os.O_RDONLY | os.O_DIRECTORY]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_walking_finds_what_the_kernel_finds(root: int, path: str, flags: int) -> None:
    expected = _outcome(files.open_in_root, root, path, flags)
    assert _outcome(walk.open_walking, root, os.fsencode(path), flags, 0, in_root=True) == expected


@given(path=PATHS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_walking_beneath_refuses_what_the_kernel_refuses(root: int, path: str) -> None:
    expected = _outcome(files.open_beneath, root, path, os.O_PATH)
    found = _outcome(walk.open_walking, root, os.fsencode(path), os.O_PATH, 0, in_root=False)
    # Which of two errors comes first may differ; that there is one may not.
    assert found == expected or (isinstance(found, int) and isinstance(expected, int))


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_an_absolute_link_stays_in_the_root(root: int) -> None:
    assert _read(files.open_in_root(root, "absolute", os.O_RDONLY)) == b"inside"


@pytest.mark.parametrize("path", ["climbing", "host/secret", "../secret", "/../secret", "a/../../secret"])
def test_nothing_outside_the_root_is_found(root: int, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        files.open_in_root(root, path, os.O_RDONLY)


def test_a_dangling_link_creates_its_target_inside(root: int, tmp_path: Path) -> None:
    for opener in (files.open_in_root, lambda *a: walk.open_walking(*a, in_root=True)):
        os.close(opener(root, b"dangling", os.O_CREAT | os.O_WRONLY, 0o640))
        made = tmp_path / "root/a/b/new"
        assert made.stat().st_size == 0
        made.unlink()


@pytest.mark.parametrize("path", ["absolute", "a/up/passwd", "slashed/b"])
def test_beneath_refuses_links(root: int, path: str) -> None:
    with pytest.raises(OSError) as caught:
        files.open_beneath(root, path, os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_removal_stays_on_this_side_of_a_link(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "x" / "y").mkdir(parents=True)
    os.symlink(canary, tree / "x" / "link")
    os.chmod(tree / "x", 0)
    fd = os.open(tmp_path, os.O_RDONLY)
    files.remove_tree(fd, "tree")
    files.remove_tree(fd, "tree")
    os.close(fd)
    assert not tree.exists()
    assert (canary / "file").read_text() == "kept"


def nested(top: Path, depth: int, name: str) -> None:
    """`depth` directories, each in the one before, with a file in each hundredth."""
    current = os.open(top, os.O_RDONLY)
    for number in range(depth):
        os.mkdir(name, dir_fd=current)
        following = os.open(name, os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = following
        if number % 100 == 0:
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=current))
    os.close(current)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder on a tmpfs: a busy disk takes a millisecond for each of 20,000 directories."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # where every Linux has one
        yield Path(folder)


@pytest.mark.parametrize(("depth", "name"), [(60, "d" * 200), (20_000, "d"), (600, ".deep-1")])
def test_removal_bears_a_deep_tree(in_memory: Path, depth: int, name: str) -> None:
    """In bounded memory: with no more open directories than a few hundred, and no path longer than a name."""
    nested(in_memory, depth, name)
    fd = os.open(in_memory, os.O_RDONLY)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (600, hard))
    try:
        files.remove_tree(fd, name)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir(fd) == []
    os.close(fd)


def test_what_was_moved_up_hides_nothing_that_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MAX_DEPTH", 2)
    (tmp_path / "tree").mkdir()
    nested(tmp_path / "tree", 8, "d")
    (tmp_path / "tree" / ".deep-1").write_text("a file")
    (tmp_path / "tree" / ".deep-2" / "full").mkdir(parents=True)
    (tmp_path / "tree" / "d" / "d" / "d").chmod(0)
    fd = os.open(tmp_path, os.O_RDONLY)
    files.remove_tree(fd, "tree")
    os.close(fd)
    assert os.listdir(tmp_path) == []


def test_more_names_than_are_read_at_once_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_NAMES_AT_ONCE", 7)
    (tmp_path / "tree").mkdir()
    for number in range(50):
        (tmp_path / "tree" / f"{number}").mkdir() if number % 2 else (tmp_path / "tree" / f"{number}").touch()
    fd = os.open(tmp_path, os.O_RDONLY)
    files.remove_tree(fd, "tree")
    os.close(fd)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_removal_takes_one_name(name: str) -> None:
    with pytest.raises(ValueError):
        files.remove_tree(0, name)


def test_directories_are_made_beneath(root: int, tmp_path: Path) -> None:
    os.close(files.make_directories(root, "/x/y//z/", 0o700))
    assert (tmp_path / "root/x/y/z").is_dir()
    with pytest.raises(OSError):
        files.make_directories(root, "host/made")
    with pytest.raises(OSError):
        files.make_directories(root, "../made")
    assert not (tmp_path / "made").exists()


def test_copy_falls_back_where_the_kernel_cannot(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    read_end, write_end = os.pipe()
    with source.open("rb") as src:
        assert files.copy_range(src.fileno(), write_end, 30_000) == 30_000
    os.close(write_end)
    assert len(files.read_limited(read_end, 30_000)) == 30_000
    os.close(read_end)


def test_reading_past_the_limit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"x" * 11)
    with path.open("rb") as source, pytest.raises(OSError) as caught:
        files.read_limited(source.fileno(), 10)
    assert caught.value.errno == errno.EFBIG


def test_written_file_has_its_mode_whatever_the_umask(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    old = os.umask(0o077)
    try:
        files.write_file(fd, "f", b"data", 0o664)
    finally:
        os.umask(old)
    with pytest.raises(FileExistsError):
        files.write_file(fd, "f", b"", 0o600)
    os.close(fd)
    assert (tmp_path / "f").stat().st_mode & 0o7777 == 0o664


def test_a_directory_is_opened_through_no_link(tmp_path: Path, root: int) -> None:
    (tmp_path / "root" / "to-a").symlink_to("a")
    with pytest.raises(NotADirectoryError):
        files.open_directory("to-a", root)
    with pytest.raises(NotADirectoryError):
        files.open_directory(b"dangling", root)
    fd = files.open_directory("a", root)
    assert sorted(os.listdir(fd)) == ["b", "up"]
    os.close(fd)
