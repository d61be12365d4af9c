"""docs/dockerfile.md says what the parser does."""

from __future__ import annotations

from pathlib import Path

from sandboxbuild.dockerfile.grammar import SHAPES
from sandboxbuild.dockerfile.instructions import COMMANDS
from sandboxbuild.dockerfile.reference import reference_tables

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "dockerfile.md"


def test_the_tables_in_the_docs_are_those_of_the_code() -> None:
    assert DOCUMENT.read_text().endswith(reference_tables())


def test_each_instruction_has_a_shape_and_a_family() -> None:
    assert set(SHAPES) == {*COMMANDS, "FROM"}
