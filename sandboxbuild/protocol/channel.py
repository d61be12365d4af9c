"""The two ends of the control channel as the executor and the launcher use them: one request in, a Hello and events out."""

from __future__ import annotations

import threading
from typing import Any, Final, NamedTuple

from sandboxbuild.errors import ProtocolError
from sandboxbuild.protocol.codec import decode, encode
from sandboxbuild.protocol.events import Event
from sandboxbuild.protocol.frames import REQUEST_LIMIT_BYTES, Readable, Writable, read_frame, write_frame
from sandboxbuild.protocol.groups import GroupQuestion
from sandboxbuild.protocol.request import PROTOCOL_VERSION, BuildRequest

TEXT_LIMIT_CHARACTERS: Final = 16 * 1024  # of any text in an event; longer ones are clipped by the sender
BYTES_LIMIT: Final = 64 * 1024  # of any bytes in an event


class Hello(NamedTuple):
    """The executor's first frame. A launcher that speaks another version ends the build."""

    version: int
    build_id: str


def send_request(stream: Writable, request: BuildRequest) -> None:
    write_frame(stream, encode(request), limit_bytes=REQUEST_LIMIT_BYTES)


def read_request(stream: Readable) -> BuildRequest:
    """The one request. Raises ProtocolError where it is absent, malformed or of another version."""
    payload = read_frame(stream, limit_bytes=REQUEST_LIMIT_BYTES)
    if payload is None:
        raise ProtocolError("the control channel ended before a request came")
    request = decode(payload, (BuildRequest,))
    if request.version != PROTOCOL_VERSION:
        raise ProtocolError(f"the request has version {request.version}, and this executor speaks {PROTOCOL_VERSION}")
    return request


class EventWriter:
    """Writes events for one build; thread-safe. Says Hello when it is made.

    Text is made safe to encode (no lone surrogates) and clipped at TEXT_LIMIT_CHARACTERS, since the launcher refuses more.
    Bytes over BYTES_LIMIT are clipped too: a caller that wants them all cuts them first. A launcher that is gone shows as
    BrokenPipeError.
    """

    __slots__ = ("_lock", "_stream")

    def __init__(self, stream: Writable, build_id: str) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._send(Hello(PROTOCOL_VERSION, build_id))

    def write(self, event: Event) -> None:
        self._send(_fitted(event))

    def ask(self, question: GroupQuestion) -> None:
        """What is answered on the other stream, in its own time."""
        self._send(question)

    def _send(self, message: Any) -> None:
        payload = encode(message)
        with self._lock:
            write_frame(self._stream, payload)


def _fitted(value: Any) -> Any:
    if isinstance(value, str):
        return _fitted_text(value)
    if isinstance(value, bytes):
        return value[:BYTES_LIMIT]
    if hasattr(value, "_fields"):
        return type(value)(*(_fitted(part) for part in value))
    if isinstance(value, tuple):
        return tuple(_fitted(part) for part in value)
    return value


def _fitted_text(text: str) -> str:
    if len(text) > TEXT_LIMIT_CHARACTERS:
        text = text[: TEXT_LIMIT_CHARACTERS - 1] + "…"
    if text.isascii():
        return text
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)
