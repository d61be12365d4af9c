"""`sandboxbuild profiles`: every packaged profile is listed, and one that can't be had says why."""

from __future__ import annotations

from pathlib import Path

from sandboxbuild.launcher.profiles import list_profiles


def test_every_packaged_profile_is_listed_and_says_what_is_missing(tmp_path: Path) -> None:
    states = {state.name: state for state in list_profiles({}, str(tmp_path))}
    assert {"plain", "gvisor", "runc", "kata", "offline", "hardened"} <= set(states)
    assert states["plain"].missing == ""
    assert "containerd" in states["kata"].missing
    assert [Path(path).name for path in states["gvisor"].node_files] == [
        "runsc.containerd.toml", "runsc.shim.toml", "runsc.runtimeclass.yaml",
    ]  # fmt: skip
    assert states["plain"].node_files == ()
