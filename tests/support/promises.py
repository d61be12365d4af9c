"""The table of docs/isolation.md: which promise was attacked in which profile, and whether the attack can succeed at all.

As a pytest plugin it writes the outcomes of tests marked `promise` and `without_defence` to `--promise-results=FILE`.

  python -m tests.support.promises FILE            the whole table that these outcomes make, on standard output
  python -m tests.support.promises FILE --write    bring docs/isolation.md up to date with what FILE speaks of
  python -m tests.support.promises FILE --check    fail unless the outcomes are exactly what docs/isolation.md says
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TOP = Path(__file__).parents[2]
PAGE = TOP / "docs" / "isolation.md"
PROFILES = ("plain", "runc", "gvisor")
EVERYWHERE = PROFILES  # for the `profiles=` of a marker: what is attacked lies outside of the sandbox, the same for all
BEGIN, END = "<!-- promises: begin -->", "<!-- promises: end -->"
_RUNTIMES = {"namespaces": "plain", "runc": "runc", "runsc": "gvisor"}
_MARKERS = ("promise", "without_defence")
_HEAD = ("| promise | claim | plain | runc | gvisor | defence taken out |", "|---|---|---|---|---|---|")
_PASSED, _NOT_CLAIMED, _SEEN, _NOT_SEEN = "passed", "not claimed", "seen to succeed", "-"


class Claim(NamedTuple):
    """A row: SECURITY.md's number, and what of the promise the attack is about."""

    number: int
    text: str


class Row(NamedTuple):
    """The profiles in which every attack was held off; whether any was seen to succeed without its defence."""

    passed: frozenset[str]
    seen: bool


Table = dict[Claim, Row]


# The plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--promise-results", metavar="FILE", help="write what became of the attacks on promises, as JSON")


def mark_item(item: pytest.Item) -> None:
    """Put the item's markers where pytest-xdist carries them to the controller."""
    params = getattr(getattr(item, "callspec", None), "params", {})
    for kind in _MARKERS:
        for marker in item.iter_markers(kind):
            number, claim = marker.args
            profiles = marker.kwargs.get("profiles") or [_profile_of(params)]
            item.user_properties.append(("promise", [number, claim, kind, list(profiles)]))


def _profile_of(params: Mapping[str, Any]) -> str:
    if isinstance(params.get("profile"), str):
        return str(params["profile"])
    return _RUNTIMES.get(params.get("lab", "namespaces"), "")


class Recorder:
    """Collects reports on the controller; the file is written when the session ends."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._outcomes: dict[str, str] = {}
        self._properties: dict[str, list[list[Any]]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = [value for name, value in report.user_properties if name == "promise"]
        if not found:
            return
        self._properties[report.nodeid] = found
        worst = max(self._outcomes.get(report.nodeid, "passed"), report.outcome, key=("passed", "skipped", "failed").index)
        self._outcomes[report.nodeid] = worst

    def pytest_sessionfinish(self) -> None:
        entries = [
            {"promise": number, "claim": claim, "kind": kind, "profile": profile, "test": test, "outcome": self._outcomes[test]}
            for test, found in sorted(self._properties.items())
            for number, claim, kind, profiles in found
            for profile in profiles
        ]
        self._path.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--promise-results")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(path), "promise-recorder")


# The table


def marked_claims(folder: Path = TOP / "tests") -> dict[str, set[Claim]]:
    """By marker, each claim that a test's source names; both arguments have to be literals."""
    found: dict[str, set[Claim]] = {kind: set() for kind in _MARKERS}
    for path in sorted(folder.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if any(f"mark.{kind}" in text for kind in _MARKERS):
            for kind, claim in _markers_of(ast.parse(text, str(path))):
                found[kind].add(claim)
    return found


def _markers_of(tree: ast.AST) -> Iterator[tuple[str, Claim]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _MARKERS:
            number, text = (ast.literal_eval(argument) for argument in node.args)
            yield node.func.attr, Claim(number, text)


def table_of(entries: Iterable[Mapping[str, Any]]) -> Table:
    """What outcomes make: a cell counts when all of its tests passed."""
    outcomes: dict[tuple[Claim, str, str], set[str]] = {}
    for entry in entries:
        key = (Claim(entry["promise"], entry["claim"]), entry["kind"], entry["profile"])
        outcomes.setdefault(key, set()).add(entry["outcome"])
    good = [key for key, found in outcomes.items() if found == {"passed"}]
    claims = {claim for claim, _, _ in outcomes}
    return {
        claim: Row(
            frozenset(profile for named, kind, profile in good if named == claim and kind == "promise" and profile in PROFILES),
            any(named == claim and kind == "without_defence" for named, kind, _ in good),
        )
        for claim in claims
    }


def render(table: Table) -> str:
    """The table as Markdown, in the order of the promises."""
    lines = list(_HEAD)
    for claim, row in sorted(table.items()):
        cells = [_PASSED if profile in row.passed else _NOT_CLAIMED for profile in PROFILES]
        lines.append(f"| {claim.number} | {claim.text} | {' | '.join(cells)} | {_SEEN if row.seen else _NOT_SEEN} |")
    return "\n".join(lines) + "\n"


def written_table(page: str) -> Table:
    """The table that a page has between the two comments."""
    table: Table = {}
    for line in page.partition(BEGIN)[2].partition(END)[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if cells[0].isdecimal():
            number, text, *marks, seen = cells
            passed = frozenset(name for name, mark in zip(PROFILES, marks, strict=True) if mark == _PASSED)
            table[Claim(int(number), text)] = Row(passed, seen == _SEEN)
    return table


def with_table(page: str, table: Table) -> str:
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} and {END} in the page")
    return f"{before}{begin}\n{render(table)}{end}{after}"


def updated(table: Table, entries: list[Mapping[str, Any]], named: set[Claim]) -> Table:
    """`table` with the cells that `entries` speak of, and without the claims that no test names."""
    found = table_of(entries)
    tried = {(Claim(entry["promise"], entry["claim"]), entry["profile"]) for entry in entries if entry["kind"] == "promise"}
    twins = {Claim(entry["promise"], entry["claim"]) for entry in entries if entry["kind"] == "without_defence"}
    result: Table = {}
    for claim in (table.keys() | found.keys()) & named:
        old, new = table.get(claim, Row(frozenset(), False)), found.get(claim, Row(frozenset(), False))
        kept = {profile for profile in old.passed if (claim, profile) not in tried}
        result[claim] = Row(new.passed | kept, new.seen if claim in twins else old.seen)
    return result


def differences(table: Table, found: Table) -> list[str]:
    """What a page says and a whole run doesn't show, and the other way round."""
    nothing = Row(frozenset(), False)
    lines = []
    for claim in sorted(table.keys() | found.keys()):
        said, shown = table.get(claim, nothing), found.get(claim, nothing)
        name = f"promise {claim.number}, {claim.text!r}"
        lines += [f"{name}: {profile} passed in the table, not in this run" for profile in sorted(said.passed - shown.passed)]
        lines += [f"{name}: {profile} passed in this run, not in the table" for profile in sorted(shown.passed - said.passed)]
        if said.seen != shown.seen:
            lines.append(f"{name}: with the defence taken out the table says {said.seen}, this run {shown.seen}")
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.support.promises")
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    chosen = parser.parse_args(arguments)
    entries = json.loads(chosen.results.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    if chosen.check:
        wrong = differences(written_table(page), table_of(entries))
        sys.stderr.writelines(f"{line}\n" for line in wrong)
        return 1 if wrong else 0
    if chosen.write:
        named = set().union(*marked_claims().values())
        PAGE.write_text(with_table(page, updated(written_table(page), entries, named)), encoding="utf-8")
        return 0
    sys.stdout.write(render(table_of(entries)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
