"""EventChannel: the one way by which the executor speaks. Thread-safe; numbers vertices and stamps times."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sandboxbuild.errors import Span
from sandboxbuild.protocol.events import (
    Event,
    LogOutput,
    TransferProgress,
    VertexCompleted,
    VertexStarted,
    WarningRaised,
)

PROGRESS_INTERVAL_S = 0.1
LOG_CHUNK_BYTES = 64 * 1024


class Vertex:
    """Something under way. `cached` may be set before it ends; `fail` is called by the channel."""

    __slots__ = ("_channel", "_reported", "cached", "number")

    def __init__(self, channel: EventChannel, number: int) -> None:
        self.number = number
        self.cached = False
        self._channel = channel
        self._reported: dict[str, float] = {}

    def output(self, stream: int, data: bytes) -> None:
        """Bytes that a step wrote."""
        for start in range(0, len(data), LOG_CHUNK_BYTES):
            self._channel.emit(LogOutput(self.number, stream, data[start : start + LOG_CHUNK_BYTES], time.time_ns()))

    def warn(self, message: str) -> None:
        self._channel.warn(message)

    def progress(self, item: str, action: str, current_bytes: int, total_bytes: int) -> None:
        """Report a transfer; calls that come faster than anyone can read are dropped, the last one never."""
        now = time.monotonic()
        label = item + action
        if current_bytes != total_bytes and now - self._reported.get(label, 0.0) < PROGRESS_INTERVAL_S:
            return
        self._reported[label] = now
        self._channel.emit(TransferProgress(self.number, item, action, current_bytes, total_bytes, time.time_ns()))


class EventChannel:
    """`send` is called under a lock with one event at a time, in the order of emission."""

    def __init__(self, send: Callable[[Event], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._last_vertex = 0
        self._warned: set[tuple[str, Span | None]] = set()
        self.failed_vertex = 0

    def emit(self, event: Event) -> None:
        with self._lock:
            self._send(event)

    def warn(self, message: str, span: Span | None = None, source: str = "") -> None:
        """Say it once: the builds of several platforms read one file."""
        with self._lock:
            if (message, span) in self._warned:
                return
            self._warned.add((message, span))
        self.emit(WarningRaised(message, span, source))

    @contextmanager
    def vertex(self, kind: str, name: str, *, stage: str = "", number: int = 0, total: int = 0) -> Iterator[Vertex]:
        """Everything within belongs to this vertex; an exception ends it with its message."""
        with self._lock:
            self._last_vertex += 1
            vertex = Vertex(self, self._last_vertex)
            self._send(VertexStarted(vertex.number, kind, name, stage, number, total, time.time_ns()))
        try:
            yield vertex
        except BaseException as error:
            self.failed_vertex = self.failed_vertex or vertex.number
            self.emit(VertexCompleted(vertex.number, False, str(error) or type(error).__name__, time.time_ns()))
            raise
        self.emit(VertexCompleted(vertex.number, vertex.cached, "", time.time_ns()))
