"""Uploads: what a registry says as the place of an upload becomes a session of ours, which only this build can go on with."""

from __future__ import annotations

import secrets
import threading
from typing import Final, NamedTuple

UPLOADS_LIMIT: Final = 1024


class Session(NamedTuple):
    """An upload that this build has begun; `location` is the registry's."""

    host: str
    repository: str
    location: str


class Uploads:
    """The upload sessions of one build. Thread-safe. The oldest is forgotten when there are too many."""

    def __init__(self, limit: int = UPLOADS_LIMIT) -> None:
        self._limit = limit
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def remember(self, session: Session, token: str = "") -> str:
        """The token under which the sandbox knows the session; the one it had before, if it goes on."""
        token = token or secrets.token_hex(16)
        with self._lock:
            self._sessions[token] = session
            while len(self._sessions) > self._limit:
                del self._sessions[next(iter(self._sessions))]
        return token

    def find(self, token: str, host: str, repository: str) -> Session | None:
        """The session, if it is one of this repository."""
        with self._lock:
            session = self._sessions.get(token)
        return session if session is not None and session[:2] == (host, repository) else None

    def forget(self, token: str) -> None:
        with self._lock:
            self._sessions.pop(token, None)
