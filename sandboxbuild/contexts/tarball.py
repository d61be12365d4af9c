"""An archive as a context: unpacked below a folder of ours, all of it root's."""

from __future__ import annotations

import os
from typing import Final

from sandboxbuild.archive.archives import is_archive, unpack_archive
from sandboxbuild.archive.member import ArchiveLimits
from sandboxbuild.errors import ContextError
from sandboxbuild.system.files import read_limited, write_file

DOCKERFILE: Final = "Dockerfile"
DOCKERFILE_LIMIT_BYTES: Final = 1024 * 1024
LIMITS: Final = ArchiveLimits(entries=1_000_000, total_bytes=64 << 30)
_OPEN_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack_context(descriptor: int, folder: str, shown: str, *, owner: tuple[int, int] = (0, 0)) -> None:
    """Make the directory `folder` of the file `descriptor`: a tar, compressed or not, or else a Dockerfile, alone.

    Names that would leave the folder are errors; links stay links, and lead nowhere outside when they are followed later.
    Raises ContextError, InputError, LimitExceeded.
    """
    os.mkdir(folder, 0o755)
    folder_fd = os.open(folder, _OPEN_DIRECTORY)
    try:
        if is_archive(descriptor):
            unpack_archive(descriptor, folder_fd, b"", uid=owner[0], gid=owner[1], limits=LIMITS)
        else:
            write_file(folder_fd, DOCKERFILE, read_dockerfile(descriptor, shown), 0o644)
        os.fchmod(folder_fd, 0o755)
        os.fchown(folder_fd, *owner)
    finally:
        os.close(folder_fd)


def read_dockerfile(descriptor: int, shown: str) -> bytes:
    """The text of a file that is no archive. Raises ContextError for what can't be a Dockerfile either."""
    size = os.fstat(descriptor).st_size
    text = b"" if size > DOCKERFILE_LIMIT_BYTES else read_limited(descriptor, DOCKERFILE_LIMIT_BYTES)
    if not text.strip() or b"\0" in text:
        raise ContextError(f"{shown} is neither a tar archive nor a Dockerfile", hint="tar, gzip, bzip2, xz and zstd are read")
    return text
