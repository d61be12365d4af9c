"""Promise 11 over the corpus: overlay, walk and gVisor give one digest for the same inputs.

Every thirtieth case is tried; SANDBOXBUILD_TEST_EVERY=1 tries all of them (about three quarters of an hour on two cores).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.corpus import CASE_TIMEOUT_S, Harness, corpus_folder, load_tool

pytestmark = [pytest.mark.root, pytest.mark.timeout(CASE_TIMEOUT_S * 3)]

EVERY = int(os.environ.get("SANDBOXBUILD_TEST_EVERY", "30"))
VARIANTS = {
    "overlay": ("--profile", "plain", "--snapshotter", "overlay"),
    "walk": ("--profile", "plain", "--snapshotter", "walk"),
    "gvisor": ("--profile", "gvisor"),
}
OWN_KERNEL = ("uname", "mount", "/proc", "/sys")  # what a RUN says of its kernel differs, and shall
TIMES_OF_ITS_OWN = ("date", "urandom")


def comparable(case: Any) -> bool:
    """Whether the case gives an image that doesn't depend on the clock, chance or kernel that it meets."""
    if case.expected is None or case.expected["outcome"] != "ok" or case.expected.get("volatile"):
        return False
    return not any(word in case.dockerfile for word in (*OWN_KERNEL, *TIMES_OF_ITS_OWN))


def sample() -> list[Any]:
    folder = corpus_folder()
    cases = [] if folder is None else [case for case in load_tool(folder).load_all(folder / "cases") if comparable(case)]
    return cases[::EVERY]


@pytest.fixture
def prepared(harness: Harness, tmp_path: Path) -> Iterator[tuple[Harness, Path]]:
    yield harness, tmp_path


@pytest.mark.parametrize("case", sample(), ids=lambda case: str(case.id))
def test_every_snapshotter_and_profile_gives_one_digest(case: Any, prepared: tuple[Harness, Path]) -> None:
    harness, folder = prepared
    argv = harness.prepare(case, folder)
    digests = {}
    for name, options in VARIANTS.items():
        report = folder / f"{name}.json"
        chosen = [*argv]
        chosen[chosen.index("--store") + 1] = str(harness.work / f"store-{name}")
        extra = [*options, "--source-date-epoch", "1500000000", "--metadata-file", str(report)]
        done = subprocess.run(
            [*chosen[:2], *extra, *chosen[2:]], capture_output=True, text=True, check=False, timeout=CASE_TIMEOUT_S, cwd=folder
        )
        assert done.returncode == 0, f"{name}: {done.stderr}"
        digests[name] = json.loads(report.read_text())["containerimage.digest"]
    assert len(set(digests.values())) == 1, digests
