"""The table of promises against the tests that it speaks of, and the code that makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import promises
from tests.support.promises import Claim, Row

TABLE = {Claim(1, "a claim"): Row(frozenset({"plain", "gvisor"}), True), Claim(2, "another"): Row(frozenset({"runc"}), False)}


def entry(**changes: Any) -> dict[str, Any]:
    fields = {"promise": 1, "claim": "a claim", "kind": "promise", "profile": "plain", "test": "t", "outcome": "passed"}
    return {**fields, **changes}


def test_every_attack_has_a_row_and_every_row_an_attack() -> None:
    rows = promises.written_table(promises.PAGE.read_text(encoding="utf-8"))
    assert set(rows) == promises.marked_claims()["promise"], "python -m tests.support.promises RESULTS --write"


def test_every_attack_is_seen_to_succeed_without_its_defence() -> None:
    marked = promises.marked_claims()
    assert marked["promise"] == marked["without_defence"]
    rows = promises.written_table(promises.PAGE.read_text(encoding="utf-8"))
    assert [claim for claim, row in rows.items() if not row.seen] == []


def test_every_promise_is_attacked_in_every_profile() -> None:
    rows = promises.written_table(promises.PAGE.read_text(encoding="utf-8"))
    held = {(claim.number, profile) for claim, row in rows.items() for profile in row.passed}
    assert held == {(number, profile) for number in range(1, 12) for profile in promises.PROFILES}


def test_a_table_that_is_written_reads_the_same() -> None:
    page = promises.with_table(f"before\n{promises.BEGIN}\nold\n{promises.END}\nafter\n", TABLE)
    assert promises.written_table(page) == TABLE
    assert page.startswith("before\n") and page.endswith("\nafter\n")
    assert "old" not in page


def test_a_page_without_its_comments_is_an_error() -> None:
    with pytest.raises(ValueError, match="promises: begin"):
        promises.with_table("nothing", TABLE)


@pytest.mark.parametrize("outcome", ["failed", "skipped"])
def test_one_test_that_did_not_pass_takes_its_cell_away(outcome: str) -> None:
    entries = [entry(), entry(test="u", outcome=outcome), entry(profile="runc", test="v")]
    assert promises.table_of(entries) == {Claim(1, "a claim"): Row(frozenset({"runc"}), False)}


def test_a_run_of_some_tests_changes_their_cells_alone() -> None:
    entries = [entry(outcome="failed"), entry(profile="runc")]
    changed = promises.updated(TABLE, entries, set(TABLE))
    assert changed == {**TABLE, Claim(1, "a claim"): Row(frozenset({"runc", "gvisor"}), True)}
    assert promises.updated(TABLE, entries, {Claim(2, "another")}) == {Claim(2, "another"): TABLE[Claim(2, "another")]}


def test_a_run_that_shows_less_or_more_than_the_table_differs() -> None:
    assert promises.differences(TABLE, TABLE) == []
    shown = {Claim(1, "a claim"): Row(frozenset({"plain", "runc"}), False)}
    assert promises.differences(TABLE, shown) == [
        "promise 1, 'a claim': gvisor passed in the table, not in this run",
        "promise 1, 'a claim': runc passed in this run, not in the table",
        "promise 1, 'a claim': with the defence taken out the table says True, this run False",
        "promise 2, 'another': runc passed in the table, not in this run",
    ]


INNER = """
import pytest

@pytest.mark.promise(4, "held")
@pytest.mark.parametrize("profile", ["plain", "gvisor"])
def test_held(profile): assert profile == "plain"

@pytest.mark.without_defence(4, "held")
@pytest.mark.parametrize("lab", ["namespaces", "runsc"])
def test_lab(lab): pass

@pytest.mark.promise(7, "outside", profiles=("plain", "runc", "gvisor"))
def test_outside(): pass

def test_of_nothing(): pass
"""


CONFTEST = """
from tests.support.promises import mark_item as pytest_itemcollected, pytest_addoption, pytest_configure
"""


def test_outcomes_are_written_by_the_controller_of_workers(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(INNER)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    promise\n    without_defence\n")
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", "--promise-results", "results.json"]
    done = subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(promises.TOP)}, capture_output=True, text=True, check=False
    )
    assert "1 failed, 5 passed" in done.stdout, done.stdout + done.stderr
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {(item["promise"], item["kind"], item["profile"], item["outcome"]) for item in found} == {
        (4, "promise", "plain", "passed"),
        (4, "promise", "gvisor", "failed"),
        (4, "without_defence", "plain", "passed"),
        (4, "without_defence", "gvisor", "passed"),
        (7, "promise", "plain", "passed"),
        (7, "promise", "runc", "passed"),
        (7, "promise", "gvisor", "passed"),
    }
