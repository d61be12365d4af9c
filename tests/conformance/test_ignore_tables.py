"""The ignore tables of the conformance corpus: rows that were recorded from Moby's own tests."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.dockerfile.ignore import IgnoreRules, ignore_patterns
from sandboxbuild.errors import InputError
from sandboxbuild.fstree.paths import clean
from sandboxbuild.fstree.patterns import Patterns


def tables() -> Path | None:
    named = os.environ.get("SANDBOXBUILD_CONFORMANCE")
    folder = Path(named) if named else Path(__file__).resolve().parents[3] / "shared" / "conformance"
    return folder / "tables" if (folder / "tables").is_dir() else None


def rows(name: str) -> list[Any]:
    folder = tables()
    return json.loads((folder / f"{name}.json").read_text()) if folder else []


def test_the_tables_are_there() -> None:
    if tables() is None:
        assert os.environ.get("CI") != "true", "the conformance corpus is missing"
        pytest.skip("no conformance corpus beside the checkout")


@pytest.mark.parametrize("row", rows("ignore"), ids=lambda row: f"{row['patterns']}:{row['path']}")
def test_a_path_is_left_out_as_moby_leaves_it_out(row: dict[str, Any]) -> None:
    path = clean(row["path"]).lstrip("/").encode()
    try:
        ignored = IgnoreRules(Patterns(row["patterns"])).ignores(b"" if path == b"." else path, False)
    except InputError:
        # Moby's table says "no match" where its matcher returns an error.
        assert row.get("error") or row["expected"] is False
        return
    assert not row.get("error")
    assert ignored is row["expected"]


@pytest.mark.parametrize("row", rows("ignore_file"))
def test_an_ignore_file_gives_mobys_patterns(row: dict[str, Any]) -> None:
    assert list(ignore_patterns(row["text"].encode())) == row["expected"]
