"""Lines, directives, here-documents: what is an instruction at all."""

from __future__ import annotations

import pytest

from sandboxbuild.dockerfile import limits, parse
from sandboxbuild.dockerfile.lines import read_lines
from sandboxbuild.errors import DockerfileError


def texts(text: bytes) -> list[str]:
    return [line.text for line, _ in read_lines(text, "Dockerfile").lines]


def refusal(text: bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    return caught.value


def test_only_a_newline_ends_a_line() -> None:
    assert texts("FROM a\nRUN x\x0cy\u2028z\x85\n".encode()) == ["FROM a", "RUN x\x0cy\u2028z\x85"]


def test_carriage_returns_at_line_ends_go() -> None:
    assert texts(b"FROM a\r\nRUN x \\\r\n  y\r\n") == ["FROM a", "RUN x   y"]


def test_a_byte_order_mark_is_skipped() -> None:
    assert texts(b"\xef\xbb\xbfFROM a\n") == ["FROM a"]


def test_comments_and_blank_lines_inside_an_instruction_go() -> None:
    text = b"FROM a\nRUN x \\\n# comment\n\n  # another\n  y\n"
    lines = read_lines(text, "Dockerfile").lines
    assert lines[1][0].text == "RUN x   y"
    assert lines[1][0].gap


def test_two_escapes_at_the_end_do_not_continue() -> None:
    assert texts(b"FROM a\nENV C x\\\\\nENV D y\n") == ["FROM a", "ENV C x\\\\", "ENV D y"]


def test_a_last_line_that_ends_with_an_escape_is_an_instruction() -> None:
    assert texts(b"FROM a\nRUN x \\") == ["FROM a", "RUN x "]


def test_directives_are_read_in_any_order_until_something_else() -> None:
    lines = read_lines(b"#syntax=docker/dockerfile:1\n# Check = skip=all \n# escape=`\n# x\n# escape=\\\nFROM a\n", "D")
    assert lines.directives == ("`", "docker/dockerfile:1", "skip=all")


def test_a_directive_after_a_blank_line_is_a_comment() -> None:
    assert read_lines(b"\n# escape=`\nFROM a\n", "D").directives.escape == "\\"


def test_a_directive_stands_once() -> None:
    assert refusal(b"# escape=`\n# escape=`\nFROM a\n").message == "only one escape parser directive can be used"


def test_a_heredoc_body_is_never_an_instruction() -> None:
    text = b"FROM a\nRUN <<EOF cat\nFROM b \\\n# no comment\n\nEOF\nENV a=b\n"
    lines = read_lines(text, "Dockerfile").lines
    assert [line.text for line, _ in lines] == ["FROM a", "RUN <<EOF cat", "ENV a=b"]
    assert lines[1][0].heredocs[0].content == "FROM b \\\n# no comment\n\n"
    assert lines[1][0].place.end_line == 6


def test_a_json_array_and_a_quoted_word_begin_no_heredoc() -> None:
    lines = read_lines(b'FROM a\nRUN ["<<EOF"]\nRUN "<<EOF"\nENV a=<<EOF\n', "Dockerfile").lines
    assert not any(line.heredocs for line, _ in lines)


def test_a_heredoc_ends_without_a_newline_too() -> None:
    assert read_lines(b"FROM a\nCOPY <<-E /x\n\ta\n\tE", "D").lines[1][0].heredocs[0].text == "a\n"


def test_bytes_that_are_no_utf8_are_refused_in_instructions_alone() -> None:
    parse(b"# \xff\nFROM scratch\nCOPY <<'E' /x\n\xff\x00\nE\n")
    error = refusal(b"FROM scratch\nENV a=\xff\n")
    assert "0xff" in error.message
    assert error.span is not None
    assert error.span.line == 2


def test_a_nul_byte_is_refused() -> None:
    assert "NUL" in refusal(b"FROM scratch\nENV a=\x00\n").message


def test_an_error_names_line_and_column() -> None:
    error = refusal(b"FROM a\n\nRUN --mount=type=bind \\\n  --nonsense=1 x\n")
    assert error.span == ("Dockerfile", 4, 4, 3, 13)
    assert error.source == "  --nonsense=1 x"


def test_an_error_without_a_word_to_point_at_shows_the_instruction() -> None:
    error = refusal(b"FROM a\nCOPY \\\n  b\n")
    assert error.span is not None
    assert (error.span.line, error.span.end_line) == (2, 3)
    assert error.source == "COPY \\\n  b"


def test_a_misspelt_instruction_gets_a_suggestion() -> None:
    assert refusal(b"FROM a\nFNTRYPOINT x\n").hint == "did you mean ENTRYPOINT?"


def test_files_lines_and_instructions_have_limits() -> None:
    assert "bytes" in refusal(b"#" * (limits.FILE_BYTES + 1)).message
    assert "line greater" in refusal(b"FROM a\nRUN " + b"x" * limits.LINE_BYTES).message
    assert "instructions" in refusal(b"FROM a\n" + b"ENV a=b\n" * limits.INSTRUCTIONS).message
    assert "stages" in refusal(b"FROM a\n" * (limits.STAGES + 1)).message


def test_nothing_but_arg_stands_before_from() -> None:
    assert refusal(b"ENV a=b\nFROM a\n").message == "no build stage in current context"
    assert refusal(b"ARG a\n").message == "dockerfile contains no stages to build"


def test_a_frontend_of_another_language_is_refused() -> None:
    for name in (
        "docker/dockerfile:1",
        "docker.io/docker/dockerfile:1.7-labs",
        "mirror.example.com:5000/x/dockerfile@sha256:0",
    ):
        parse(f"# syntax={name}\nFROM scratch\n".encode())
    error = refusal(b"# syntax=example.com/buildpacks:1\nanything\n")
    assert error.span is not None
    assert error.span.line == 1
