"""What a learned policy takes from the one it was learned under: read back, it is the same isolation but for the names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxbuild.policy.carried import carried_sections
from sandboxbuild.policy.document import Policy, read_policy
from sandboxbuild.policy.isolation import Isolation
from sandboxbuild.policy.library import library
from sandboxbuild.policy.profile import load_profile
from sandboxbuild.policy.resolve import isolation_of

ODD = """
[network]
proxy = true
[network.limits.step]
connections = 7
upload = "1500B"
time = "90s"
[network.limits.build]
download = "3TiB"
idle = "250ms"
[syscalls]
file = "of \\"ours\\".json"
allow = ["ptrace"]
deny = ["personality", "chroot"]
[capabilities]
drop = ["CHOWN", "KILL"]
add = ["NET_RAW"]
[limits]
memory = "1.5GiB"
pids = 3
cpu = 1.25
cpu_time = "30m"
disk = "1000001B"
inodes = 12
output = "1MiB"
open_files = 64
step_timeout = "1h30m"
build_timeout = "2h0.5s"
"""


def read_back(isolation: Isolation) -> Isolation:
    return isolation_of(parsed("\n\n".join(carried_sections(isolation)), "elsewhere/learned.toml"), "p", "r")


def parsed(text: str, file: str = "/etc/somewhere/base.toml") -> Policy:
    return read_policy(file, text.encode())


def check_same_but_for_names(isolation: Isolation, again: Isolation) -> None:
    assert again.step == isolation.step._replace(network="gateway", allowed_ports=(), host_network=False)
    assert again.syscalls == isolation.syscalls
    assert again.build_timeout_s == isolation.build_timeout_s
    budgets = (isolation.network.step_budget, isolation.network.build_budget)
    assert (again.network.step_budget, again.network.build_budget) == budgets


@pytest.mark.parametrize("name", ["plain", "gvisor", "runc", "kata", "offline", "hardened"])
def test_packaged_profile_comes_back_whole(name: str) -> None:
    isolation = isolation_of(load_profile(library({}), name).policy, "p", "r")
    check_same_but_for_names(isolation, read_back(isolation))


def test_all_keys_come_back_with_their_units() -> None:
    isolation = isolation_of(parsed(ODD), "p", "r")
    check_same_but_for_names(isolation, read_back(isolation))
    assert read_back(isolation).syscalls.file == '/etc/somewhere/of "ours".json'


def test_policy_without_capabilities_stays_without() -> None:
    isolation = isolation_of(parsed('[capabilities]\ndrop = ["ALL"]'), "p", "r")
    assert read_back(isolation).step.capabilities == ()


@given(size=st.integers(1, 2**62), duration_us=st.integers(1, 10**15))
def test_any_limit_comes_back_as_the_same_number(size: int, duration_us: int) -> None:
    isolation = isolation_of(parsed(f'[limits]\ndisk = "{size}B"\nbuild_timeout = "{duration_us}us"'), "p", "r")
    again = read_back(isolation)
    assert (again.step.disk_bytes, again.build_timeout_s) == (isolation.step.disk_bytes, isolation.build_timeout_s)
