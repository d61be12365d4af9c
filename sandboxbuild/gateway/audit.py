"""The audit log: one JSON object a line for each connection, refusal, pull, push and fetch that a build made.

Fields are bounded and everything but printable ASCII is escaped, so that a stranger's text can neither end a line nor move a
terminal's cursor. The log is bounded as well: its last line then says so.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final, NamedTuple

TEXT_LIMIT: Final = 512
LOG_LIMIT_BYTES: Final = 256 * 1024 * 1024
RECENT_LIMIT: Final = 10_000

CONNECT: Final = "connect"
REFUSE: Final = "refuse"
PULL: Final = "pull"
PUSH: Final = "push"
FETCH: Final = "fetch"
TRUNCATED: Final = "truncated"  # the log's last record, where it has reached its limit
NAME: Final = "name"  # a name that was looked up and that only learning let through
STEP: Final = "step"  # the stage and text of a step that begins; `name` is the text


class Record(NamedTuple):
    """One line. `time_s` since the epoch, `duration_ms` until the end. `sent` and `received` are bytes, seen from the sandbox.

    `name` is the host or, of a pull or push, host/repository; `reference` its tag or digest, `digest` what it came to.
    `rule` is the policy's entry that allowed it, `reason` and `hint` why it was refused, or how it ended.
    """

    kind: str
    step: str = ""
    stage: str = ""
    name: str = ""
    port: int = 0
    address: str = ""
    sent: int = 0
    received: int = 0
    time_s: float = 0.0
    duration_ms: int = 0
    rule: str = ""
    reason: str = ""
    hint: str = ""
    reference: str = ""
    digest: str = ""
    learned: bool = False
    build: str = ""


def record_line(record: Record) -> str:
    """The record as one line of JSON; empty fields are left out."""
    said = {name: _bounded(value) for name, value in zip(record._fields, record, strict=True) if value or name == "kind"}
    return json.dumps(said, separators=(",", ":"), ensure_ascii=True) + "\n"


def _bounded(value: object) -> object:
    if isinstance(value, str):
        return value[:TEXT_LIMIT].replace("\x7f", "?")
    return round(value, 6) if isinstance(value, float) else value


class AuditLog:
    """Thread-safe. `sink` may be None: records are then only kept (the newest ones) for the build's end and for learning."""

    def __init__(self, sink: IO[str] | None = None, build: str = "", limit_bytes: int = LOG_LIMIT_BYTES) -> None:
        self._sink = sink
        self._build = build
        self._left = limit_bytes
        self._lock = threading.Lock()
        self._kept: list[Record] = []
        self._full = False

    def write(self, record: Record) -> None:
        """Add a record; the build's id, and the time where there is none, are filled in."""
        record = record._replace(build=self._build, time_s=record.time_s or time.time())
        with self._lock:
            if len(self._kept) < RECENT_LIMIT:
                self._kept.append(record)
            if self._sink is not None and not self._full:
                self._write_line(record_line(record))

    def _write_line(self, line: str) -> None:
        assert self._sink is not None, "the caller looked"
        self._left -= len(line)
        if self._left < 0:
            self._full = True
            line = record_line(Record(TRUNCATED, reason="the audit log has reached its limit", build=self._build))
        self._sink.write(line)
        self._sink.flush()

    def records(self) -> tuple[Record, ...]:
        """What was kept, oldest first."""
        with self._lock:
            return tuple(self._kept)

    def refusals(self) -> tuple[Record, ...]:
        """Each thing that was refused, once."""
        seen = {
            (record.step, record.name, record.port, record.reason): record for record in self.records() if record.kind == REFUSE
        }
        return tuple(seen.values())


def read_records(lines: Iterable[str]) -> Iterator[Record]:
    """The records of a log. Raises ValueError, with the line's number, for a line that is none."""
    for number, line in enumerate(lines, 1):
        try:
            said = json.loads(line)
            yield Record(said["kind"])._replace(**{name: _typed(name, value) for name, value in said.items()})
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError(f"line {number} is no audit record") from error


def _typed(name: str, value: Any) -> Any:
    expected = _TYPES[name]
    if type(value) is not expected and not (expected is float and type(value) is int):
        raise TypeError(name)
    return value


_TYPES: Final = {"kind": str, **{name: type(default) for name, default in Record._field_defaults.items()}}
