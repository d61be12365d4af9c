"""policy.resolve, narrowing, library, describe: what a profile and a policy come to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.capabilities import DEFAULT
from sandboxbuild.policy.describe import check_policy, diff_policies, show_isolation, show_policy
from sandboxbuild.policy.document import Policy, read_policy
from sandboxbuild.policy.isolation import Isolation
from sandboxbuild.policy.library import Library, library, packaged_folder
from sandboxbuild.policy.limits import Limits
from sandboxbuild.policy.names import name_matches, pattern_covers
from sandboxbuild.policy.profile import Profile, load_policy, load_profile
from sandboxbuild.policy.resolve import resolve, served_ports
from sandboxbuild.policy.runtime import load_runtime

PACKAGED = Library((packaged_folder(),))
EVERYTHING = frozenset(
    [
        "network",
        "host_network",
        "ids",
        "syscalls",
        "capabilities",
        "memory",
        "pids",
        "cpu",
        "cpu_time",
        "disk",
        "inodes",
        "output",
        "open_files",
        "step_timeout",
    ]
)


def policy(text: str, file: str = "my.toml") -> Policy:
    return read_policy(file, text.encode())


def profile(text: str) -> Profile:
    return Profile("mine", "d", "r", policy(text, "profiles/mine.toml"))


def resolved(text: str, base: str = "", **options: bool) -> Isolation:
    return resolve(profile(base), policy(text), "r", EVERYTHING, **options)


@pytest.mark.parametrize("name", PACKAGED.names("profiles"))
def test_packaged_profile_resolves_under_its_runtime(name: str) -> None:
    chosen = load_profile(PACKAGED, name)
    runtime = load_runtime(PACKAGED, chosen.runtime)
    facts = set(runtime.values.when)
    isolation = resolve(chosen, None, runtime.name, runtime.enforced(facts))
    assert isolation.step.capabilities and set(isolation.step.capabilities) <= set(DEFAULT)
    assert not isolation.step.host_network


def test_packaged_names_are_the_promised_ones() -> None:
    assert PACKAGED.names("profiles") == ("gvisor", "hardened", "kata", "offline", "plain", "runc")
    assert set(PACKAGED.names("runtimes")) >= {"crun", "kata", "namespaces", "runc", "runsc"}


def test_plain_lets_any_public_name_through_and_hardened_none() -> None:
    claims = load_runtime(PACKAGED, "namespaces").enforced({"polling"})
    plain = resolve(load_profile(PACKAGED, "plain"), None, "namespaces", claims)
    assert plain.step.allowed_ports == (80, 443)
    hardened = resolve(load_profile(PACKAGED, "hardened"), None, "namespaces", claims)
    assert (hardened.network.run, hardened.network.fetch, hardened.step.network) == ((), (), "gateway")
    offline = resolve(load_profile(PACKAGED, "offline"), None, "namespaces", claims)
    assert (offline.step.network, offline.network.run) == ("none", ())


def test_empty_policy_allows_nothing() -> None:
    isolation = resolved("")
    assert isolation.network.run == isolation.network.fetch == isolation.network.rules == ()
    assert isolation.step.network == "gateway" and isolation.step.allowed_ports == ()


def test_values_arrive_with_their_units() -> None:
    isolation = resolved(
        '[limits]\nmemory = "1.5GiB"\npids = 10\ncpu = 1.5\ncpu_time = "2m"\ndisk = "1m"\ninodes = 5\noutput = "1kB"\n'
        'open_files = 7\nstep_timeout = "90s"\nbuild_timeout = "1h30m"\n'
    )
    step = isolation.step
    assert (step.memory_bytes, step.pids, step.cpus, step.cpu_seconds) == (3 << 29, 10, 1.5, 120)
    assert (step.disk_bytes, step.inodes, step.output_bytes, step.open_files) == (1 << 20, 5, 1024, 7)
    assert (step.step_timeout_s, isolation.build_timeout_s) == (90.0, 5400.0)


def test_entries_mean_what_they_say() -> None:
    table = '{ host = "g.example.com", ports = [22], inspect = false }'
    text = f'[network.run]\nallow = ["a.example.com:8443", "*.example.org", {table}]\n'
    run = resolved(text).network.run
    assert [(entry.host, entry.ports, entry.inspect) for entry in run] == [
        ("a.example.com", (8443,), True),
        ("*.example.org", (80, 443), True),
        ("g.example.com", (22,), False),
    ]
    assert resolved(text).step.allowed_ports == (22, 80, 443, 8443)


def test_own_ports_of_a_step_are_not_listened_on() -> None:
    assert served_ports(resolved('[network.run]\nallow = ["a.example.com:53", "b.example.com:3128"]\n').network) == ()


@pytest.mark.parametrize(
    ("text", "claim", "key"),
    [
        ('[limits]\nmemory = "1g"\n', "memory", "limits.memory (my.toml:2)"),
        ("[limits]\n\npids = 5\n", "pids", "limits.pids (my.toml:3)"),
        ("[network]\nhost_network = true\n", "host_network", "network.host_network (my.toml:2)"),
        ("", "syscalls", "syscalls"),
        ("", "network", "network"),
        ("", "ids", "ids"),
    ],
)
def test_what_the_runtime_does_not_enforce_stops_the_build(text: str, claim: str, key: str) -> None:
    with pytest.raises(PolicyError) as caught:
        resolve(profile(""), policy(text), "weak", EVERYTHING - {claim})
    assert caught.value.message == f"profile mine asks for {key}, which the runtime weak doesn't enforce here"


def test_claims_of_a_condition_need_its_fact() -> None:
    runtime = load_runtime(PACKAGED, "namespaces")
    assert "memory" not in runtime.enforced(())
    assert "memory" in runtime.enforced({"cgroup"})


def test_learning_listens_on_more_ports_and_keeps_the_ranges() -> None:
    isolation = resolved('[network]\nmode = "none"\nranges = ["10.0.0.0/8"]\n', learning=True)
    assert isolation.network.learning and isolation.network.ranges == ("10.0.0.0/8",)
    assert isolation.step.network == "gateway" and {22, 443, 5432} <= set(isolation.step.allowed_ports)


BASE = """
[network]
ranges = ["10.0.0.0/8"]
[network.run]
allow = ["*.example.com", { host = "db.example.org", ports = [5432] }]
[capabilities]
drop = ["KILL"]
[limits]
pids = 100
[network.limits.step]
connections = 10
[sources]
require_digest = true
"""


@pytest.mark.parametrize(
    "text",
    [
        '[network.run]\nallow = ["a.example.com:443"]\n',
        '[network.run]\nallow = ["*.a.example.com", "db.example.org:5432"]\n',
        '[network]\nranges = ["10.1.0.0/16"]\n',
        '[network]\nmode = "none"\n',
        '[capabilities]\ndrop = ["KILL", "CHOWN"]\n',
        '[syscalls]\nprofile = "strict"\ndeny = ["chmod"]\n',
        '[limits]\nmemory = "1g"\n',
    ],
)
def test_narrowing_policy_may_grant_less(text: str) -> None:
    isolation = resolved("narrows = true\n" + text, BASE)
    assert isolation.step.pids == 100
    assert isolation.sources.require_digest
    assert isolation.network.step_budget.connections == 10
    assert "KILL" not in isolation.step.capabilities


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[network.run]\nallow = ["a.example.org"]\n', 3),
        ('[network.run]\nallow = ["example.com"]\n', 3),
        ('[network.run]\nallow = ["a.example.com:22"]\n', 3),
        ('[network.run]\nallow = ["db.example.org"]\n', 3),
        ("[network.run]\nany_name = true\n", 2),
        ('[network.run]\nallow = [{ host = "a.example.com", ranges = ["192.168.0.0/16"] }]\n', 3),
        ('[network.run]\nallow = [{ host = "a.example.com", inspect = false }]\n', 3),
        ('[network.fetch]\nallow = ["a.example.com"]\n', 3),
        ('[[network.rule]]\nstage = "x"\nallow = ["a.example.net"]\n', 2),
        ("[network]\nhost_network = true\n", 3),
        ('[network]\nranges = ["192.168.0.0/16"]\n', 3),
        ('[capabilities]\nadd = ["MKNOD"]\n', 2),
        ('[syscalls]\nallow = ["ptrace"]\n', 2),
        ('[syscalls]\nfile = "x.json"\n', 2),
        ('[registries]\npull = ["registry.example.com/app"]\n', 2),
    ],
)
def test_narrowing_policy_may_not_grant_more(text: str, line: int) -> None:
    with pytest.raises(PolicyError, match=f"my.toml:{line}: .*narrows"):
        resolved("narrows = true\n" + text, BASE)


def test_replacing_policy_may_grant_more() -> None:
    isolation = resolved('[network.run]\nallow = ["a.example.net"]\n', BASE)
    assert isolation.step.pids == 0 and isolation.network.ranges == ()


@pytest.mark.parametrize("wide", ["*", "*.example.com", "a.example.com", "*.a.example.com"])
@pytest.mark.parametrize("narrow", ["*", "*.example.com", "a.example.com", "b.a.example.com", "*.a.example.com", "example.com"])
def test_covering_pattern_matches_all_that_the_other_matches(wide: str, narrow: str) -> None:
    names = ["example.com", "a.example.com", "b.a.example.com", "c.b.a.example.com", "x.example.net", "aexample.com"]
    if pattern_covers(wide, narrow):
        assert all(name_matches(wide, name) for name in names if name_matches(narrow, name))
    elif wide != narrow:
        assert any(name_matches(narrow, name) and not name_matches(wide, name) for name in names)


def test_folders_are_searched_in_their_order(tmp_path: Path) -> None:
    for number, folder in enumerate(("first", "second")):
        (tmp_path / folder / "profiles").mkdir(parents=True)
        text = f'[profile]\nruntime = "r"\ndescription = "{number}"\n'
        (tmp_path / folder / "profiles" / "mine.toml").write_text(text)
    both = Library((str(tmp_path / "first"), str(tmp_path / "second")))
    assert load_profile(both, "mine").description == "0"


def test_user_folder_comes_before_the_packaged_and_behind_the_system() -> None:
    folders = library({"HOME": "/home/u"}, "/given").folders
    assert folders == ("/given", "/etc/sandboxbuild", "/home/u/.config/sandboxbuild", packaged_folder())
    assert library({"XDG_CONFIG_HOME": "relative"}).folders == ("/etc/sandboxbuild", packaged_folder())


@pytest.mark.parametrize("name", ["../plain", "plain.toml", "", "Plain", "a/b", "plain\n", "\0"])
def test_name_of_a_profile_is_no_path(name: str) -> None:
    with pytest.raises(PolicyError):
        load_profile(PACKAGED, name)


def test_unknown_profile_lists_what_there_is() -> None:
    with pytest.raises(PolicyError) as caught:
        load_profile(PACKAGED, "plian")
    assert "plain" in caught.value.hint


def test_odd_files_are_errors(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    (tmp_path / "open").write_text("")
    (tmp_path / "open").chmod(0o666)
    (tmp_path / "loop").symlink_to("loop")
    for name in ("fifo", "folder", "open", "loop", "absent", "nul\0"):
        with pytest.raises(PolicyError):
            load_policy(str(tmp_path / name))
    with pytest.raises(PolicyError):
        load_policy("/dev/zero")


def test_check_tells_every_problem(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[limits]\npids = 0\nmemory = 1\n")
    assert [problem.key for problem in check_policy(str(path))] == ["limits.pids", "limits.memory"]
    path.write_text("[limits\n")
    assert [(problem.line, problem.key) for problem in check_policy(str(path))] == [(1, "")]
    path.write_text("")
    assert check_policy(str(path)) == []


def test_show_and_diff_speak_of_effects() -> None:
    one, other = policy('[network.run]\nallow = ["a.example.com"]\n'), policy('[network.run]\nallow = ["b.example.com"]\n')
    assert "run may reach a.example.com port 80,443\n" in show_policy(one)
    diff = diff_policies(one, other)
    assert "-run may reach a.example.com port 80,443\n" in diff and "+run may reach b.example.com port 80,443\n" in diff
    assert diff_policies(one, one) == ""
    assert "profile mine" in show_isolation(resolved(""))


LIMITS = (
    'memory = "8GiB"\npids = 1024\ncpu = 1.25\ncpu_time = "30m"\ndisk = "1536MiB"\ninodes = 2000000\noutput = "4097B"\n'
    'open_files = 4096\nstep_timeout = "1h30m"\nbuild_timeout = "4h"\n'
)


def test_limits_are_shown_as_a_policy_writes_them() -> None:
    shown = [
        line.removeprefix("limit ") for line in show_policy(policy(f"[limits]\n{LIMITS}")).splitlines() if "limit " in line
    ]
    assert shown == LIMITS.replace('"', "").replace(" =", ":").splitlines()


def test_every_limit_is_shown() -> None:
    assert {line.split(" ")[0] for line in LIMITS.splitlines()} == set(Limits.model_fields)


def test_limits_of_connections_are_shown_as_a_policy_writes_them() -> None:
    table = 'connections = 64\nconnections_total = 2000\nupload = "256MiB"\ndownload = "8GiB"\ntime = "2h"\nidle = "10m"\n'
    shown = show_policy(policy(f"[network.limits.step]\n{table}"))
    lines = [line.removeprefix("connections of a step: ") for line in shown.splitlines() if "of a step" in line]
    assert lines == table.replace('"', "").replace(" =", "").splitlines()
