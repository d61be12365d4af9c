"""Relay: one thread that carries bytes between pairs of sockets, however many there are.

Edge-triggered epoll(7) and one buffer for all: a connection that waits costs two descriptors and nothing else.
"""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from sandboxbuild.system.oneway import BUFFER_BYTES, Cut, Filter, OneWay, Pipes

__all__ = ["IDLE", "LASTED", "Cut", "Filter", "Relay", "Watcher"]

TURNS: Final = 8  # buffers that one connection may move before the others have their turn
SWEEP_S: Final = 0.5
_EDGES: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


IDLE: Final = "nothing moved"
LASTED: Final = "the connection lasted too long"


class Watcher(Protocol):
    """Is told what a connection does, in the relay's thread: it must neither block nor raise."""

    def moved(self, sent: int, received: int) -> str:
        """So many bytes went to the server and to the client since the last call; a text that isn't empty ends it."""

    def closed(self, reason: str) -> None:
        """The end, once. `reason` is "" for a connection that both sides finished."""


class _Pair:
    """One connection, as the relay's thread sees it."""

    __slots__ = ("active_s", "client", "down", "ends_s", "idle_s", "queued", "server", "up", "watcher")

    def __init__(self, up: OneWay, down: OneWay, watcher: Watcher, idle_s: float, lifetime_s: float) -> None:
        self.client = up.source
        self.server = up.sink
        self.up = up
        self.down = down
        self.watcher = watcher
        self.idle_s = idle_s
        self.active_s = time.monotonic()
        self.ends_s = self.active_s + lifetime_s if lifetime_s else 0.0
        self.queued = False

    @property
    def finished(self) -> bool:
        return self.up.finished and self.down.finished

    def overdue(self, now_s: float) -> str:
        if self.idle_s and now_s - self.active_s > self.idle_s:
            return f"{IDLE} for {self.idle_s:g} s"
        if self.ends_s and now_s > self.ends_s:
            return LASTED
        return ""


class Relay:
    """Starts its thread with the first connection. `add` is thread-safe; the sockets belong to the relay from then on."""

    def __init__(self, name: str = "relay") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._waiting: list[_Pair] = []
        self._thread: threading.Thread | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = False
        self._pairs: dict[int, _Pair] = {}
        self._pipes = Pipes()

    def add(
        self,
        client: socket.socket,
        server: socket.socket,
        watcher: Watcher,
        *,
        early: bytes = b"",
        early_reply: bytes = b"",
        filter_: Filter | None = None,
        idle_s: float = 0.0,
        lifetime_s: float = 0.0,
    ) -> None:
        """Carry bytes between the two until both ends are done. `early` came from the client already and passed the filter;
        `early_reply` came from the server. 0 seconds is no limit."""
        for end in (client, server):
            end.setblocking(False)
        up = OneWay(client, server, early, filter_, self._pipes)
        down = OneWay(server, client, early_reply, None, self._pipes)
        with self._lock:
            if self._stop:
                raise RuntimeError("the relay is closed")
            self._waiting.append(_Pair(up, down, watcher, idle_s, lifetime_s))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """End all connections and the thread. Idempotent."""
        with self._lock:
            if self._stop:
                return
            self._stop = True
            os.eventfd_write(self._wake, 1)
        if self._thread is not None:
            self._thread.join()
        os.close(self._wake)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        ready: deque[_Pair] = deque()
        sweep_s = time.monotonic() + SWEEP_S
        with select.epoll() as poll:
            poll.register(self._wake, select.EPOLLIN)
            while not self._stop:
                self._collect(poll, ready, 0 if ready else SWEEP_S)
                self._go_round(ready, buffer)
                if time.monotonic() > sweep_s:
                    sweep_s = time.monotonic() + SWEEP_S
                    self._sweep()
            self._take_new(poll, ready)
            self._collect(poll, ready, 0)
            self._go_round(ready, buffer)  # what has come to its end is no connection that was broken off
            self._each(lambda _: "the relay was closed")

    def _go_round(self, ready: deque[_Pair], buffer: memoryview) -> None:
        for _ in range(len(ready)):
            pair = ready.popleft()
            pair.queued = False
            if self._work(pair, buffer):
                _queue(ready, pair)

    def _collect(self, poll: select.epoll, ready: deque[_Pair], timeout_s: float) -> None:
        """Queue the pairs whose sockets have news, and take in new ones."""
        for number, _ in poll.poll(timeout_s):
            if number == self._wake:
                os.eventfd_read(self._wake)
                self._take_new(poll, ready)
            elif number in self._pairs:
                _queue(ready, self._pairs[number])

    def _take_new(self, poll: select.epoll, ready: deque[_Pair]) -> None:
        with self._lock:
            fresh, self._waiting = self._waiting, []
        for pair in fresh:
            for end in (pair.client, pair.server):
                self._pairs[end.fileno()] = pair
                poll.register(end.fileno(), _EDGES)
            _queue(ready, pair)

    def _work(self, pair: _Pair, buffer: memoryview) -> bool:
        """Move bytes both ways; whether there may be more to move at once."""
        if pair.client.fileno() < 0:
            return False
        try:
            sent, again_up = _turns(pair.up, buffer)
            received, again_down = _turns(pair.down, buffer)
        except Cut as cut:
            return self._end(pair, cut.reason, cut.reply)
        except OSError as error:
            return self._end(pair, error.strerror or "the connection broke")
        if sent or received:
            pair.active_s = time.monotonic()
            reason = pair.watcher.moved(sent, received)
            if reason:
                return self._end(pair, reason)
        if pair.finished:
            return self._end(pair, "")
        return again_up or again_down

    def _end(self, pair: _Pair, reason: str, reply: bytes = b"") -> bool:
        """Close both sockets; a connection that was broken off ends in a reset, so that nobody takes it for complete."""
        for way in (pair.up, pair.down):
            way.close()
        for end in (pair.client, pair.server):
            del self._pairs[end.fileno()]
        if reply:
            _reply(pair.client, reply)
        for end in (pair.client, pair.server):
            if reason and not (reply and end is pair.client):
                _reset_on_close(end)
            end.close()
        pair.watcher.closed(reason)
        return False

    def _sweep(self) -> None:
        now_s = time.monotonic()
        self._each(lambda pair: pair.overdue(now_s))

    def _each(self, verdict: Callable[[_Pair], str]) -> None:
        for pair in {id(pair): pair for pair in self._pairs.values()}.values():
            reason = verdict(pair)
            if reason:
                self._end(pair, reason)


def _queue(ready: deque[_Pair], pair: _Pair) -> None:
    if not pair.queued:
        pair.queued = True
        ready.append(pair)


def _turns(direction: OneWay, buffer: memoryview) -> tuple[int, bool]:
    total = 0
    for _ in range(TURNS):
        moved, again = direction.turn(buffer)
        total += moved
        if not again:
            return total, False
    return total, True


def _reply(client: socket.socket, reply: bytes) -> None:
    try:
        client.send(reply, socket.MSG_NOSIGNAL)
        client.shutdown(socket.SHUT_WR)
        client.recv(BUFFER_BYTES)  # unread bytes would turn the close into a reset that overtakes the reply
    except OSError:
        pass


def _reset_on_close(end: socket.socket) -> None:
    try:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    except OSError:
        pass
