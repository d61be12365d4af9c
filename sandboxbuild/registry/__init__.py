"""A client of the OCI distribution-spec: Transport, Response and Body are the seam between what is asked and how it travels.

The executor's transport is `uplink` (plain HTTP to the gateway, no credential); the gateway's is `transport` (TLS, tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

CHUNK_BYTES = 1024 * 1024


class Body(Protocol):
    """A request's body: exactly `size_bytes` bytes, read once, by one thread. The giver closes what lies below."""

    @property
    def size_bytes(self) -> int: ...

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; b"" at the end."""


class Response(Protocol):
    """An answer whose body has not been read yet. Header names are lower case. The receiver closes it, always."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def read(self, count: int, /) -> bytes:
        """At most `count` bytes; b"" only at the true end. Raises RegistryError when the body stops short of its length."""

    def close(self) -> None:
        """Idempotent. A connection whose body was read to the end may serve again."""


class Transport(Protocol):
    """Carries one request to a registry. Thread-safe. Follows redirects of GET and HEAD; sends a body once at most."""

    def request(
        self, method: str, host: str, path: str, headers: Mapping[str, str], body: Body | None, *, timeout_s: float = 60.0
    ) -> Response:
        """`host` is a registry as in references ("registry.example.com:5000"); `path` starts with "/v2/", query included, or is
        a Location that the registry gave before. `timeout_s` bounds each wait for a byte. Raises RegistryError (TransientError
        where another try may help) when there is no answer; any status is an answer.
        """


class BytesBody:
    """A body that is in memory."""

    __slots__ = ("_position", "_view", "size_bytes")

    def __init__(self, content: bytes) -> None:
        self._view = memoryview(content)
        self._position = 0
        self.size_bytes = len(content)

    def read(self, count: int, /) -> bytes:
        chunk = bytes(self._view[self._position : self._position + count])
        self._position += len(chunk)
        return chunk
