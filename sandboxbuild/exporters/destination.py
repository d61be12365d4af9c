"""Where exports go: files and directories that appear complete or not at all."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO, Union

from sandboxbuild.errors import LimitExceeded, UsageError
from sandboxbuild.exporters import Output
from sandboxbuild.system.files import remove_tree

Write = Callable[[Union[bytes, memoryview]], object]
_BUFFER_BYTES = 1 << 20
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def destination_errors(path: str) -> Iterator[None]:
    """Say of which destination an OSError tells."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LimitExceeded(f"the disk is full: {path}", hint="free some space, or write the output elsewhere") from error
        raise UsageError(f"the output {path} can't be written: {error.strerror}") from error


@contextmanager
def opened(output: Output) -> Iterator[Write]:
    """Gives a function that takes the bytes of one file, or of the stream that "-" stands for."""
    if output.destination == "-":
        with destination_errors("-"):
            stream = output.stream or sys.stdout.buffer
            yield lambda data: _write_stream(stream, data)
            stream.flush()
        return
    path = os.path.realpath(output.destination)
    with destination_errors(output.destination):
        if _is_special(path):
            with open(path, "wb", buffering=0) as stream:
                yield lambda data: _write_stream(stream, data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        # A tar is many small writes between large ones.
        with _renamed_at_the_end(path) as fd, open(fd, "wb", buffering=_BUFFER_BYTES, closefd=False) as file:
            yield file.write
            file.flush()


def _is_special(path: str) -> bool:
    """A device or FIFO is written to as it is."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise UsageError(f"the output {path} is a directory", hint="give a file's name, or tar=false where that is possible")
    return not stat.S_ISREG(mode)


@contextmanager
def _renamed_at_the_end(path: str) -> Iterator[int]:
    temporary = temporary_beside(path)
    fd = os.open(temporary, _NEW_FILE, 0o666)
    try:
        yield fd
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        os.close(fd)


@contextmanager
def new_directory(path: str, mode: int) -> Iterator[str]:
    """Gives a directory to fill (0700 until it is complete), which then becomes `path`, absent until now."""
    path = os.path.realpath(path)
    with destination_errors(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = temporary_beside(path)
        os.mkdir(temporary, 0o700)
        try:
            yield temporary
            os.chmod(temporary, mode)
            os.rename(temporary, path)
        except BaseException:
            _remove(temporary)
            raise


@contextmanager
def present_directory(path: str) -> Iterator[str]:
    """Gives a directory that is there. One that was empty is empty again if filling it fails."""
    path = os.path.realpath(path)
    with destination_errors(path):
        was_empty = not os.listdir(path)
        try:
            yield path
        except BaseException:
            if was_empty:
                for name in os.listdir(path):
                    _remove(os.path.join(path, name))
            raise


def replace_file(folder: str, name: str, data: bytes) -> None:
    """Put a small file into an existing directory at once."""
    path = os.path.join(folder, name)
    with destination_errors(path), _renamed_at_the_end(path) as fd:
        _write_all(fd, data)


def write_new_file(path: str, write_to: Callable[[Write], object]) -> None:
    """Let `write_to` fill a file that appears at `path`, replacing one that is there, when it is complete."""
    with destination_errors(path), _renamed_at_the_end(path) as fd:
        write_to(lambda data: _write_all(fd, data))


def temporary_beside(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name[:100]}.{os.urandom(6).hex()}.tmp")


def _remove(path: str) -> None:
    folder, name = os.path.split(path)
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        remove_tree(fd, name)
    finally:
        os.close(fd)


def _write_all(fd: int, data: Union[bytes, memoryview]) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_stream(stream: BinaryIO, data: Union[bytes, memoryview]) -> None:
    """A raw stream may take a part; a buffered one takes all."""
    view = memoryview(data)
    while view:
        written = stream.write(view)
        view = view[written if written is not None else len(view) :]
