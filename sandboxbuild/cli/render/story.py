"""Story: what is remembered of a build's events, for the words at its end. Bounded, whatever the executor says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sandboxbuild.cli.render import vertex_title
from sandboxbuild.cli.render.text import disarm, safe_words
from sandboxbuild.protocol.events import BuildFailed, Event, LogOutput, StepTimed, VertexCompleted, VertexStarted, WarningRaised
from sandboxbuild.units import format_duration

TAIL_BYTES: Final = 8 * 1024
VERTICES_LIMIT: Final = 10_000
SLOWEST_SHOWN: Final = 3


class Story:
    __slots__ = ("_cached", "_failed", "_ran", "_tails", "_titles", "_warnings")

    def __init__(self) -> None:
        self._titles: dict[int, str] = {}
        self._tails: dict[int, bytes] = {}  # of vertices that have not ended well
        self._ran: list[tuple[int, str]] = []
        self._cached = 0
        self._warnings = 0
        self._failed: BuildFailed | None = None

    def add(self, event: Event | None) -> None:
        if isinstance(event, VertexStarted) and len(self._titles) < VERTICES_LIMIT:
            self._titles[event.vertex] = vertex_title(event)
        elif isinstance(event, LogOutput) and event.vertex in self._titles:
            self._tails[event.vertex] = (self._tails.get(event.vertex, b"") + event.data)[-TAIL_BYTES:]
        elif isinstance(event, VertexCompleted) and not event.error:
            self._tails.pop(event.vertex, None)
        elif isinstance(event, StepTimed):
            self._count(event)
        elif isinstance(event, WarningRaised):
            self._warnings += 1
        elif isinstance(event, BuildFailed):
            self._failed = event

    def _count(self, event: StepTimed) -> None:
        if event.cached:
            self._cached += 1
        elif len(self._ran) < VERTICES_LIMIT:
            self._ran.append((event.duration_ns, safe_words(event.name)))

    @property
    def failed_title(self) -> str:
        return self._titles.get(self._failed.vertex, "") if self._failed else ""

    @property
    def failed_tail(self) -> bytes:
        """The last output of the step that failed."""
        return (self._failed.tail or self._tails.get(self._failed.vertex, b"")) if self._failed else b""

    def summary(self, digest: str, names: Sequence[str], written: Sequence[str]) -> str:
        """The words after a success: digest, names, files, what took longest."""
        lines = [f"image {digest}", *(f"  named {safe_words(name)}" for name in names)]
        lines += [f"  written to {safe_words(path)}" for path in written]
        total = self._cached + len(self._ran)
        if total:
            lines.append(f"  {total} steps, {self._cached} cached")
        slowest = sorted(self._ran, reverse=True)[:SLOWEST_SHOWN] if len(self._ran) > 1 else []
        lines += [f"  {format_duration(duration_ns / 1e9):>7}  {name[:100]}" for duration_ns, name in slowest]
        return "".join(disarm(line) + "\n" for line in lines)
