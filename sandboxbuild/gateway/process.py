"""Gateway: the gateway's process as the launcher sees it: started with a build, asked for its address, ended with the build."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Final

from sandboxbuild import errors
from sandboxbuild.errors import SandboxbuildError
from sandboxbuild.gateway.audit import RECENT_LIMIT, Record, read_records
from sandboxbuild.gateway.config import CONFIG_LIMIT_BYTES, GatewayConfig
from sandboxbuild.protocol.codec import encode
from sandboxbuild.protocol.frames import write_frame

STOP_TIMEOUT_S: Final = 5.0
_BOOT: Final = "import sys; sys.path[:0] = sys.argv[1:]; from sandboxbuild.gateway.main import main; main()"


class Gateway:
    """A running gateway. Use as a context manager, or call close(), which is idempotent.

    `address` is the socket's path or HOST:PORT. Audit records go to `on_record`, on a thread of this class; the first
    RECENT_LIMIT are also kept in `records`. The process ends when this object is closed, and when this process dies.
    """

    def __init__(self, process: subprocess.Popen[bytes], address: str, lines: IO[bytes], on_record: OnRecord) -> None:
        self.address = address
        self.records: list[Record] = []
        self._closed = False
        self._process = process
        self._on_record = on_record
        self._reader = threading.Thread(target=self._read, args=(lines,), name="gateway audit", daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, config: GatewayConfig, on_record: OnRecord | None = None) -> Gateway:
        """Start the process and wait until it listens. Raises what kept it from that: UsageError, IsolationError."""
        command = [sys.executable, "-I", "-S", "-c", _BOOT, *import_paths(sys.path)]
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # one heap for all its threads: a tenth of its memory
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=environment
        )
        assert process.stdin is not None and process.stdout is not None, "both are pipes"
        try:
            write_frame(process.stdin, encode(config), limit_bytes=CONFIG_LIMIT_BYTES)
            address = _await_ready(process.stdout.readline(65536))
        except BaseException:
            process.kill()
            process.wait()
            raise
        return cls(process, address, process.stdout, on_record or (lambda _record: None))

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        """Whether the process is gone, though nobody closed it."""
        return not self._closed and self._process.poll() is not None

    @property
    def status(self) -> int:
        """How an ended process ended: its exit status, or -n for signal n."""
        return self._process.returncode or 0

    def close(self) -> None:
        """End the process, and read what it still says."""
        assert self._process.stdin is not None, "a pipe"
        self._closed = self._process.poll() is None or self._closed
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_TIMEOUT_S)

    def _read(self, lines: IO[bytes]) -> None:
        for line in lines:
            try:
                for record in read_records([line.decode("utf-8", "replace")]):
                    if len(self.records) < RECENT_LIMIT:
                        self.records.append(record)
                    self._on_record(record)
            except ValueError:  # a line that was cut when the process was killed
                continue

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


OnRecord = Callable[[Record], object]


def import_paths(paths: list[str]) -> list[str]:
    """Where the child imports from: this package's folder and installed packages, never a working directory."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    installed = [path for path in paths if os.path.basename(path) in ("site-packages", "dist-packages")]
    return list(dict.fromkeys([package, *installed]))


def _await_ready(line: bytes) -> str:
    """The address in the first line of output, or the error that it tells."""
    try:
        said = json.loads(line)
    except ValueError:
        said = {}
    if said.get("event") == "ready":
        return str(said["address"])
    kind = getattr(errors, str(said.get("error")), SandboxbuildError)
    if said.get("event") == "failed" and isinstance(kind, type) and issubclass(kind, SandboxbuildError):
        raise kind(str(said["message"]), hint=str(said["hint"]))
    raise SandboxbuildError("the gateway ended before it listened; its own words are above")
