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

CONTAINERS_COMMON = Path("/usr/share/containers/seccomp.json")

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
EXPECTED = {name: number for name, (_, number) in CALLS.items()} | {"int_0x80": 38}
# What each of these says without a filter: something else, so it was the filter that answered.
OPEN = {"keyctl": 0, "ptrace": 3, "personality": 0, "io_uring_setup": 14, "clone3": 22, "tiocsti": 25, "process_vm_readv": 0}

PROGRAM = """
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#define TRY(name, ...) do {{ errno = 0; long got = syscall(SYS_ ## __VA_ARGS__); \\
    printf("tried %s %d\\n", name, got == -1 ? errno : 0); fflush(stdout); }} while (0)
/* getpid by the entry of 32-bit programs, in a child: what can't enter dies of a signal. */
static int int_0x80(void) {{
    int status, got;
    pid_t pid = fork();
    if (pid == 0) {{
        asm volatile("int $0x80" : "=a"(got) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
        _exit(got < 0 ? -got : 0);
    }}
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}}
int main(void) {{
{tries}
    printf("tried int_0x80 %d\\n", int_0x80());
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


@pytest.mark.promise(5, "a call that the policy closes fails, by every ABI")
@pytest.mark.parametrize(
    ("profile", "chosen", "user"),
    [
        ("plain", "default", "0"),
        ("plain", "default", "1000"),
        ("plain", "strict", "0"),
        ("runc", "strict", "1000"),
        ("gvisor", "default", "1000"),
        ("gvisor", "strict", "0"),
    ],
)
def test_forbidden_calls_fail_in_a_step_with_their_own_errors(
    builder: Builder, program: bytes, profile: str, chosen: str, user: str
) -> None:
    if shutil.which({"gvisor": "runsc", "plain": "true"}.get(profile, profile)) is None:
        pytest.skip(f"{profile} is not installed")
    policy = policy_file(builder, f'profile = "{chosen}"')
    assert answers(builder, program, "--profile", profile, "--policy-file", policy, user=user) == EXPECTED


def policy_file(builder: Builder, syscalls: str) -> Path:
    path = builder.folder / "policy.toml"
    path.write_text(f"[syscalls]\n{syscalls}\n")
    return path


@pytest.mark.skipif(not CONTAINERS_COMMON.exists(), reason="needs golang-github-containers-common, which buildah brings")
def test_the_profile_of_podman_and_buildah_is_in_force_as_it_is(builder: Builder, program: bytes) -> None:
    got = answers(builder, program, "--policy-file", policy_file(builder, f'file = "{CONTAINERS_COMMON}"'))
    named = ("bpf", "kexec_load", "perf_event_open", "init_module", "userfaultfd", "x32", "int_0x80", "unknown", "personality")
    assert {name: got[name] for name in named} == {**{name: EXPECTED[name] for name in named}, "userfaultfd": 1}


@pytest.mark.without_defence(5, "a call that the policy closes fails, by every ABI")
def test_without_the_filter_the_same_calls_get_through(builder: Builder, program: bytes) -> None:
    (builder.folder / "open.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    got = answers(builder, program, "--policy-file", policy_file(builder, 'file = "open.json"'))
    assert {name: got[name] for name in OPEN} == OPEN
    assert got["unshare_user"] != 0, "a second lock holds: no user namespaces may be made below a step"
    assert got["mount"] == 1, "as does the missing capability"


def test_a_policy_takes_further_calls_away(builder: Builder, program: bytes) -> None:
    policy = policy_file(builder, 'allow = ["ptrace"]\ndeny = ["getpid"]')
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
    policy = policy_file(builder, text)
    context = builder.context({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    assert said in builder.fail(4, "--policy-file", policy, context).last_error


def test_a_step_that_ran_under_another_filter_is_not_taken_from_the_cache(builder: Builder, program: bytes) -> None:
    first = answers(builder, program, cached=True)
    assert first["ptrace"] == 1
    assert answers(builder, program, cached=True) == {}
    policy = policy_file(builder, 'allow = ["ptrace"]')
    assert answers(builder, program, "--policy-file", policy, cached=True)["ptrace"] == 3
