"""`sandboxbuild profiles`: every packaged profile is listed, and one that can't be had says why."""

from __future__ import annotations

from pathlib import Path

from sandboxbuild.launcher.profiles import list_profiles


def test_every_packaged_profile_is_listed(tmp_path: Path) -> None:
    states = {state.name: state for state in list_profiles({}, str(tmp_path))}
    assert {"plain", "gvisor", "runc", "kata", "offline", "hardened"} <= set(states)


def test_the_embedded_runtime_is_never_missing(tmp_path: Path) -> None:
    states = {state.name: state for state in list_profiles({}, str(tmp_path))}
    assert states["plain"].missing == ""


def test_a_profile_without_its_driver_says_so(tmp_path: Path) -> None:
    states = {state.name: state for state in list_profiles({}, str(tmp_path))}
    assert "containerd" in states["kata"].missing
