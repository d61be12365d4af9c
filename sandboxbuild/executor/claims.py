"""The program that tries a runtime's claims from inside of one of its sandboxes; runtimes/claims.py starts and judges it.

One line of JSON comes in: `claims` to try, the filter and the host's port and kernel release that they are tried with. One goes
out: for each claim "", or what speaks against it. Then it holds still until its input ends, so that it can be looked at.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from sandboxbuild.system import capabilities, libc, namespaces, seccomp

FOLDER: Final = "/sandboxbuild/probe"  # writable, a host's folder
OWNED: Final = "owned"  # the file in it that the sandbox's id 0 makes
MEMORY_BYTES: Final = 64 << 20  # held while the host looks
PROCESSES: Final = 10
_NOWHERE: Final = ("192.0.2.1", 9)  # a documentation address (RFC 5737): asked for a route, nothing is sent
_FILE_BYTES: Final = 1 << 20
_CHILD_S: Final = 10

Asked = Mapping[str, Any]


def main() -> int:
    """Answer, hold still, end."""
    asked: Asked = json.loads(sys.stdin.buffer.readline())
    answers = {claim: TRIALS[claim](asked) for claim in asked["claims"] if claim in TRIALS}
    held = _hold() if {"memory", "pids"} & set(asked["claims"]) else (b"", ())
    sys.stdout.write(json.dumps({"answers": answers}) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
    for pid in held[1]:
        os.kill(pid, signal.SIGKILL)
    return 0


def _hold() -> tuple[bytes | bytearray, tuple[int, ...]]:
    """Memory and processes for the host to see."""
    children = []
    for _ in range(PROCESSES):
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
    memory = bytearray(MEMORY_BYTES)  # after the forks: it is held once
    memory[::4096] = b"x" * (MEMORY_BYTES // 4096)  # zeros alone need not be anywhere
    return memory, tuple(children)


def _apart(action: Callable[[], str]) -> str:
    """What `action` says in a process of its own, which it may spoil."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(_CHILD_S)
            said = action()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write_end, b"said " + said.encode()[:1000])
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as stream:
        text = stream.read().decode("utf-8", "replace")
    os.waitpid(pid, 0)
    return text.removeprefix("said ") if text else "a process that tried it was killed"


def _ids(_asked: Asked) -> str:
    """The host looks whose the file is."""

    def make() -> str:
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.close(os.open(f"{FOLDER}/{OWNED}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        return ""

    return _apart(make)


def _network(asked: Asked) -> str:
    if _reaches(asked["port"]):
        return "the host's loopback is reached from inside"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        try:
            udp.connect(_NOWHERE)
        except OSError:
            return ""
    return "there is a route to elsewhere"


def _host_network(asked: Asked) -> str:
    return "" if _reaches(asked["port"]) else "the host's loopback isn't reached from inside"


def _reaches(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
        tcp.settimeout(2)
        try:
            tcp.connect(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _syscalls(asked: Asked) -> str:
    """A filter that refuses getpriority(2) is loaded as a step loads its own."""

    def load() -> str:
        os.getpriority(os.PRIO_PROCESS, 0)
        seccomp.load_program(bytes.fromhex(asked["filter"]))
        try:
            os.getpriority(os.PRIO_PROCESS, 0)
        except PermissionError:
            return ""
        return "a call that a process's own filter refuses is served"

    return _apart(load)


def _sandbox_filter(_asked: Asked) -> str:
    """config.json of a probe refuses sched_getscheduler(2) to all of its sandbox."""
    try:
        os.sched_getscheduler(0)
    except PermissionError:
        return ""
    return "a call that the bundle's linux.seccomp refuses is served"


def _capabilities(_asked: Asked) -> str:
    def give_up() -> str:
        namespaces.unshare(namespaces.NEWUTS)
        libc.sethostname(b"sandbox")
        capabilities.limit_bounding_set(0)
        capabilities.set_own(0)
        try:
            libc.sethostname(b"other")
        except PermissionError:
            return ""
        return "a privileged call is served to a process without capabilities"

    return _apart(give_up)


def _open_files(_asked: Asked) -> str:
    def open_many() -> str:
        resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
        try:
            for _ in range(32):
                os.dup(0)
        except OSError:
            return ""
        return "more descriptors are given than RLIMIT_NOFILE"

    return _apart(open_many)


def _cpu_time(asked: Asked) -> str:
    """The host's kernel is known to hold RLIMIT_CPU; another one has to show it, which takes the second that it allows."""
    if os.uname().release == asked["release"]:
        return ""
    pid = os.fork()
    if pid == 0:
        signal.alarm(_CHILD_S)
        resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
        while True:
            pass
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if ended in (-signal.SIGKILL, -signal.SIGXCPU) else "a process runs on past RLIMIT_CPU"


def _disk(_asked: Asked) -> str:
    """What is written shows in st_blocks, and RLIMIT_FSIZE bounds a file."""

    def write() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
        with open(f"{FOLDER}/written", "wb", buffering=0) as file:
            file.write(b"x" * _FILE_BYTES)
            if os.fstat(file.fileno()).st_blocks * 512 < _FILE_BYTES:
                return "what is written doesn't show in st_blocks"
            try:
                file.write(b"x")
            except OSError:
                return ""
        return "a file grows past RLIMIT_FSIZE"

    return _apart(write)


def _inodes(_asked: Asked) -> str:
    """Each new file is seen by who looks at its folder."""
    for number in range(3):
        os.close(os.open(f"{FOLDER}/inode-{number}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    found = sum(name.startswith("inode-") for name in os.listdir(FOLDER))
    return "" if found == 3 else "new files aren't seen in their folder"


def _step_timeout(_asked: Asked) -> str:
    """SIGKILL ends a process that heeds no other signal."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(_CHILD_S)
        signal.pause()
        os._exit(0)
    os.kill(pid, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return "" if ended == -signal.SIGKILL else "a process outlives SIGKILL"


def _output(_asked: Asked) -> str:
    """A pipe that nobody reads takes so much and no more: the executor counts what it reads."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        for _ in range(1024):
            os.write(write_end, b"x" * 65536)
    except BlockingIOError:
        return ""
    finally:
        os.close(read_end)
        os.close(write_end)
    return "a pipe takes output that nobody reads"


# The other claims, those of kernel, memory, pids and cpu, can only be judged from outside.
TRIALS: Final[dict[str, Callable[[Asked], str]]] = {
    "capabilities": _capabilities,
    "cpu_time": _cpu_time,
    "disk": _disk,
    "host_network": _host_network,
    "ids": _ids,
    "inodes": _inodes,
    "network": _network,
    "open_files": _open_files,
    "output": _output,
    "sandbox_filter": _sandbox_filter,
    "step_timeout": _step_timeout,
    "syscalls": _syscalls,
}

if __name__ == "__main__":
    sys.exit(main())
