"""Raw JSON progress: one line per update, in the shape of `docker buildx build --progress=rawjson` (client.SolveStatus)."""

from __future__ import annotations

import binascii
import datetime
import hashlib
import json
from typing import Any, TextIO

from sandboxbuild.cli.render import vertex_title
from sandboxbuild.protocol.events import Event, LogOutput, TransferProgress, VertexCompleted, VertexStarted, WarningRaised


class RawJsonRenderer:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started: dict[int, VertexStarted] = {}

    def show(self, event: Event | None) -> None:
        update = self._update(event)
        if update is not None:
            # Within JSON a # occurs in strings alone; written as an escape it is no command to a CI runner.
            self._stream.write(json.dumps(update, separators=(",", ":")).replace("##", "#\\u0023") + "\n")
            self._stream.flush()

    def finish(self) -> None:
        self._stream.flush()

    def _update(self, event: Event | None) -> dict[str, Any] | None:
        if isinstance(event, VertexStarted):
            self._started[event.vertex] = event
            return {"vertexes": [self._vertex(event.vertex)]}
        if isinstance(event, VertexCompleted):
            ending: dict[str, Any] = {"completed": rfc3339(event.time_ns)}
            if event.cached:
                ending["cached"] = True
            if event.error:
                ending["error"] = event.error
            return {"vertexes": [self._vertex(event.vertex) | ending]}
        if isinstance(event, LogOutput):
            data = binascii.b2a_base64(event.data, newline=False).decode("ascii")
            log = {
                "vertex": vertex_digest(event.vertex),
                "stream": event.stream,
                "data": data,
                "timestamp": rfc3339(event.time_ns),
            }
            return {"logs": [log]}
        if isinstance(event, TransferProgress):
            return {"statuses": [_status(event)]}
        if isinstance(event, WarningRaised):
            return {"warnings": [_warning(event)]}
        return None

    def _vertex(self, vertex: int) -> dict[str, Any]:
        started = self._started.get(vertex)
        fields: dict[str, Any] = {"digest": vertex_digest(vertex)}
        if started is not None:
            fields |= {"name": vertex_title(started), "started": rfc3339(started.time_ns)}
        return fields


def vertex_digest(vertex: int) -> str:
    """Consumers know a vertex by a digest; ours stands for its number in this build."""
    return "sha256:" + hashlib.sha256(b"vertex %d" % vertex).hexdigest()


def rfc3339(time_ns: int) -> str:
    """Nanoseconds since the epoch with all their digits."""
    seconds, nanoseconds = divmod(min(time_ns, 253402300799 * 10**9), 10**9)
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _status(event: TransferProgress) -> dict[str, Any]:
    status: dict[str, Any] = {
        "id": event.item,
        "vertex": vertex_digest(event.vertex),
        "name": event.action,
        "total": event.total_bytes,
        "current": event.current_bytes,
        "timestamp": rfc3339(event.time_ns),
    }
    if 0 < event.total_bytes <= event.current_bytes:
        status["completed"] = status["timestamp"]
    return status


def _warning(event: WarningRaised) -> dict[str, Any]:
    def encoded(text: str) -> str:
        return binascii.b2a_base64(text.encode("utf-8", "replace"), newline=False).decode("ascii")

    warning: dict[str, Any] = {"level": 1, "short": encoded(event.message)}
    if event.span is not None:
        warning["range"] = [{"start": {"line": event.span.line}, "end": {"line": event.span.end_line}}]
        warning["sourceInfo"] = {"filename": event.span.file, "data": encoded(event.source)}
    return warning
