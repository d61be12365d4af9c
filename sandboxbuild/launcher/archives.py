"""A context that is an archive: from standard input or a file into the build's folder of the store; it is unpacked inside."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO, Final, NamedTuple

from sandboxbuild.archive import compress
from sandboxbuild.archive.header import Malformed, parse_header
from sandboxbuild.errors import ContextError, LimitExceeded, UsageError
from sandboxbuild.protocol.request import ARCHIVE_NAME
from sandboxbuild.store import Store
from sandboxbuild.system.files import write_all

LIMIT_BYTES: Final = 16 << 30
FIRST_BYTES: Final = 512
STDIN: Final = ("-", "tar://stdin")
TAR_SCHEME: Final = "tar://"
_CHUNK: Final = 1 << 20
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ArchiveStream(NamedTuple):
    """An archive that has yet to be read: what was read to recognise it, and the rest."""

    first: bytes
    rest: BinaryIO


def is_archive_name(context: str) -> bool:
    return context == "-" or context.startswith(TAR_SCHEME)


def open_archive(context: str, stdin: BinaryIO) -> ArchiveStream:
    """The stream of `-`, `tar://stdin` or `tar://FILE`. Raises UsageError for a terminal, ContextError for an absent file."""
    if context in STDIN:
        if stdin.isatty():
            raise UsageError(
                "the context is to come from standard input, which is a terminal", hint="tar c . | sandboxbuild run -"
            )
        source = stdin
    else:
        source = _opened(context.removeprefix(TAR_SCHEME))
    return ArchiveStream(source.read(FIRST_BYTES), source)


def _opened(path: str) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise ContextError(f"the context {path!r} can't be read: {error.strerror}") from error
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ContextError(f"the context {path!r} is a folder", hint="leave tar:// out")
    return os.fdopen(descriptor, "rb")


def looks_like_archive(first: bytes) -> bool:
    """Whether `first` begins something compressed, or a tar: its first header has the right checksum."""
    if compress.detect(first) != "none":
        return True
    if len(first) < FIRST_BYTES:
        return False
    try:
        parse_header(first)
    except Malformed:
        return not any(first)  # an empty tar is all zeros
    return True


def save_archive(stream: ArchiveStream, store: Store) -> None:
    """Write it where the executor looks for it. Raises LimitExceeded."""
    descriptor = os.open(os.path.join(store.scratch, ARCHIVE_NAME), _NEW_FILE, 0o644)
    try:
        os.fchmod(descriptor, 0o644)
        size = 0
        chunk = stream.first
        while chunk:
            size += len(chunk)
            if size > LIMIT_BYTES:
                raise LimitExceeded(f"the context's archive has more than {LIMIT_BYTES} bytes")
            write_all(descriptor, chunk)
            chunk = stream.rest.read(_CHUNK)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LimitExceeded("no space left for the context's archive", hint="make room where the store lies") from error
        raise ContextError(f"the context's archive can't be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
