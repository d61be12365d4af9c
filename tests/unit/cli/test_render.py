"""What strangers print is shown, and does nothing."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.cli.render.choice import progress_mode
from sandboxbuild.cli.render.failure import describe
from sandboxbuild.cli.render.plain import PlainRenderer
from sandboxbuild.cli.render.rawjson import RawJsonRenderer, vertex_digest
from sandboxbuild.cli.render.text import Lines, disarm, display_width, fit, safe_line
from sandboxbuild.cli.render.tty import TtyRenderer
from sandboxbuild.errors import DockerfileError, Span, StepFailed
from sandboxbuild.protocol.events import (
    Event,
    LogOutput,
    PlanReady,
    TransferProgress,
    VertexCompleted,
    VertexStarted,
    WarningRaised,
)

SECOND = 10**9
RUN = VertexStarted(7, "step", "RUN make", "build", 2, 5, 100 * SECOND)
HOSTILE = "\x1b]0;title\x07\x1b[2J\x1b[1;1H\u202eevil\x9b31m\r::error::x ##vso[task] ##[command]x section_start:1:x\x00"


def plain(*events: Event, github: bool = False) -> str:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, github=github)
    for event in events:
        renderer.show(event)
    renderer.finish()
    return stream.getvalue()


def test_plain_is_in_the_shape_that_people_know() -> None:
    text = plain(
        RUN,
        LogOutput(7, 1, b"hello\nwor", 100 * SECOND + 213_000_000),
        LogOutput(7, 1, b"ld\n", 101 * SECOND),
        VertexCompleted(7, False, "", 101 * SECOND + 200_000_000),
    )
    assert text.splitlines() == ["#7 [build 2/5] RUN make", "#7 0.213 hello", "#7 1.000 world", "#7 DONE 1.2s"]


def test_plain_says_whose_lines_follow_when_steps_run_together() -> None:
    other = RUN._replace(vertex=8, name="RUN test", number=3)
    text = plain(RUN, other, LogOutput(7, 1, b"a\n", RUN.time_ns), VertexCompleted(8, True, "", RUN.time_ns))
    assert text.split("\n\n") == [
        "#7 [build 2/5] RUN make",
        "#8 [build 3/5] RUN test",
        "#7 [build 2/5] RUN make\n#7 0.000 a",
        "#8 [build 3/5] RUN test\n#8 CACHED\n",
    ]


def test_plain_shows_the_last_line_without_its_end() -> None:
    assert "#7 0.000 no newline\n" in plain(RUN, LogOutput(7, 2, b"no newline", RUN.time_ns))


def test_a_carriage_return_can_not_overwrite_a_line() -> None:
    text = plain(RUN, LogOutput(7, 1, b"real\rfake\r\n", RUN.time_ns))
    assert "#7 0.000 real\n#7 0.000 fake\n" in text
    assert "\r" not in text


@settings(max_examples=150)
@given(st.binary(max_size=60), st.text(max_size=30))
def test_no_output_of_a_step_can_move_the_cursor_or_fake_a_line(data: bytes, name: str) -> None:
    text = plain(RUN._replace(name=name), LogOutput(7, 1, data, RUN.time_ns), VertexCompleted(7, False, name, RUN.time_ns))
    assert all(character == "\n" or character >= " " for character in text)
    assert not re.search("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", text)
    assert all(line.startswith("#7 ") for line in text.rstrip("\n").split("\n"))


@pytest.mark.parametrize("command", ["##vso[task.x]", "##[error]x", "##teamcity[x]", "section_start:1:x", "##\x1b[0mvso[x]"])
def test_no_ci_runner_finds_its_command_in_the_output(command: str) -> None:
    assert not re.search(r"##(vso|\[|teamcity)|section_(start|end):", disarm(safe_line(command)))


def test_github_reads_no_commands_between_a_random_pair_of_marks() -> None:
    lines = plain(RUN, LogOutput(7, 1, b"::error::x\n", RUN.time_ns), github=True).splitlines()
    token = lines[0].removeprefix("::stop-commands::")
    assert len(token) == 32
    assert lines[-1] == f"::{token}::"
    assert token not in plain(RUN, github=True)


def test_a_finished_renderer_closes_its_bracket_once() -> None:
    stream = io.StringIO()
    renderer = PlainRenderer(stream, github=True)
    renderer.show(RUN)
    renderer.finish()
    renderer.finish()
    assert stream.getvalue().count("::") == 4


@settings(max_examples=60)
@given(st.binary(max_size=50), st.integers(1, 7))
def test_lines_are_the_same_however_the_bytes_are_cut(data: bytes, size: int) -> None:
    whole, cut = Lines(), Lines()
    expected = whole.feed(data) + whole.end()
    found = [line for start in range(0, len(data), size) for line in cut.feed(data[start : start + size])] + cut.end()
    assert found == expected


def test_a_line_without_an_end_is_shown_in_bounded_pieces() -> None:
    lines = Lines()
    assert max(len(piece) for piece in lines.feed(b"x" * 1_000_000)) <= 16384


def tty(*events: Event | None, columns: int = 40) -> str:
    stream = io.StringIO()
    ticks = iter(range(1000))
    renderer = TtyRenderer(stream, colour=False, size=lambda: (columns, 10), clock=lambda: float(next(ticks)))
    for event in events:
        renderer.show(event)
    return stream.getvalue()


def test_a_terminal_shows_the_last_lines_of_a_running_step() -> None:
    text = tty(PlanReady(1, 3), RUN, LogOutput(7, 1, b"".join(b"line %d\n" % n for n in range(9)), 0))
    last_picture = text.rpartition("\x1b[J")[2]
    assert "[build 2/5] RUN make" in last_picture
    assert "line 8" in last_picture
    assert "line 2\n" not in last_picture


def test_a_terminal_keeps_finished_steps_above() -> None:
    text = tty(RUN, VertexCompleted(7, True, "", 0))
    assert re.search(r" => CACHED \[build 2/5\] RUN make +\d+\.0s\n", text)


def test_a_terminal_shows_a_bar_for_a_transfer() -> None:
    assert "pull sha256:aa ━━━━━━━━━━           5.0MB / 10.0MB" in tty(
        RUN, TransferProgress(7, "sha256:aa", "pull", 5_000_000, 10_000_000, 0), columns=80
    )


def test_no_line_on_a_terminal_is_wider_than_it_is() -> None:
    wide = RUN._replace(name="RUN " + "漢字" * 40)
    text = re.sub(r"\x1b\[\d*[AJ]", "", tty(wide, LogOutput(7, 1, "漢".encode() * 90 + b"\n", 0), None))
    assert max(display_width(line) for line in text.split("\n")) <= 40


@settings(max_examples=80)
@given(st.binary(max_size=60))
def test_a_terminal_gets_no_sequence_but_our_own(data: bytes) -> None:
    text = tty(RUN, LogOutput(7, 1, data + b"\n", 0), VertexCompleted(7, False, "", 0))
    assert "\x1b" not in re.sub(r"\x1b\[\d*[AJ]", "", text)
    assert "\r" not in text


def test_raw_json_is_in_buildx_shape_and_keeps_the_bytes() -> None:
    stream = io.StringIO()
    renderer = RawJsonRenderer(stream)
    for event in (
        RUN,
        LogOutput(7, 1, HOSTILE.encode(), RUN.time_ns),
        TransferProgress(7, "sha256:aa", "pull", 1, 1, RUN.time_ns),
        WarningRaised("##vso[x]", Span("Dockerfile", 1, 2), "FROM x"),
        VertexCompleted(7, True, "", 101 * SECOND + 5),
    ):
        renderer.show(event)
    updates = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "##" not in stream.getvalue()
    assert [next(iter(update)) for update in updates] == ["vertexes", "logs", "statuses", "warnings", "vertexes"]
    assert updates[-1]["vertexes"][0] == {
        "digest": vertex_digest(7),
        "name": "[build 2/5] RUN make",
        "started": "1970-01-01T00:01:40.000000000Z",
        "completed": "1970-01-01T00:01:41.000000005Z",
        "cached": True,
    }


def test_a_failure_shows_tail_excerpt_caret_error_and_hint() -> None:
    error = DockerfileError(
        "unknown flag --frm", span=Span("Dockerfile", 7, 7, 6, 11), source="COPY --frm=a b c", hint="did you mean --from?"
    )
    assert describe(error, step="[build 2/5] COPY", tail=b"one\ntwo\n").splitlines() == [
        "------",
        " > [build 2/5] COPY:",
        "   one",
        "   two",
        "------",
        "Dockerfile:7",
        "--------------------",
        "   7 | >>> COPY --frm=a b c",
        "                ^^^^^",
        "--------------------",
        "ERROR: unknown flag --frm",
        "hint: did you mean --from?",
    ]


def test_a_failed_step_shows_its_own_status() -> None:
    assert describe(StepFailed("RUN make failed", status=127)) == "ERROR: RUN make failed: exit code: 127\n"


def test_a_hostile_error_is_one_line() -> None:
    [line] = describe(StepFailed("a\nERROR: fake " + HOSTILE, status=1)).splitlines()
    assert line.replace("\u200b", "").isprintable()


def test_text_is_cut_to_columns_with_an_ellipsis() -> None:
    assert [fit("abcdef", 6), fit("abcdef", 4), fit("漢字漢", 4), fit("x", 0)] == ["abcdef", "abc…", "漢…", ""]


@pytest.mark.parametrize(
    ("asked", "terminal", "environ", "mode"),
    [
        ("", True, {}, "tty"),
        ("", False, {}, "plain"),
        ("auto", True, {"CI": "1"}, "plain"),
        ("tty", True, {"CI": "1"}, "tty"),
        ("tty", False, {}, "plain"),
        ("", True, {"TERM": "dumb"}, "plain"),
        ("", True, {"BUILDKIT_PROGRESS": "rawjson"}, "rawjson"),
        ("plain", True, {"BUILDKIT_PROGRESS": "rawjson"}, "plain"),
        ("none", True, {}, "quiet"),
    ],
)
def test_progress_is_shown_as(asked: str, terminal: bool, environ: dict[str, str], mode: str) -> None:
    assert progress_mode(asked, quiet=False, is_terminal=terminal, environ=environ) == mode
