"""Profiles in the moby format, and the programs made of them, run by an interpreter of the few BPF instructions there are."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import PolicyError
from sandboxbuild.system import seccomp
from sandboxbuild.system.syscallprofile import Rule, read_rules

PROFILES = Path(__file__).parents[3] / "profiles" / "syscalls"
X86_64, I386 = 0xC000003E, 0x40000003
ALLOW = 0x7FFF0000
NUMBERS = {
    "read": 0,
    "ioctl": 16,
    "socket": 41,
    "clone": 56,
    "ptrace": 101,
    "personality": 135,
    "mount": 165,
    "umount2": 166,
    "keyctl": 250,
    "unshare": 272,
    "perf_event_open": 298,
    "setns": 308,
    "bpf": 321,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "clone3": 435,
    "open_by_handle_at": 304,
    "kexec_load": 246,
    "init_module": 175,
    "process_vm_readv": 310,
    "memfd_secret": 447,
    "openat2": 437,
}

x86_only = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64")


def errno(number: int) -> int:
    return 0x00050000 | number


def run(program: bytes, number: int, *arguments: int, arch: int = X86_64) -> int:
    """What the kernel would do: classic BPF over struct seccomp_data."""
    padded = (*arguments, *([0] * (6 - len(arguments))))
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, arch, 0, *(a & (2**64 - 1) for a in padded))
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, jt, jf, k = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x06:
            return k
        elif code == 0x05:
            at += k
        elif code == 0x54:
            accumulator &= k
        else:
            holds = {0x15: accumulator == k, 0x25: accumulator > k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            at += jt if holds else jf


@pytest.fixture(scope="module", params=["default", "strict"])
def program(request: pytest.FixtureRequest) -> bytes:
    return seccomp.compile_profile((PROFILES / f"{request.param}.json").read_bytes(), capabilities=[])


@x86_only
def test_ordinary_calls_are_open(program: bytes) -> None:
    assert run(program, NUMBERS["read"]) == ALLOW
    assert run(program, NUMBERS["openat2"]) == ALLOW
    assert run(program, NUMBERS["clone"], 0x01200011) == ALLOW
    assert run(program, NUMBERS["ioctl"], 0, 0x5401) == ALLOW


@x86_only
@pytest.mark.parametrize(
    "name", sorted(set(NUMBERS) - {"read", "ioctl", "socket", "clone", "clone3", "personality", "openat2"})
)
def test_dangerous_calls_are_refused(program: bytes, name: str) -> None:
    assert run(program, NUMBERS[name]) in (errno(1), errno(38))


@x86_only
def test_clone3_seems_absent_so_that_libc_falls_back(program: bytes) -> None:
    assert run(program, NUMBERS["clone3"]) == errno(38)


@x86_only
@pytest.mark.parametrize("number", [500, 1000, 0x3FFFFFFF])
def test_unknown_calls_seem_absent(program: bytes, number: int) -> None:
    assert run(program, number) == errno(38)


@x86_only
@given(number=st.integers(0, 600))
@settings(max_examples=30, deadline=None)
def test_other_abis_are_closed(program: bytes, number: int) -> None:
    assert run(program, number | 0x40000000) != ALLOW
    assert run(program, number, arch=I386) != ALLOW


@x86_only
@given(upper=st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
@pytest.mark.parametrize("request_number", [0x5412, 0x541C, 0x5423, 0x541D])
def test_terminal_injection_is_refused_whatever_the_upper_half_says(program: bytes, request_number: int, upper: int) -> None:
    assert run(program, NUMBERS["ioctl"], 0, upper << 32 | request_number) == errno(1)


@x86_only
@given(upper=st.integers(0, 2**32 - 1), low=st.sampled_from([0x02000000, 0x10000000, 0x40000000, 0x20000, 0x7E020000]))
@settings(max_examples=12, deadline=None)
def test_namespaces_by_clone_are_refused_whatever_the_upper_half_says(program: bytes, upper: int, low: int) -> None:
    assert run(program, NUMBERS["clone"], upper << 32 | low | 17) == errno(1)


@x86_only
@given(upper=st.integers(0, 2**32 - 1), family=st.integers(0, 80), protocol=st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_only_four_families_of_sockets_are_open(program: bytes, upper: int, family: int, protocol: int) -> None:
    allowed = family in (1, 2, 10) or (family == 16 and protocol == 0)
    result = run(program, NUMBERS["socket"], upper << 32 | family, 1, protocol)
    assert (result == ALLOW) == allowed
    if not allowed and family < 64 and family != 16:
        assert result == errno(97)


@x86_only
@pytest.mark.parametrize(
    ("value", "is_open"), [(0, True), (8, True), (0xFFFFFFFF, True), (0x0040000, False), (0x400008, False)]
)
def test_only_harmless_personalities_are_open(program: bytes, value: int, is_open: bool) -> None:
    assert (run(program, NUMBERS["personality"], value) == ALLOW) == is_open


def document(**fields: object) -> bytes:
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", **fields}).encode()


def entry(names: list[str], action: str = "SCMP_ACT_ALLOW", **fields: object) -> dict[str, object]:
    return {"names": names, "action": action, **fields}


OPERATORS = {"NE": "__ne__", "EQ": "__eq__", "LT": "__lt__", "LE": "__le__", "GT": "__gt__", "GE": "__ge__"}
VALUES = st.one_of(st.integers(0, 60), st.sampled_from([2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1]))


@x86_only
@given(operator=st.sampled_from(sorted(OPERATORS)), value=VALUES, given_value=VALUES, upper=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"])
def test_32_bits_are_compared_as_32_bits_by_every_operator(
    action: str, operator: str, value: int, given_value: int, upper: int
) -> None:
    compared = entry(["socket"], action, args=[{"index": 0, "value": value, "op": f"SCMP_CMP_{operator}"}], errnoRet=13)
    others = [] if action == "SCMP_ACT_ALLOW" else [entry(["socket"])]
    made = seccomp.compile_profile(document(syscalls=[compared, *others]), capabilities=[])
    holds = getattr(given_value, OPERATORS[operator])(value)
    yes, no = (ALLOW, errno(1)) if action == "SCMP_ACT_ALLOW" else (errno(13), ALLOW)
    assert run(made, NUMBERS["socket"], upper << 32 | given_value) == (yes if holds else no)


@x86_only
def test_inequalities_of_two_rules_are_two_ways_to_be_allowed() -> None:
    """As containers/common writes it: no audit protocol of netlink, any other socket."""
    either = [entry(["socket"], args=[{"index": n, "value": value, "op": "SCMP_CMP_NE"}]) for n, value in ((0, 16), (2, 9))]
    made = seccomp.compile_profile(document(syscalls=either), capabilities=[])
    assert [run(made, 41, *arguments) for arguments in ((2, 1, 9), (16, 3, 0), (16, 3, 9))] == [ALLOW, ALLOW, errno(1)]


@x86_only
@pytest.mark.parametrize(("fields", "expected"), [({}, 1), ({"defaultErrno": "EACCES"}, 13), ({"defaultErrnoRet": 13}, 13)])
def test_a_call_that_is_newer_than_the_profile_seems_absent(fields: dict[str, object], expected: int) -> None:
    made = seccomp.compile_profile(document(syscalls=[entry(["openat2"])], **fields), capabilities=[])
    assert run(made, NUMBERS["openat2"]) == ALLOW
    assert run(made, NUMBERS["mount"]) == errno(expected)
    assert {run(made, number) for number in (438, 500, 0x40000000, 0x3FFFFFFF)} == {errno(38)}
    assert run(made, 5, arch=I386) == errno(38)


@x86_only
def test_an_errno_has_a_number_or_a_name() -> None:
    named = entry(["mount"], "SCMP_ACT_ERRNO", errno="EACCES", errnoRet=13)
    made = seccomp.compile_profile(document(syscalls=[named], flags=["SECCOMP_FILTER_FLAG_TSYNC"]), capabilities=[])
    assert run(made, NUMBERS["mount"]) == errno(13)


CONTAINERS_COMMON = Path("/usr/share/containers/seccomp.json")


@x86_only
@pytest.mark.skipif(not CONTAINERS_COMMON.exists(), reason="needs golang-github-containers-common, which buildah brings")
def test_the_profile_of_podman_and_buildah_is_taken_as_it_is() -> None:
    made = seccomp.compile_profile(CONTAINERS_COMMON.read_bytes(), capabilities=["CHOWN", "SYS_CHROOT"])
    assert run(made, NUMBERS["read"]) == run(made, NUMBERS["socket"], 16, 3, 0) == ALLOW
    assert run(made, NUMBERS["socket"], 16, 3, 9) == errno(22)
    assert run(made, NUMBERS["kexec_load"]) == run(made, NUMBERS["bpf"]) == errno(1)
    assert run(made, 600) == run(made, NUMBERS["read"], arch=I386) == errno(38)


@x86_only
def test_rules_for_capabilities_count_only_with_them() -> None:
    mount = entry(["mount"], includes={"caps": ["CAP_SYS_ADMIN"]})
    closed = seccomp.compile_profile(document(syscalls=[mount]), capabilities=["CHOWN"])
    opened = seccomp.compile_profile(document(syscalls=[mount]), capabilities=["SYS_ADMIN"])
    assert (run(closed, 165), run(opened, 165)) == (errno(1), ALLOW)


@x86_only
def test_deny_wins_over_the_profile_and_over_allow() -> None:
    made = seccomp.compile_profile(
        document(syscalls=[entry(["read", "write"])]), capabilities=[], allow=["fsync", "read"], deny=["read"]
    )
    assert (run(made, 0), run(made, 1), run(made, 74)) == (errno(1), ALLOW, ALLOW)


def test_allow_opens_what_a_profile_refuses_by_name_but_not_by_argument() -> None:
    refused = [{**entry(["read", "write"]), "action": "SCMP_ACT_ERRNO", "errnoRet": 13}]
    by_argument = {**refused[0], "names": ["kill"], "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]}
    rules = read_rules(document(syscalls=[*refused, by_argument]), capabilities=[], allow=["read", "kill"])
    assert Rule("read", None) in rules.rules and Rule("read", 13) not in rules.rules
    assert Rule("write", 13) in rules.rules
    assert [rule.name for rule in rules.refusals] == ["kill"]


@x86_only
def test_an_open_default_still_closes_other_abis() -> None:
    made = seccomp.compile_profile(
        json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [entry(["mount"], "SCMP_ACT_ERRNO")]}).encode(),
        capabilities=[],
    )
    assert (run(made, 0), run(made, 165), run(made, 165, arch=I386)) == (ALLOW, errno(1), errno(38))


def test_kernel_versions_are_compared_as_numbers() -> None:
    profile = document(syscalls=[entry(["read"], includes={"minKernel": "4.10"})])
    assert [r.name for r in read_rules(profile, capabilities=[], kernel=(4, 9)).rules] == []
    assert [r.name for r in read_rules(profile, capabilities=[], kernel=(5, 1)).rules] == ["read"]


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"[]",
        b"{}",
        b'{"defaultAction": "SCMP_ACT_ERRNO", "defaultAction": "SCMP_ACT_ALLOW"}',
        b'{"defaultAction": "SCMP_ACT_LOG"}',
        document(flags=["SECCOMP_FILTER_FLAG_LOG"]),
        document(flags="SECCOMP_FILTER_FLAG_TSYNC"),
        document(listenerPath="/run/listener"),
        document(defaultErrno="EWRONG"),
        document(defaultErrno="__doc__"),
        document(defaultErrno="EPERM", defaultErrnoRet=38),
        document(defaultErrnoRet=0),
        document(defaultErrnoRet=5000),
        document(defaultErrnoRet=True),
        document(syscalls={}),
        document(syscalls=[{"names": []}]),
        document(syscalls=[entry(["read"], "SCMP_ACT_NOTIFY")]),
        document(syscalls=[entry(["read"], "SCMP_ACT_TRACE")]),
        document(syscalls=[entry(["re ad"])]),
        document(syscalls=[entry(["read"], args=[{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}])]),
        document(syscalls=[entry(["read"], args=[{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}])]),
        document(syscalls=[entry(["read"], args=[{"index": 0, "value": 0, "op": "EQ"}])]),
        document(syscalls=[entry(["ioctl"], args=[{"index": n, "value": 5, "op": "SCMP_CMP_NE"} for n in (1, 1.5)])]),
        document(syscalls=[entry(["socket"], args=[{"index": n, "value": 5, "op": "SCMP_CMP_NE"} for n in (0, 1, 2)])]),
        document(syscalls=[entry(["read"], includes={"arch": ["amd64"]})]),
        document(syscalls=[entry(["read"], includes={"minKernel": "new"})]),
        document(archMap=[{"architecture": "SCMP_ARCH_MIPS"}]),
        b"{" * 100_000,
    ],
)
def test_what_is_not_understood_is_an_error(broken: bytes) -> None:
    with pytest.raises(PolicyError):
        read_rules(broken, capabilities=[])


@given(st.binary(max_size=60))
@settings(max_examples=100)
def test_bytes_of_strangers_raise_nothing_else(data: bytes) -> None:
    with pytest.raises(PolicyError):
        read_rules(data, capabilities=[])


def test_a_chain_runs_the_second_filter_only_where_the_first_allows() -> None:
    first = struct.pack("=HBBI", 0x20, 0, 0, 0) + struct.pack("=HBBI", 0x15, 0, 1, 7)
    first += struct.pack("=HBBI", 0x06, 0, 0, errno(1)) + struct.pack("=HBBI", 0x06, 0, 0, ALLOW)
    second = struct.pack("=HBBI", 0x06, 0, 0, errno(2))
    joined = seccomp.chain(first, second)
    assert (run(joined, 7), run(joined, 8)) == (errno(1), errno(2))
