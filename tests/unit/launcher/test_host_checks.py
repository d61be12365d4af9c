"""What doctor makes of a host's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.launcher import doctor
from sandboxbuild.system.cgroups import Hierarchy


def hierarchies(folder: Path) -> list[Hierarchy]:
    for name in ("memory", "pids", "cpu"):
        (folder / name).mkdir()
    return [Hierarchy(1, str(folder / name), str(folder / name), (name,)) for name in ("memory", "pids", "cpu")]


def test_cgroups_that_can_be_made_are_well(tmp_path: Path) -> None:
    check = doctor.check_cgroups(hierarchies(tmp_path), is_root=True)
    assert (check.state, check.finding) == ("ok", "version 1: memory, pids and cpu can be limited")


def test_a_missing_controller_is_named(tmp_path: Path) -> None:
    check = doctor.check_cgroups(hierarchies(tmp_path)[:2], is_root=True)
    assert check.state == "warning"
    assert "no group can be made with cpu;" in check.finding


@pytest.mark.parametrize(("version", "word"), [(2, "systemd-run --user --scope"), (1, "systemd.unified_cgroup_hierarchy=1")])
def test_a_user_is_told_how_to_get_a_cgroup(tmp_path: Path, version: int, word: str) -> None:
    check = doctor.check_cgroups([Hierarchy(version, str(tmp_path / "x"), str(tmp_path / "x"), ())], is_root=False)
    assert word in check.remedy


def test_without_libseccomp_builds_do_not_work() -> None:
    assert doctor.check_filter_library("").state == "missing"
    assert doctor.check_filter_library("").remedy == "apt-get install libseccomp2"


@pytest.mark.parametrize(("scope", "state"), [("0", "warning"), ("1", "ok"), ("3", "ok"), ("", "ok")])
def test_the_ptrace_scope_is_read(scope: str, state: str) -> None:
    assert doctor.check_ptrace(scope).state == state


@pytest.mark.parametrize(
    ("restricts", "is_root", "state"), [("1", False, "missing"), ("1", True, "ok"), ("0", False, "ok"), ("", False, "ok")]
)
def test_apparmor_s_restriction_stops_normal_users_only(restricts: str, is_root: bool, state: str) -> None:
    assert doctor.check_apparmor(restricts, is_root=is_root).state == state
