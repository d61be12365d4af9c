"""The filter of a policy's choice: compiled once, kept whole or not at all, and never left out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandboxbuild.errors import IsolationError, PolicyError
from sandboxbuild.launcher.syscalls import FOLDER, with_filter
from sandboxbuild.policy.isolation import (
    Isolation,
    NetworkRules,
    RegistryAccess,
    SourceRules,
    StepIsolation,
    SyscallChoice,
)

OPEN = {"defaultAction": "SCMP_ACT_ALLOW"}


@pytest.fixture
def choice(tmp_path: Path) -> SyscallChoice:
    """A small filter, quickly compiled."""
    (tmp_path / "open.json").write_text(json.dumps(OPEN))
    return SyscallChoice("", str(tmp_path / "open.json"))


def filtered(choice: SyscallChoice, capabilities: Sequence[str], folder: str) -> StepIsolation:
    step = StepIsolation(capabilities=tuple(capabilities))
    isolation = Isolation("p", "", "r", step, NetworkRules(), RegistryAccess(), SourceRules(), choice)
    return with_filter(isolation, folder).step


def filter_program(choice: SyscallChoice, capabilities: Sequence[str], folder: str) -> bytes:
    return filtered(choice, capabilities, folder).seccomp_program


def kept(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).iterdir())


def test_a_program_is_compiled_once(tmp_path: Path, choice: SyscallChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    program = filter_program(choice, ["CHOWN"], str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    assert filter_program(choice, ["CHOWN"], str(tmp_path)) == program != b""
    assert len(kept(tmp_path)) == 1


def test_what_decides_a_program_names_it(tmp_path: Path, choice: SyscallChoice) -> None:
    first = filter_program(choice, ["CHOWN"], str(tmp_path))
    assert filter_program(choice._replace(deny=("mount",)), ["CHOWN"], str(tmp_path)) != first
    filter_program(choice, [], str(tmp_path))
    (tmp_path / "open.json").write_text(json.dumps({**OPEN, "comment": "another"}))
    filter_program(choice, ["CHOWN"], str(tmp_path))
    assert len(kept(tmp_path)) == 4


def test_a_kept_program_that_is_not_whole_is_made_again(tmp_path: Path, choice: SyscallChoice) -> None:
    program = filter_program(choice, [], str(tmp_path))
    path = kept(tmp_path)[0]
    for damaged in (b"", path.read_bytes()[8:], b"\0" + path.read_bytes()[1:]):
        path.write_bytes(damaged)
        assert filter_program(choice, [], str(tmp_path)) == program


def test_without_the_library_there_is_no_build(tmp_path: Path, choice: SyscallChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    with pytest.raises(IsolationError, match="libseccomp is missing") as caught:
        filter_program(choice, [], str(tmp_path))
    assert caught.value.hint == "apt-get install libseccomp2"


def test_a_filter_that_everybody_can_write_is_refused(tmp_path: Path, choice: SyscallChoice) -> None:
    (tmp_path / "open.json").chmod(0o666)
    with pytest.raises(PolicyError, match="can be written by everybody"):
        filter_program(choice, [], str(tmp_path))


def test_a_cache_folder_that_cannot_be_written_is_no_fault(tmp_path: Path, choice: SyscallChoice) -> None:
    (tmp_path / "file").write_text("")
    assert filter_program(choice, [], str(tmp_path / "file"))


def test_cache_keys_tell_filters_apart_and_not_hosts(tmp_path: Path, choice: SyscallChoice) -> None:
    name = filtered(choice, ["CHOWN"], str(tmp_path)).syscalls
    assert filtered(choice, [], str(tmp_path)).syscalls == name
    assert filtered(choice._replace(deny=("mount",)), ["CHOWN"], str(tmp_path)).syscalls != name
    (tmp_path / "open.json").write_text(json.dumps({**OPEN, "comment": "another"}))
    assert filtered(choice, ["CHOWN"], str(tmp_path)).syscalls != name
