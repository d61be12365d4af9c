"""The socket's folder is private, and none is left behind, not even by a launcher that was killed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxbuild.errors import IsolationError
from sandboxbuild.launcher.uplinkfolder import uplink_folder


def folder_in(parent: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(parent)}


@pytest.fixture
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")


def test_a_folder_is_private_and_gone_afterwards(parent: Path) -> None:
    with uplink_folder(os.geteuid(), os.getegid(), folder_in(parent)) as folder:
        assert Path(folder).stat().st_mode & 0o777 == 0o700
        (Path(folder) / "socket").touch()
    assert list(parent.iterdir()) == []


def test_the_folder_of_a_killed_launcher_goes_with_the_next_build(parent: Path) -> None:
    dead = parent / "sandboxbuild-uplink-0123456789abcdef"
    dead.mkdir()
    (dead / "socket").touch()
    with uplink_folder(os.geteuid(), os.getegid(), folder_in(parent)) as folder:
        assert [path.name for path in parent.iterdir()] == [Path(folder).name]


def test_the_folder_of_a_live_build_stays(parent: Path) -> None:
    environ = folder_in(parent)
    with (
        uplink_folder(os.geteuid(), os.getegid(), environ) as first,
        uplink_folder(os.geteuid(), os.getegid(), environ) as second,
    ):
        assert {Path(first), Path(second)} == set(parent.iterdir())


@pytest.mark.parametrize("name", ["sandboxbuild-mine", "sandboxbuild-uplink-mine", "xsandboxbuild-uplink-0123456789abcdef"])
def test_other_folders_with_our_name_are_left_alone(parent: Path, name: str) -> None:
    (parent / name).mkdir()
    with uplink_folder(os.geteuid(), os.getegid(), folder_in(parent)):
        pass
    assert (parent / name).is_dir()


def test_a_link_with_our_name_is_left_alone(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "keep").touch()
    (parent / "sandboxbuild-uplink-0123456789abcdef").symlink_to(tmp_path)
    with uplink_folder(os.geteuid(), os.getegid(), folder_in(parent)):
        pass
    assert (tmp_path / "keep").exists()


def test_a_long_path_is_not_used_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(IsolationError), uplink_folder(0, 0, {"XDG_RUNTIME_DIR": "/x" * 60}):
        pass
