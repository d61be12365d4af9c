"""The corpus and a harness over it; absent in a user's clone, demanded in CI."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.corpus import Harness, corpus_folder


@pytest.fixture(scope="session")
def corpus() -> Path:
    folder = corpus_folder()
    if folder is None:
        if os.environ.get("CI", "") not in ("", "false", "0"):
            pytest.fail("the conformance corpus is not beside the checkout; set SANDBOXBUILD_CONFORMANCE")
        pytest.skip("the conformance corpus is not beside the checkout; set SANDBOXBUILD_CONFORMANCE")
    return folder


@pytest.fixture(scope="session")
def harness(corpus: Path) -> Iterator[Harness]:
    """One store for all cases: what one case leaves there must not change another."""
    work = Path(tempfile.mkdtemp(prefix="sandboxbuild-corpus-", dir="/var/tmp"))
    try:
        with Harness(corpus, work).serving() as serving:
            yield serving
    finally:
        shutil.rmtree(work, ignore_errors=True)
