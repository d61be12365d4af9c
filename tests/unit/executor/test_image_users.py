from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import InputError, LimitExceeded, SandboxbuildError
from sandboxbuild.executor.users import MAX_FILE_BYTES, UnknownName, resolve_owner, resolve_user

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
# comment:x:9:9::/:/
broken:x:abc:0::/broken:/bin/sh
short:x
app:x:1000:1001:App:/home/app:/bin/sh
alias:x:1000:7:Alias:/home/alias:/bin/sh
homeless:x:50:50
77:x:78:79::/home/77:/bin/sh
huge:x:4294967296:0::/:/
"""
GROUP = b"""root:x:0:
audio:x:29:app,root
video:x:44:other,app
app:x:1001:
staff:x:50:xapp
"""


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(PASSWD)
    (tmp_path / "etc/group").write_bytes(GROUP)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0, "/root", (29,))),
        ("root", (0, 0, "/root", (29,))),
        ("0", (0, 0, "/root", (29,))),
        ("app", (1000, 1001, "/home/app", (29, 44))),
        ("1000", (1000, 1001, "/home/app", (29, 44))),
        ("app:staff", (1000, 50, "/home/app", ())),
        ("app:4242", (1000, 4242, "/home/app", ())),
        ("app:", (1000, 1001, "/home/app", (29, 44))),
        ("alias", (1000, 7, "/home/app", ())),
        ("homeless", (50, 50, "", ())),
        ("12345", (12345, 0, "/", ())),
        ("12345:6", (12345, 6, "/", ())),
        ("77", (77, 0, "/", ())),
        (":audio", (0, 29, "/root", ())),
        ("2147483647", (2147483647, 0, "/", ())),
    ],
)
def test_a_user_is_who_the_images_files_say(rootfs: int, text: str, expected: object) -> None:
    assert tuple(resolve_user(rootfs, text)) == expected


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "broken", "short", "comment", "# comment", "99999999999999"])
def test_an_unknown_name_is_an_error(rootfs: int, text: str) -> None:
    with pytest.raises(UnknownName):
        resolve_user(rootfs, text)


@pytest.mark.parametrize("text", ["-1", "2147483648", "4294967296", "huge", "0:4294967296", "0:-1"])
def test_ids_that_wrap_are_refused(rootfs: int, text: str) -> None:
    with pytest.raises(InputError, match="can't be used"):
        resolve_user(rootfs, text)


def test_without_files_there_are_numbers_and_root(empty: int) -> None:
    assert tuple(resolve_user(empty, "")) == (0, 0, "/", ())
    assert tuple(resolve_user(empty, "5:6")) == (5, 6, "/", ())
    with pytest.raises(UnknownName):
        resolve_user(empty, "app")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("app", (1000, 1001)),
        ("app:staff", (1000, 50)),
        ("55", (55, 55)),
        ("1000", (1000, 1000)),
        ("7:staff", (7, 50)),
        ("3000000:4000000", (3000000, 4000000)),
        ("root", (0, 0)),
        ("root:root", (0, 0)),
        ("app:root", (1000, 0)),
        (":50", (0, 50)),
        ("app:", (1000, 0)),
        ("55:", (55, 0)),
    ],
)
def test_an_owner_alone_brings_its_group(rootfs: int, text: str, expected: tuple[int, int]) -> None:
    assert resolve_owner(rootfs, text) == expected


@pytest.mark.parametrize("text", ["nobody", "app:nogroup", "4294967296x"])
def test_an_unknown_owner_is_an_error(rootfs: int, text: str) -> None:
    with pytest.raises(UnknownName):
        resolve_owner(rootfs, text)


def test_root_needs_no_files(empty: int) -> None:
    assert resolve_owner(empty, "root:root") == (0, 0)
    with pytest.raises(UnknownName):
        resolve_owner(empty, "app")


def test_links_of_the_image_are_followed_inside_it_alone(empty: int, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/passwd").write_text("in:x:5:6::/:/\n")
    (tmp_path / "etc").symlink_to("/data")
    assert resolve_owner(empty, "in") == (5, 6)


def test_a_passwd_that_is_no_file_counts_as_absent(empty: int, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc/passwd")
    (tmp_path / "etc/group").mkdir()
    with pytest.raises(UnknownName):
        resolve_owner(empty, "app:staff")


def test_a_huge_file_is_refused(empty: int, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    with open(tmp_path / "etc/passwd", "wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(LimitExceeded, match="/etc/passwd"):
        resolve_user(empty, "app")


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=80), st.text("ap:0159-root", max_size=8))
def test_any_passwd_gives_ids_or_an_error_of_ours(data: bytes, text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        os.mkdir(f"{folder}/etc")
        for name in ("passwd", "group"):
            with open(f"{folder}/etc/{name}", "wb") as stream:
                stream.write(data)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for resolve in (resolve_user, resolve_owner):
                try:
                    found = resolve(fd, text)
                except SandboxbuildError:
                    continue
                assert all(0 <= number <= 2**31 - 1 for number in found[:2])
        finally:
            os.close(fd)
