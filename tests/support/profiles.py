"""The profiles that this machine can run builds in, for tests that hold for each; in CI all of them are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.launcher.isolation import find_host
from sandboxbuild.runtimes import Runtime

CACHE = Path.home() / ".cache" / "sandboxbuild-tests" / "runtimes"
RUNTIMES = ("namespaces", "runc", "crun", "runsc")
IN_CI = os.environ.get("CI", "") not in ("", "false", "0")


def runtime_or_skip(name: str) -> Runtime:
    """The driver for a runtime; skips the test where the host can't run it, and fails it in CI."""
    try:
        return find_host(name, os.environ, str(CACHE)).runtime
    except SandboxbuildError as error:
        if IN_CI:
            raise
        pytest.skip(f"{name}: {error.message}")
