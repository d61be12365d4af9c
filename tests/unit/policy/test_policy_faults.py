"""policy.document, toml: each fault of a policy is an error with file, line and key."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import PolicyError
from sandboxbuild.policy.document import InvalidPolicy, read_policy
from sandboxbuild.policy.toml import SIZE_LIMIT_BYTES, read_toml

# (text, line, key): each text is otherwise a good policy.
BROKEN = [
    ("[netwrok]\n", 1, "netwrok"),
    ("[network]\nhost_netwrok = true\n", 2, "network.host_netwrok"),
    ("[network.run]\nalow = []\n", 2, "network.run.alow"),
    ("narrows = 1\n", 1, "narrows"),
    ('[network]\nhost_network = "yes"\n', 2, "network.host_network"),
    ('[network]\nmode = "nat"\n', 2, "network.mode"),
    ('[network.run]\nallow = "files.example.com"\n', 2, "network.run.allow"),
    ('[network.run]\nallow = [\n  "files.example.com:443",\n  "files.example.com:0",\n]\n', 4, "network.run.allow[1]"),
    ('[network.run]\nallow = ["files.example.com:65536"]\n', 2, "network.run.allow[0]"),
    ('[network.run]\nallow = ["files.example.com:443:80"]\n', 2, "network.run.allow[0]"),
    ('[network.run]\nallow = ["https://files.example.com"]\n', 2, "network.run.allow[0]"),
    ('[network.run]\nallow = ["Files.example.com"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["files.example.com."]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["b\u00fccher.example.com"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["*"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["*:443"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["*.com"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["*example.com"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["a.*.example.com"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["10.0.0.1:443"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["0x7f000001"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = ["metadata.google.internal"]\n', 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = [""]\n', 2, "network.run.allow[0]"),
    ("[network.run]\nallow = [443]\n", 2, "network.run.allow[0]"),
    ('[network.run]\nallow = ["a.example.com", "a.example.com"]\n', 2, "network.run.allow"),
    ('[network.run]\nallow = [{ host = "a.example.com", port = 443 }]\n', 2, "network.run.allow[0].port"),
    ("[network.run]\nallow = [{ ports = [443] }]\n", 2, "network.run.allow[0].host"),
    ('[network.run]\nallow = [{ host = "a.example.com", ports = [] }]\n', 2, "network.run.allow[0].ports"),
    ('[network.run]\nallow = [{ host = "a.example.com", ports = ["443"] }]\n', 2, "network.run.allow[0].ports[0]"),
    ('[network.run]\nallow = [{ host = "a.example.com", ports = [true] }]\n', 2, "network.run.allow[0].ports[0]"),
    ('[network.run]\nallow = [{ host = "a.example.com", ports = [80, 80] }]\n', 2, "network.run.allow[0].ports"),
    ('[network.run]\nallow = [{ host = "a.example.com", ranges = ["10.0.0.0"] }, 5]\n', 2, "network.run.allow[1]"),
    ('[network]\nranges = ["0.0.0.0/0"]\n', 2, "network.ranges[0]"),
    ('[network]\nranges = ["10.0.0.1/8"]\n', 2, "network.ranges[0]"),
    ('[network]\nranges = ["93.184.216.0/24"]\n', 2, "network.ranges[0]"),
    ('[network]\nranges = ["::/0"]\n', 2, "network.ranges[0]"),
    ("[network.run]\nany_name_ports = [22]\n", 1, "network.run"),
    ("[network.run]\nany_name = true\nany_name_ports = [0]\n", 3, "network.run.any_name_ports[0]"),
    ('[network]\nmode = "none"\n[network.run]\nany_name = true\n', 1, "network"),
    ('[network]\nhost_network = true\n[network.run]\nallow = ["a.example.com"]\n', 1, "network"),
    ('[[network.rule]]\nallow = ["a.example.com"]\n', 1, "network.rule[0]"),
    (
        '[[network.rule]]\nstage = "a"\nallow = ["a.example.com"]\n[[network.rule]]\nstage = "b"\nallow = []\n',
        4,
        "network.rule[1]",
    ),
    ("[network.limits.step]\nupload = 5\n", 2, "network.limits.step.upload"),
    ("[network.limits.step]\nconnections = 5\nconnections_total = 4\n", 1, "network.limits.step"),
    ('[network.limits.step]\nidle = "1h"\n[network.limits.build]\nidle = "1m"\n', 1, "network.limits"),
    ('[registries]\npush = ["registry.example.com/app"]\n', 2, "registries.push"),
    ('[registries]\npull = ["**"]\n', 2, "registries.pull[0]"),
    ('[registries]\npull = ["*/library/*"]\n', 2, "registries.pull[0]"),
    ('[registries]\npull = ["*.com/app"]\n', 2, "registries.pull[0]"),
    ('[registries]\npull = ["registry.example.com"]\n', 2, "registries.pull[0]"),
    ('[registries]\npull = ["registry.example.com/../app"]\n', 2, "registries.pull[0]"),
    ('[sources]\nallow = ["registry.example.com/app@sha256:abc"]\n', 2, "sources.allow[0]"),
    ('[sources.digests]\n"registry.example.com/app:1" = "sha256:ABC"\n', 1, "sources.digests"),
    ('[sources]\nrequire_digest = "true"\n', 2, "sources.require_digest"),
    ('[syscalls]\nprofile = "unconfined"\n', 2, "syscalls.profile"),
    ('[syscalls]\nprofile = "strict"\nfile = "x.json"\n', 1, "syscalls"),
    ('[syscalls]\nallow = ["mount"]\n', 2, "syscalls.allow[0]"),
    ('[syscalls]\nallow = ["chmod"]\ndeny = ["chmod"]\n', 1, "syscalls"),
    ('[capabilities]\nadd = ["SYS_ADMIN"]\n', 2, "capabilities.add[0]"),
    ('[capabilities]\nadd = ["ALL"]\n', 2, "capabilities.add[0]"),
    ('[capabilities]\nadd = ["CHOWN"]\ndrop = ["CHOWN"]\n', 1, "capabilities"),
    ("[limits]\nmemory = 512\n", 2, "limits.memory"),
    ('[limits]\nmemory = "512"\n', 2, "limits.memory"),
    ('[limits]\nmemory = "5 apples"\n', 2, "limits.memory"),
    ('[limits]\nmemory = "0m"\n', 2, "limits.memory"),
    ('[limits]\nmemory = "-5m"\n', 2, "limits.memory"),
    ("[limits]\npids = 0\n", 2, "limits.pids"),
    ("[limits]\npids = -1\n", 2, "limits.pids"),
    ("[limits]\npids = 1.5\n", 2, "limits.pids"),
    ("[limits]\npids = true\n", 2, "limits.pids"),
    ("[limits]\npids = 99999999999\n", 2, "limits.pids"),
    ("[limits]\ncpu = 0.0\n", 2, "limits.cpu"),
    ("[limits]\ncpu = nan\n", 2, "limits.cpu"),
    ("[limits]\ncpu = inf\n", 2, "limits.cpu"),
    ("[limits]\nstep_timeout = 90\n", 2, "limits.step_timeout"),
    ('[limits]\nstep_timeout = "90"\n', 2, "limits.step_timeout"),
    ('[limits]\nstep_timeout = "2h"\nbuild_timeout = "1h"\n', 1, "limits"),
    ('[limits]\n\n# the tmpfs\n"shm" = "1g"\n', 4, "limits.shm"),
    ('[profile]\nruntime = "../x"\ndescription = "d"\n', 2, "profile.runtime"),
]


@pytest.mark.parametrize(("text", "line", "key"), BROKEN)
def test_broken_policy_is_an_error_with_file_line_and_key(text: str, line: int, key: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        read_policy("my.toml", text.encode())
    problem = caught.value.problems[0]
    assert (problem.file, problem.line, problem.key) == ("my.toml", line, key)
    assert caught.value.message.startswith(f"my.toml:{line}: {key}: ")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"[limits]\npids = 1\npids = 2\n", 3),
        (b"[limits]\n[network]\n[limits]\n", 3),
        (b"[limits\n", 1),
        (b"\n\npids = \n", 3),
        (b"\xef\xbb\xbf[limits]\n", 1),
        (b"[limits]\n# \xff\n", 2),
        ("[limits]\npids = 1\n".encode("utf-16"), 1),
        (b"[limits]\npids = 1\0\n", 2),
        (b"x = " + b"[" * 10_000, 1),
        (b"a = 2020-02-31\n", 1),
    ],
)
def test_text_that_is_no_toml_is_an_error_with_its_line(data: bytes, line: int) -> None:
    with pytest.raises(PolicyError, match=f"^my.toml:{line}: "):
        read_toml("my.toml", data)


def test_huge_file_is_an_error() -> None:
    with pytest.raises(PolicyError, match="more than"):
        read_toml("my.toml", b"#" * (SIZE_LIMIT_BYTES + 1))


def test_all_faults_are_told_in_the_order_of_their_lines() -> None:
    with pytest.raises(InvalidPolicy) as caught:
        read_policy("my.toml", b'[limits]\npids = 0\nmemory = 1\n[network]\nmoed = "none"\n')
    assert [problem.line for problem in caught.value.problems] == [2, 3, 5]
    assert "did you mean mode?" in caught.value.problems[2].message
    assert "2 more" in caught.value.hint


def test_error_holds_nothing_that_moves_a_cursor() -> None:
    with pytest.raises(PolicyError) as caught:
        read_policy("my.toml", b'[limits]\n"\\u001b[2Jx\\u202e" = 1\n')
    assert caught.value.message.isprintable()


def test_every_key_has_its_line() -> None:
    text = """# a policy
a = 1
[t]  # [not.a.table]
"b.c" = { d = [1, 2], 'e' = "]" }
f.g = '''
[no]
h = 1
'''
i = [
    1, # one

    [2,
     3],
]
[[u.v]]
w = 1
[[u.v]]
w = 2
[u.v.x]
y = 1979-05-27T07:32:00Z
"""
    lines = read_toml("t", text.encode()).lines
    expected = {
        ("a",): 2, ("t",): 3, ("t", "b.c"): 4, ("t", "b.c", "d", 1): 4, ("t", "b.c", "e"): 4, ("t", "f", "g"): 5, ("t", "i"): 9,
        ("t", "i", 0): 10, ("t", "i", 1): 12, ("t", "i", 1, 1): 13, ("u", "v", 0, "w"): 16, ("u", "v", 1, "w"): 18,
        ("u", "v", 1, "x", "y"): 20,
    }  # fmt: skip
    assert {path: lines[path] for path in expected} == expected
    assert ("h",) not in lines and ("no",) not in lines


@settings(max_examples=100)
@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    try:
        read_policy("t", text.encode("utf-8", "surrogatepass"))
    except PolicyError as error:
        assert error.message.startswith("t:")


@settings(max_examples=100)
@given(
    st.recursive(
        st.sampled_from(["1", '"x"', "true", "'y'", "1.5"]),
        lambda inner: (
            st.lists(inner, max_size=3).map(lambda parts: "[" + ",\n".join(parts) + "]")
            | st.lists(inner, max_size=3).map(
                lambda parts: "{" + ", ".join(f"k{n} = {part}" for n, part in enumerate(parts)) + "}"
            )
        ),
        max_leaves=8,
    )
)
def test_locator_finds_what_comes_behind_any_value(value: str) -> None:
    value = value if "{" not in value else value.replace("\n", "")
    text = f"a = {value}\n[z]\nlast = 1\n"
    assert read_toml("t", text.encode()).lines[("z", "last")] == text.count("\n")
