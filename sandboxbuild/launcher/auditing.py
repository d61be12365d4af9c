"""What the gateway tells of a build: into the audit log's file as it comes, and kept for the error and a learned policy."""

from __future__ import annotations

import os
from typing import Final

from sandboxbuild.errors import InputError
from sandboxbuild.gateway.audit import CONNECT, FETCH, NAME, PULL, REFUSE, TRUNCATED, Record, record_line

KEPT_LIMIT: Final = 20_000
_KEPT: Final = frozenset({CONNECT, FETCH, NAME, PULL, REFUSE})


class AuditTrail:
    """Called with each record, by one thread. `path` is the log's file, "" for none: it is added to, and its owner's alone.

    Of records that say the same, one is kept; of different ones the first KEPT_LIMIT.
    """

    def __init__(self, path: str = "") -> None:
        self._path = path
        self._kept: dict[tuple[object, ...], Record] = {}
        self._fault = ""
        self._fd = _opened(path) if path else -1

    def __call__(self, record: Record) -> None:
        if self._fd >= 0 and not self._fault:
            try:
                os.write(self._fd, record_line(record).encode("ascii"))
            except OSError as error:
                self._fault = error.strerror or "it can't be written"
            if record.kind == TRUNCATED:
                self._fault = record.reason
        if record.kind in _KEPT and len(self._kept) < KEPT_LIMIT:
            plain = record._replace(sent=0, received=0, time_s=0.0, duration_ms=0)
            self._kept.setdefault(plain, plain)

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(self._kept.values())

    def refusals(self, step: str) -> tuple[Record, ...]:
        """What was refused to the step of that number, and its connections that a limit of time ended."""
        return tuple(record for record in self._kept.values() if record.step == step and _is_refusal(record))

    def close(self) -> None:
        """Raises InputError when the log is not complete: a build without its log has not been audited."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._fault:
            raise InputError(f"the audit log {self._path!r} is not complete: {self._fault}")


def _is_refusal(record: Record) -> bool:
    return record.kind == REFUSE or (record.kind == CONNECT and "[network.limits]" in record.reason)


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY, 0o600)
    except OSError as error:
        raise InputError(f"the audit log {path!r} can't be written: {error.strerror}") from error
