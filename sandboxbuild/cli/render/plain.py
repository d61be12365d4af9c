"""Plain progress: every line of every step, in order, with its step's number; for pipes and CI logs."""

from __future__ import annotations

import secrets
from typing import TextIO

from sandboxbuild.cli.render import vertex_title
from sandboxbuild.cli.render.text import Lines, disarm, safe_line, safe_words
from sandboxbuild.protocol.events import (
    Event,
    LogOutput,
    TransferProgress,
    VertexCompleted,
    VertexStarted,
    WarningRaised,
)
from sandboxbuild.units import format_size

PROGRESS_INTERVAL_NS = 1_000_000_000  # between two lines about one transfer


class PlainRenderer:
    """Writes `#7 0.213 text`. With `github` the output of steps is bracketed so that the runner reads no command in it.

    The bracket (GitHub Actions, workflow commands, stop-commands) has a random token, which a step can't know.
    """

    def __init__(self, stream: TextIO, *, github: bool = False) -> None:
        self._stream = stream
        self._token = secrets.token_hex(16) if github else ""
        self._bracketed = False
        self._current = 0
        self._started: dict[int, VertexStarted] = {}
        self._lines: dict[tuple[int, int], Lines] = {}
        self._told_ns: dict[tuple[int, str, str], int] = {}
        self._finished = False

    def show(self, event: Event | None) -> None:
        if isinstance(event, VertexStarted):
            self._started[event.vertex] = event
            self._open_bracket()
            self._switch_to(event.vertex)
        elif isinstance(event, LogOutput):
            self._show_output(event)
        elif isinstance(event, TransferProgress):
            self._show_transfer(event)
        elif isinstance(event, VertexCompleted):
            self._show_completed(event)
        elif isinstance(event, WarningRaised):
            self._open_bracket()
            place = f"{safe_words(event.span.file)}:{event.span.line}: " if event.span else ""
            self._write(f"WARNING: {place}{safe_words(event.message)}")
        if event is not None:
            self._stream.flush()

    def finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        for (vertex, _), lines in self._lines.items():
            self._write_lines(vertex, lines.end(), 0)
        if self._bracketed:
            self._stream.write(f"::{self._token}::\n")
        self._stream.flush()

    def _open_bracket(self) -> None:
        if self._token and not self._bracketed:
            self._bracketed = True
            self._stream.write(f"::stop-commands::{self._token}\n")

    def _switch_to(self, vertex: int) -> None:
        if self._current == vertex or vertex not in self._started:
            return
        if self._current:
            self._stream.write("\n")
        self._current = vertex
        self._write(f"#{vertex} {vertex_title(self._started[vertex])}")

    def _show_output(self, event: LogOutput) -> None:
        lines = self._lines.setdefault((event.vertex, event.stream), Lines())
        self._write_lines(event.vertex, lines.feed(event.data), event.time_ns)

    def _write_lines(self, vertex: int, lines: list[bytes], time_ns: int) -> None:
        if not lines:
            return
        self._switch_to(vertex)
        started = self._started.get(vertex)
        seconds = max(time_ns - started.time_ns, 0) / 1e9 if started and time_ns else 0.0
        for line in lines:
            self._write(f"#{vertex} {seconds:.3f} {safe_line(line)}")

    def _show_transfer(self, event: TransferProgress) -> None:
        key = (event.vertex, event.item, event.action)
        is_done = 0 < event.total_bytes <= event.current_bytes
        if not is_done and event.time_ns - self._told_ns.get(key, event.time_ns - PROGRESS_INTERVAL_NS) < PROGRESS_INTERVAL_NS:
            return
        self._told_ns[key] = event.time_ns
        self._switch_to(event.vertex)
        total = f" / {format_size(event.total_bytes)}" if event.total_bytes else ""
        amount = format_size(event.current_bytes) + total + (" done" if is_done else "")
        self._write(f"#{event.vertex} {safe_words(event.action)} {safe_words(event.item)} {amount}")

    def _show_completed(self, event: VertexCompleted) -> None:
        for stream in (1, 2):
            lines = self._lines.pop((event.vertex, stream), None)
            self._write_lines(event.vertex, lines.end() if lines else [], event.time_ns)
        self._switch_to(event.vertex)
        started = self._started.get(event.vertex)
        seconds = max(event.time_ns - started.time_ns, 0) / 1e9 if started else 0.0
        if event.error:
            self._write(f"#{event.vertex} ERROR: {safe_words(event.error)}")
        else:
            self._write(f"#{event.vertex} CACHED" if event.cached else f"#{event.vertex} DONE {seconds:.1f}s")

    def _write(self, line: str) -> None:
        self._stream.write(disarm(line) + "\n")
