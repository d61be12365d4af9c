"""Terminal progress: finished steps scroll up, running ones are redrawn below with the end of their output.

Only sequences of this module reach the terminal: text of others is cut to one safe line first.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import Final, TextIO

from sandboxbuild.cli.render import vertex_title
from sandboxbuild.cli.render.text import Lines, display_width, fit, safe_line, safe_words
from sandboxbuild.protocol.events import (
    Event,
    LogOutput,
    PlanReady,
    TransferProgress,
    VertexCompleted,
    VertexStarted,
    WarningRaised,
)
from sandboxbuild.units import format_duration, format_size

REDRAW_S: Final = 0.1
OUTPUT_LINES: Final = 6
TRANSFERS_SHOWN: Final = 8
BAR_CELLS: Final = 20


class _Running:
    """A vertex that has begun and not ended."""

    __slots__ = ("lines", "output", "start_s", "title", "transfers")

    def __init__(self, title: str, start_s: float, output_lines: int) -> None:
        self.title = title
        self.start_s = start_s
        self.lines = (Lines(), Lines())
        self.output: deque[str] = deque(maxlen=output_lines)
        self.transfers: dict[tuple[str, str], TransferProgress] = {}


class TtyRenderer:
    """`size` gives (columns, rows) and `clock` seconds that only grow; tests hand in their own."""

    def __init__(
        self,
        stream: TextIO,
        *,
        colour: bool = True,
        output_lines: int = OUTPUT_LINES,
        size: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._colour = colour
        self._output_lines = output_lines
        self._size = size or (lambda: _terminal_size(stream))
        self._clock = clock
        self._start_s = clock()
        self._running: dict[int, _Running] = {}
        self._total = self._completed = 0
        self._drawn_lines = 0
        self._drawn_s = 0.0
        self._finished = False

    def show(self, event: Event | None) -> None:
        if isinstance(event, VertexCompleted):
            self._complete(event)
        elif isinstance(event, WarningRaised):
            self._print(self._paint("33", "WARNING: ") + safe_words(event.message))
        elif event is not None:
            self._note(event)
        if self._clock() - self._drawn_s >= REDRAW_S:
            self._redraw()

    def finish(self) -> None:
        if not self._finished:
            self._finished = True
            self._erase()
            self._stream.flush()

    def _note(self, event: Event) -> None:
        if isinstance(event, PlanReady):
            self._total = event.steps
        elif isinstance(event, VertexStarted):
            self._running[event.vertex] = _Running(vertex_title(event), self._clock(), self._output_lines)
            self._total = max(self._total, self._completed + len(self._running))
        elif isinstance(event, LogOutput) and event.vertex in self._running:
            vertex = self._running[event.vertex]
            vertex.output.extend(safe_line(line) for line in vertex.lines[event.stream == 2].feed(event.data))
        elif isinstance(event, TransferProgress) and event.vertex in self._running:
            transfers = self._running[event.vertex].transfers
            transfers.pop((event.item, event.action), None)
            transfers[event.item, event.action] = event
            if len(transfers) > 4 * TRANSFERS_SHOWN:
                del transfers[next(iter(transfers))]

    def _complete(self, event: VertexCompleted) -> None:
        vertex = self._running.pop(event.vertex, None)
        self._completed += 1
        if vertex is None:
            return
        word = self._paint("31", "ERROR ") if event.error else self._paint("36", "CACHED ") if event.cached else ""
        plain_word = "ERROR " if event.error else "CACHED " if event.cached else ""
        self._print(self._row(f" => {plain_word}", f" => {word}", vertex.title, self._clock() - vertex.start_s))

    def _row(self, plain_head: str, painted_head: str, title: str, seconds: float) -> str:
        """A step's line with its time at the right edge."""
        columns = self._size()[0]
        right = format_duration(seconds)
        room = columns - len(plain_head) - len(right) - 1
        title = fit(title, room)
        return painted_head + title + " " * max(room - display_width(title), 0) + " " + right

    def _print(self, line: str) -> None:
        """A line that stays, above what is redrawn."""
        self._erase()
        self._stream.write(line + "\n")
        self._redraw()

    def _redraw(self) -> None:
        self._erase()
        columns, rows = self._size()
        lines = self._picture(columns)[: max(rows - 1, 1)]
        self._stream.write("".join(line + "\n" for line in lines))
        self._stream.flush()
        self._drawn_lines = len(lines)
        self._drawn_s = self._clock()

    def _erase(self) -> None:
        if self._drawn_lines:
            self._stream.write(f"\x1b[{self._drawn_lines}A\x1b[J")
            self._drawn_lines = 0

    def _picture(self, columns: int) -> list[str]:
        now = self._clock()
        head = f"[+] Building {format_duration(now - self._start_s)} ({self._completed}/{self._total})"
        lines = [self._paint("1", fit(head, columns))]
        for vertex in self._running.values():
            lines.append(self._row(" => ", " => ", vertex.title, now - vertex.start_s))
            lines += [fit(f" => => {_transfer_line(each)}", columns - 1) for each in _recent(vertex.transfers)]
            lines += [self._paint("2", fit(f" => => # {line}", columns - 1)) for line in vertex.output]
        return lines

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


def _terminal_size(stream: TextIO) -> tuple[int, int]:
    columns, rows = os.get_terminal_size(stream.fileno())
    return columns or 80, rows or 24


def _recent(transfers: dict[tuple[str, str], TransferProgress]) -> list[TransferProgress]:
    unfinished = [each for each in transfers.values() if not 0 < each.total_bytes <= each.current_bytes]
    return unfinished[-TRANSFERS_SHOWN:]


def _transfer_line(event: TransferProgress) -> str:
    name = f"{safe_words(event.action)} {safe_words(event.item)[:19]}"
    if not event.total_bytes:
        return f"{name} {format_size(event.current_bytes)}"
    cells = min(BAR_CELLS, BAR_CELLS * event.current_bytes // event.total_bytes)
    bar = "━" * cells + " " * (BAR_CELLS - cells)
    return f"{name} {bar} {format_size(event.current_bytes)} / {format_size(event.total_bytes)}"
