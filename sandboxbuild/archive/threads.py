"""The two shapes in which layers use threads: a bounded pipe between two stages, and workers whose results keep their order.

The stages spend their time in C that releases the GIL (read, hash, inflate, deflate). concurrent.futures would cost more at
import than both of these take to read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PipeClosed(Exception):
    """The reading side has stopped; what is written from now on is for nobody."""


class Pipe:
    """Chunks from one thread to another, at most `capacity` of them on the way; a Readable at its far end."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._chunks: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._rest = b""

    def write(self, chunk: bytes) -> None:
        """Pass a chunk on, waiting for room. Raises PipeClosed."""
        with self._changed:
            while len(self._chunks) >= self._capacity and not self._closed:
                self._changed.wait()
            if self._closed:
                raise PipeClosed
            self._chunks.append(chunk)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come; the reader gets `error`, if any, after what was written."""
        with self._changed:
            self._ended = True
            self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """The reading side stops; whoever waits to write gets PipeClosed."""
        with self._changed:
            self._closed = True
            self._chunks.clear()
            self._changed.notify_all()

    def read(self, n: int, /) -> bytes:
        """The next chunk, or its first `n` bytes; b"" at the end. Raises what the writing side ended with."""
        chunk = self._rest or self._next()
        if len(chunk) <= n:
            self._rest = b""
            return chunk
        self._rest = chunk[n:]
        return chunk[:n]

    def _next(self) -> bytes:
        with self._changed:
            while not self._chunks and not self._ended:
                self._changed.wait()
            if self._chunks:
                chunk = self._chunks.popleft()
                self._changed.notify_all()
                return chunk
        if self._error is not None:
            raise self._error
        return b""


class _Call(Generic[T]):
    """One piece of work, and its result once `done`."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.result: T | None = None


class OrderedWorkers(Generic[T]):
    """Runs calls on `count` threads and hands their results out in the order of the calls. A context manager.

    At most `count` + 1 calls wait or run: put() gives the results that are due by then. On the way out the threads end,
    whatever happened; calls that haven't begun are dropped.
    """

    def __init__(self, count: int, name: str) -> None:
        self._limit = count + 1
        self._todo: deque[_Call[T]] = deque()
        self._order: deque[_Call[T]] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(count)]

    def __enter__(self) -> OrderedWorkers[T]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._stopping = True
            self._todo.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def put(self, work: Callable[[], T]) -> list[T]:
        """Add a call; returns the results that are due, maybe none. Raises what a call raised."""
        call = _Call(work)
        self._order.append(call)
        with self._changed:
            self._todo.append(call)
            self._changed.notify_all()
        return self._due(self._limit)

    def rest(self) -> list[T]:
        """All results that are left."""
        return self._due(0)

    def _due(self, keep: int) -> list[T]:
        results = []
        while self._order and (len(self._order) > keep or self._order[0].done.is_set()):
            call = self._order.popleft()
            call.done.wait()
            if call.error is not None:
                raise call.error
            results.append(call.result)
        return results  # type: ignore[return-value]  # a call that is done without an error has its result

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._todo and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                call = self._todo.popleft()
            try:
                call.result = call.work()
            except BaseException as error:
                call.error = error
            call.done.set()
