"""Bundles go when nobody has used them for a while, and never from under somebody's feet."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandboxbuild.runtimes import bundles
from sandboxbuild.runtimes.bundle import Bundle


def bundle(cache: Path, number: int, age_s: float = 0.0) -> Path:
    """A folder that looks like a bundle which was last used `age_s` ago."""
    path = cache / f"{number:032x}"
    (path / "lib").mkdir(parents=True)
    (path / "lib" / "loader.so").write_text("x")
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path


def names(cache: Path) -> set[str]:
    return {entry.name for entry in cache.iterdir()} - {".lock"}


def test_what_was_not_used_for_a_week_goes(tmp_path: Path) -> None:
    used = bundle(tmp_path, 1, bundles.UNUSED_S - 60)
    bundle(tmp_path, 2, bundles.UNUSED_S + 60)
    bundles.prune(str(tmp_path))
    assert names(tmp_path) == {used.name}


def test_only_the_last_used_ones_stay(tmp_path: Path) -> None:
    kept = {bundle(tmp_path, number, number * 7000).name for number in range(bundles.KEPT)}
    for number in range(bundles.KEPT, bundles.KEPT + 5):
        bundle(tmp_path, number, number * 7000)
    bundles.prune(str(tmp_path))
    assert names(tmp_path) == kept


def test_what_was_used_within_the_hour_stays(tmp_path: Path) -> None:
    kept = {bundle(tmp_path, number, number * 60).name for number in range(bundles.KEPT + 5)}
    bundles.prune(str(tmp_path))
    assert names(tmp_path) == kept


def test_what_is_no_bundle_stays(tmp_path: Path) -> None:
    for name in ("filters", "runtimes", "policies", f"{1:032x}.json"):
        (tmp_path / name).mkdir()
    bundles.prune(str(tmp_path))
    assert len(names(tmp_path)) == 4


def test_what_a_killed_maker_or_pruner_left_goes(tmp_path: Path) -> None:
    for suffix in ("4711", "old"):
        (tmp_path / f".{1:032x}.{suffix}" / "lib").mkdir(parents=True)
    bundles.prune(str(tmp_path))
    assert names(tmp_path) == set()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bundles are made by copying nothing; the list counts how often."""
    calls: list[int] = []

    def ensure(cache_folder: str) -> Bundle:
        path = Path(cache_folder) / f"{7:032x}"
        if not path.is_dir():
            calls.append(1)
            bundle(tmp_path, 7, bundles.UNUSED_S * 2)
        return Bundle(str(path), (), ())

    monkeypatch.setattr(bundles, "ensure_bundle", ensure)
    return calls


def test_a_bundle_in_use_stays_however_old_it_is(tmp_path: Path, made: list[int]) -> None:
    with bundles.used_bundle(str(tmp_path)) as used:
        os.utime(used.path, (0, 0))
        bundles.prune(str(tmp_path))
        assert os.path.isdir(used.path)
    bundles.prune(str(tmp_path))
    assert names(tmp_path) == set()


def test_using_a_bundle_makes_it_recent(tmp_path: Path, made: list[int]) -> None:
    bundle(tmp_path, 7, bundles.UNUSED_S * 2)
    with bundles.used_bundle(str(tmp_path)) as used:
        assert time.time() - os.stat(used.path).st_mtime < 3600
    assert made == []


def test_a_bundle_that_goes_before_it_is_held_is_made_again(
    tmp_path: Path, made: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, raced = os.open, []

    def racing(path: str, flags: int, *mode: int, **options: int) -> int:
        if str(path).endswith(f"{7:032x}") and not options and not raced:
            raced.append(1)
            descriptor = real(path, flags)
            bundles.prune(str(tmp_path))
            return descriptor
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", racing)
    with bundles.used_bundle(str(tmp_path)) as used:
        assert os.path.exists(f"{used.path}/lib/loader.so")
    assert made == [1, 1]


def test_the_bundle_of_a_killed_user_can_go(tmp_path: Path, made: list[int]) -> None:
    path = bundle(tmp_path, 7)
    hold = f"import fcntl, os; fcntl.flock(os.open({str(path)!r}, os.O_RDONLY), fcntl.LOCK_SH); print(1, flush=True); input()"
    user = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert user.stdout and user.stdout.readline()
    os.utime(path, (0, 0))
    bundles.prune(str(tmp_path))
    assert path.exists()
    user.kill()
    user.communicate()
    bundles.prune(str(tmp_path))
    assert not path.exists()


def test_while_somebody_makes_one_nothing_is_pruned(tmp_path: Path) -> None:
    old = bundle(tmp_path, 1, bundles.UNUSED_S * 2)
    with bundles.locks.exclusive(str(tmp_path / ".lock")):
        bundles.prune(str(tmp_path))
        assert old.exists()
