"""The corpus's tables for the words of a Dockerfile: expansion, words, parser, heredoc, ports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.dockerfile import parse
from sandboxbuild.dockerfile.expansion import expand
from sandboxbuild.dockerfile.grammar import arguments_of
from sandboxbuild.dockerfile.instructions.ports import parse_ports
from sandboxbuild.dockerfile.lines import read_lines
from sandboxbuild.dockerfile.spans import Fault
from sandboxbuild.errors import DockerfileError
from tests.support.corpus import corpus_folder


def rows(name: str) -> list[Any]:
    folder = corpus_folder()
    return json.loads((folder / "tables" / f"{name}.json").read_text()) if folder else []


def test_the_tables_of_the_language_are_there(corpus: Path) -> None:
    for name in ("expansion", "words", "parser", "heredoc", "ports"):
        assert json.loads((corpus / "tables" / f"{name}.json").read_text())


@pytest.mark.parametrize("row", rows("expansion"), ids=lambda row: row["input"])
def test_a_word_expands_as_in_the_table(row: dict[str, Any]) -> None:
    if "expected" not in row:
        with pytest.raises(Fault):
            expand(row["input"], row["env"])
        return
    assert expand(row["input"], row["env"]).text == row["expected"]


@pytest.mark.parametrize("row", rows("words"), ids=lambda row: row["input"])
def test_a_text_splits_into_the_tables_words(row: dict[str, Any]) -> None:
    assert list(expand(row["input"], row["env"]).words) == row["expected"]


@pytest.mark.parametrize("row", rows("ports"), ids=lambda row: row["input"])
def test_an_operand_of_expose_is_the_tables_ports(row: dict[str, Any]) -> None:
    if "expected" not in row:
        with pytest.raises(Fault):
            parse_ports(row["input"])
        return
    assert list(parse_ports(row["input"])) == row["expected"]


@pytest.mark.parametrize("row", rows("parser"), ids=lambda row: row["name"])
def test_a_file_parses_into_the_tables_instructions(row: dict[str, Any]) -> None:
    text = row["input"].encode()
    if row.get("expected") is None:
        with pytest.raises(DockerfileError, match=row.get("message")):
            parse(text)
        return
    lines = read_lines(text, "Dockerfile")
    escape = lines.directives.escape
    found = [
        [words.written.lower(), list(words.flags), list(arguments_of(words.written.upper(), words.rest, escape).words)]
        for _, words in lines.lines
    ]
    assert found == row["expected"]


@pytest.mark.parametrize("row", rows("heredoc"), ids=lambda row: row["input"][:60])
def test_a_file_has_the_tables_heredocs(row: dict[str, Any]) -> None:
    lines = [line for line, words in read_lines(row["input"].encode(), "Dockerfile").lines if words.written != "FROM"]
    assert len(lines) == len(row["expected"])
    for line, expected in zip(lines, row["expected"], strict=True):
        found = [
            {
                "name": heredoc.name,
                "content": heredoc.text if wanted.get("chomped") else heredoc.content,
                "expand": heredoc.expand if "expand" in wanted else None,
                "chomp": heredoc.chomp if "chomp" in wanted else None,
                "fd": heredoc.descriptor if "fd" in wanted else None,
            }
            for heredoc, wanted in zip(line.heredocs, expected, strict=True)
        ]
        assert found == [{key: wanted.get(key) for key in ("name", "content", "expand", "chomp", "fd")} for wanted in expected]
