"""The end of a build that failed: last lines of the step, the Dockerfile's lines with a caret, one ERROR line, a hint. Pure."""

from __future__ import annotations

from typing import Final

from sandboxbuild.cli.render.text import disarm, display_width, safe_line, safe_words
from sandboxbuild.errors import SandboxbuildError, Span, StepFailed

TAIL_LINES: Final = 20
SOURCE_LINES: Final = 40
RULE: Final = "-" * 20


def describe(error: SandboxbuildError, *, step: str = "", tail: bytes = b"") -> str:
    """The whole report, ending in a newline. `step` is the failed vertex's title, `tail` the end of its output."""
    lines = [*_tail_lines(step, tail), *_excerpt_lines(error), *_error_lines(error)]
    return "".join(disarm(line) + "\n" for line in lines)


def _tail_lines(step: str, tail: bytes) -> list[str]:
    if not tail.strip():
        return []
    shown = tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n").rstrip(b"\n").split(b"\n")[-TAIL_LINES:]
    return ["------", f" > {safe_words(step)}:", *(f"   {safe_line(line)}" for line in shown), "------"]


def _excerpt_lines(error: SandboxbuildError) -> list[str]:
    span: Span | None = getattr(error, "span", None)
    return [] if span is None else excerpt(span, getattr(error, "source", ""))


def excerpt(span: Span, source: str) -> list[str]:
    """The place, and `source`, the text of the span's lines, with carets below its first."""
    place = f"{safe_words(span.file)}:{span.line}"
    if not source:
        return [place]
    lines = [line.expandtabs(4) for line in source.rstrip("\n").split("\n")[:SOURCE_LINES]]
    numbered = [f" {span.line + index:>3} | >>> {safe_line(line)}" for index, line in enumerate(lines)]
    caret = _caret_line(span, source.split("\n", maxsplit=1)[0])
    if caret:
        numbered.insert(1, caret)
    return [place, RULE, *numbered, RULE]


def _caret_line(span: Span, first_line: str) -> str:
    """Carets below the columns of the span on its first line; none where the span is the whole line."""
    if span.column <= 1 and span.end_column <= 0:
        return ""
    start = max(span.column - 1, 0)
    end = span.end_column - 1 if span.end_column > 0 and span.line == span.end_line else start + 1
    before = display_width(safe_line(first_line[:start].expandtabs(4)))
    marked = display_width(safe_line(first_line[start:end]))
    return " " * len(" 123 | >>> ") + " " * before + "^" * max(marked, 1)


def _error_lines(error: SandboxbuildError) -> list[str]:
    message = safe_words(str(error)) or type(error).__name__
    if isinstance(error, StepFailed) and f"exit code: {error.status}" not in message:
        message += f": exit code: {error.status}"
    lines = [f"ERROR: {message}"]
    if error.hint:
        lines.append(f"hint: {safe_words(error.hint)}")
    return lines
