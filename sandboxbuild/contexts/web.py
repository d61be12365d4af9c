"""A file of the web as a context: what the URL gives is spooled, and is an archive or a Dockerfile by its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from sandboxbuild.contexts import Fetch
from sandboxbuild.contexts.tarball import unpack_context
from sandboxbuild.errors import ContextError, LimitExceeded
from sandboxbuild.system.files import write_all

READ_BYTES: Final = 1024 * 1024
LIMIT_BYTES: Final = 16 << 30
_SHOWN: Final = 200
_SPOOL: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def fetch_context(url: str, fetch: Fetch, folder: str, on_bytes: Callable[[int, int], None]) -> None:
    """Fetch `url` and make the directory `folder` of it. `on_bytes(done, total)` hears of progress, total 0 if unknown."""
    spool = f"{folder}.spool"
    descriptor = os.open(spool, _SPOOL, 0o600)
    try:
        _save(url, fetch, descriptor, on_bytes)
        os.lseek(descriptor, 0, os.SEEK_SET)
        unpack_context(descriptor, folder, url[:_SHOWN])
    finally:
        os.close(descriptor)
        os.unlink(spool)


def _save(url: str, fetch: Fetch, descriptor: int, on_bytes: Callable[[int, int], None]) -> None:
    response = fetch(url, {})
    try:
        if response.status != 200:
            raise ContextError(f"{url[:_SHOWN]} can't be fetched: HTTP status {response.status}")
        length = response.headers.get("content-length", "")
        total = int(length) if length.isascii() and length.isdigit() and len(length) < 19 else 0
        done = 0
        while chunk := response.read(READ_BYTES):
            done += len(chunk)
            if done > LIMIT_BYTES:
                raise LimitExceeded(f"a context has more than {LIMIT_BYTES} bytes")
            write_all(descriptor, chunk)
            on_bytes(done, total)
    finally:
        response.close()
