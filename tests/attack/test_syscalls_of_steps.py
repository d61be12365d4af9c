"""Steps of real builds try system calls that the policy's filter closes; with the filter taken out they get through."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.builder import Builder

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]

# name -> (the call, errno in a step)
CALLS = {
    "unshare_user": ("unshare, 0x10000000", 1),
    "unshare_user_high_bits": ("unshare, 0xdead000010000000", 1),
    "clone_user": ("clone, 0x10000011, 0, 0, 0, 0", 1),
    "clone3": ("clone3, 0, 0", 38),
    "setns": ("setns, 0, 0", 1),
    "mount": ('mount, "none", "/", "tmpfs", 0, 0', 1),
    "umount2": ('umount2, "/proc", 2', 1),
    "pivot_root": ('pivot_root, "/", "/"', 1),
    "fsopen": ('fsopen, "tmpfs", 0', 1),
    "open_tree": ('open_tree, -100, "/", 1', 1),
    "keyctl": ("keyctl, 0, -3, 1", 1),
    "add_key": ('add_key, "user", "a", "b", 1, -3', 1),
    "bpf": ("bpf, 0, 0, 0", 1),
    "ptrace": ("ptrace, 16, 99999, 0, 0", 1),
    "perf_event_open": ("perf_event_open, 0, 0, -1, -1, 0", 1),
    "userfaultfd": ("userfaultfd, 1", 1),
    "io_uring_setup": ("io_uring_setup, 4, 0", 1),
    "open_by_handle_at": ("open_by_handle_at, -100, 0, 0", 1),
    "process_vm_readv": ("process_vm_readv, 1, 0, 0, 0, 0, 0", 1),
    "kexec_load": ("kexec_load, 0, 0, 0, 0", 1),
    "init_module": ('init_module, 0, 0, ""', 1),
    "personality": ("personality, 0x0040000", 38),
    "personality_high_bits": ("personality, 0xffff000000040000", 38),
    "af_alg": ("socket, 38, 5, 0", 97),
    "af_alg_high_bits": ("socket, 0x100000026, 5, 0", 97),
    "af_vsock": ("socket, 40, 1, 0", 97),
    "af_packet": ("socket, 17, 3, 0", 97),
    "tiocsti": ('ioctl, 0, 0x5412, "x"', 1),
    "tiocsti_high_bits": ('ioctl, 0, 0x100005412, "x"', 1),
    "tioclinux": ('ioctl, 0, 0x541c, "x"', 1),
    "x32": ("getpid | 0x40000000", 38),
    "unknown": ("restart_syscall + 2000", 38),
}
# What each of these says without a filter: something else, so it was the filter that answered.
OPEN = {"keyctl": 0, "ptrace": 3, "personality": 0, "io_uring_setup": 14, "clone3": 22, "tiocsti": 25, "process_vm_readv": 0}

PROGRAM = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
#define TRY(name, ...) do {{ errno = 0; long got = syscall(SYS_ ## __VA_ARGS__); \\
    printf("tried %s %d\\n", name, got == -1 ? errno : 0); fflush(stdout); }} while (0)
int main(void) {{
{tries}
    return 0;
}}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("program")
    tries = "\n".join(f'    TRY("{name}", {call});' for name, (call, _) in CALLS.items())
    (folder / "try.c").write_text(PROGRAM.format(tries=tries))
    subprocess.run(["gcc", "-static", "-w", "-o", str(folder / "try"), str(folder / "try.c")], check=True)
    return (folder / "try").read_bytes()


def answers(builder: Builder, program: bytes, *options: str | Path, user: str = "0", cached: bool = False) -> dict[str, int]:
    """What each call said in a step; nothing where the step was `cached`."""
    dockerfile = f'FROM scratch\nCOPY try /try\nUSER {user}\nRUN ["/try"]\n'
    context = builder.context({"Dockerfile": dockerfile, "try": program})
    log = builder.run(*([] if cached else ["--no-cache"]), *options, context).log
    lines = [line.partition("tried ")[2].split() for line in log.splitlines() if "tried " in line]
    return {name: int(number) for name, number in lines}


@pytest.mark.parametrize("user", ["0", "1000"])
@pytest.mark.parametrize("profile", ["plain", "hardened"])
def test_forbidden_calls_fail_in_a_step_with_their_own_errors(
    builder: Builder, program: bytes, profile: str, user: str
) -> None:
    expected = {name: errno for name, (_, errno) in CALLS.items()}
    assert answers(builder, program, "--profile", profile, user=user) == expected


def test_without_the_filter_the_same_calls_get_through(builder: Builder, program: bytes) -> None:
    (builder.folder / "open.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    policy = builder.folder / "open.toml"
    policy.write_text('[syscalls]\nfile = "open.json"\n')
    got = answers(builder, program, "--policy-file", policy)
    assert {name: got[name] for name in OPEN} == OPEN
    assert got["unshare_user"] != 0, "a second lock holds: no user namespaces may be made below a step"
    assert got["mount"] == 1, "as does the missing capability"


def test_a_policy_takes_further_calls_away(builder: Builder, program: bytes) -> None:
    policy = builder.folder / "deny.toml"
    policy.write_text('[syscalls]\nallow = ["ptrace"]\ndeny = ["getpid"]\n')
    assert answers(builder, program, "--policy-file", policy)["ptrace"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('file = "absent.json"', "absent.json can't be read"),
        ('file = "broken.json"', "no JSON"),
        ('file = "unknown.json"', "unknown key"),
    ],
)
def test_a_filter_that_cannot_be_made_stops_the_build(builder: Builder, text: str, said: str) -> None:
    (builder.folder / "broken.json").write_text("{")
    (builder.folder / "unknown.json").write_text('{"defaultAction": "SCMP_ACT_ERRNO", "permit": []}')
    policy = builder.folder / "policy.toml"
    policy.write_text(f"[syscalls]\n{text}\n")
    context = builder.context({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    assert said in builder.fail(4, "--policy-file", policy, context).last_error


def test_a_step_that_ran_under_another_filter_is_not_taken_from_the_cache(builder: Builder, program: bytes) -> None:
    first = answers(builder, program, cached=True)
    assert first["ptrace"] == 1
    assert answers(builder, program, cached=True) == {}
    policy = builder.folder / "allow.toml"
    policy.write_text('[syscalls]\nallow = ["ptrace"]\n')
    assert answers(builder, program, "--policy-file", policy, cached=True)["ptrace"] == 3
