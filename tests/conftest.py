"""What all tests share: who may skip, the command as a user runs it, and registries for it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.support import promises
from tests.support.builder import Builder

IN_CI = os.environ.get("CI", "") not in ("", "false", "0")

pytest_addoption = promises.pytest_addoption
pytest_configure = promises.pytest_configure


def pytest_itemcollected(item: pytest.Item) -> None:
    promises.mark_item(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI, where every tool and runtime is installed, a skip is a failure that says what was missing."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longreprtext or report.longrepr}"
    return report


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


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """host:port of a registry that speaks plain HTTP to everybody."""
    from tests.integration.registry_fixtures import running_registry  # late: unit tests do without what it imports

    folder = tmp_path / "registry"
    folder.mkdir()
    with running_registry(folder) as running:
        yield running.host


@pytest.fixture
def basic_registry(tmp_path: Path) -> Iterator[tuple[str, str, str, Path]]:
    """(host:port, user, password, CA file) of a registry with TLS and basic authentication."""
    from tests.integration import registry_fixtures as fixtures

    folder = tmp_path / "basic-registry"
    folder.mkdir()
    authority, path = fixtures.make_authority(folder)
    (folder / "htpasswd").write_text(fixtures.HTPASSWD_LINE)
    extra = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
    with fixtures.running_registry(folder, extra, authority.issue_cert("127.0.0.1", "localhost")) as running:
        yield running.host, fixtures.USER, fixtures.PASSWORD, path
