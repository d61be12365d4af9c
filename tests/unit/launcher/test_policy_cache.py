"""Resolved policies are kept as long as what they were made of is the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError
from sandboxbuild.launcher.policies import read_files
from sandboxbuild.launcher.policycache import FOLDER, kept, policy_key
from sandboxbuild.policy.isolation import (
    Isolation,
    NetworkRules,
    RegistryAccess,
    SourceRules,
    StepIsolation,
    SyscallChoice,
)
from sandboxbuild.policy.library import Library, library

PLAIN = Isolation("plain", "", "namespaces", StepIsolation(), NetworkRules(), RegistryAccess(), SourceRules(), SyscallChoice())


def give() -> Isolation:
    return PLAIN


def never() -> Isolation:
    raise AssertionError("resolved again")


def test_what_was_resolved_once_is_kept(tmp_path: Path) -> None:
    assert kept(str(tmp_path), "key", give) == PLAIN
    assert kept(str(tmp_path), "key", never) == PLAIN
    assert kept(str(tmp_path), "other", lambda: PLAIN._replace(profile="x")).profile == "x"


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"{}" + data[2:]])
def test_a_damaged_file_is_not_believed(tmp_path: Path, damage: object) -> None:
    kept(str(tmp_path), "key", give)
    path = tmp_path / FOLDER / "key"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert kept(str(tmp_path), "key", lambda: PLAIN._replace(profile="again")).profile == "again"


def test_a_file_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    kept(str(tmp_path), "key", give)
    (tmp_path / FOLDER / "key").chmod(0o622)
    assert kept(str(tmp_path), "key", lambda: PLAIN._replace(profile="again")).profile == "again"


def test_a_folder_that_can_not_be_made_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert kept(str(tmp_path / "file"), "key", give) == PLAIN


def test_the_key_changes_with_everything_that_matters(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "policy.toml").write_text("a = 1")
    policy = str(tmp_path / "policy.toml")
    found = Library((str(tmp_path),))
    keys = {
        policy_key(found, "plain", "", (), learning=False),
        policy_key(found, "gvisor", "", (), learning=False),
        policy_key(found, "plain", policy, (), learning=False),
        policy_key(found, "plain", "", ("kvm",), learning=False),
        policy_key(found, "plain", "", (), learning=True),
    }
    (tmp_path / "policy.toml").write_text("a = 2")
    keys.add(policy_key(found, "plain", policy, (), learning=False))
    (tmp_path / "profiles" / "plain.toml").write_text("")
    keys.add(policy_key(found, "plain", "", (), learning=False))
    (tmp_path / "profiles" / "plain.toml").chmod(0o666)
    keys.add(policy_key(found, "plain", "", (), learning=False))
    assert len(keys) == 8


def test_a_policy_file_that_is_not_there_is_an_error_each_time(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PolicyError):
            policy_key(library({}), "plain", str(tmp_path / "absent"), (), learning=False)


def test_a_real_policy_is_kept_whole(tmp_path: Path) -> None:
    found = library({})
    enforced = ("syscalls", "capabilities", "network")
    first = kept(str(tmp_path), "key", lambda: read_files(found, "plain", "", enforced, learning=True))
    assert kept(str(tmp_path), "key", never) == first
    assert first.network.learning
