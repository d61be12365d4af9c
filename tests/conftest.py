"""What all tests share: who may skip, and the command as a user runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builder import Builder

IN_CI = os.environ.get("CI", "") not in ("", "false", "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need root skip without it; in CI, where it is promised, its absence is a failure."""
    if os.geteuid() == 0:
        return
    if IN_CI:
        raise pytest.UsageError("the tests in CI need root")
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    """The `sandboxbuild` command with a store of its own; fails the test that leaves a process or mount behind."""
    made = Builder(tmp_path)
    yield made
    made.check_nothing_is_left()
    made.remove_store()
