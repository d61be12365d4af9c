"""A compiled filter in a real kernel, on each of the three ways into it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxbuild.system import namespaces, seccomp

PROFILES = Path(__file__).parents[2] / "profiles" / "syscalls"
pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")


def under_filter(name: str, action: Callable[[], int]) -> int:
    """What `action` returns (0 to 255) in a child under the packaged filter."""
    program = seccomp.compile_profile((PROFILES / f"{name}.json").read_bytes(), capabilities=[])
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.forbid_new_privileges()
            seccomp.load_program(program)
            os._exit(action())
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def errno_of(number: int, *arguments: int) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    result = library.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in arguments))
    return ctypes.get_errno() if result == -1 else 0


@pytest.mark.parametrize("name", ["default", "strict"])
@pytest.mark.parametrize(
    ("number", "arguments", "expected"),
    [
        (165, (0, 0, 0, 0, 0), 1),
        (272, (0x10000000,), 1),
        (435, (0, 0), 38),
        (425, (1, 0), 1),
        (41, (40, 1, 0), 97),
        (999, (), 38),
    ],
)
def test_calls_fail_with_their_own_errors(name: str, number: int, arguments: tuple[int, ...], expected: int) -> None:
    assert under_filter(name, lambda: errno_of(number, *arguments)) == expected


@pytest.mark.parametrize("number", [0x40000000 | 39, 0x40000000 | 520])
def test_the_x32_entry_is_closed(number: int) -> None:
    assert under_filter("default", lambda: errno_of(number)) == 38


def int_0x80() -> int:
    """getpid by the i386 entry; 38 if it is refused."""
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\x53\xb8\x14\x00\x00\x00\xcd\x80\x5b\xc3")  # push rbx; mov eax, 20; int 0x80; pop rbx; ret
    result = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
    return -result if result < 0 else 0


def test_the_i386_entry_is_closed() -> None:
    assert under_filter("default", int_0x80) == 38


def test_without_a_filter_a_kernel_that_has_the_i386_entry_serves_it() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(int_0x80())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -11), "getpid, or no such entry at all: nothing but the filter says ENOSYS"


@pytest.mark.parametrize("name", ["default", "strict"])
def test_processes_and_threads_still_start(name: str) -> None:
    def work() -> int:
        import subprocess
        import threading

        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        return subprocess.run(["/bin/sh", "-c", "ls / | cat >/dev/null && exit 9"], check=False).returncode

    assert under_filter(name, work) == 9
