"""A step on the real kernel: what it sees, how it ends, what it leaves."""

from __future__ import annotations

import base64
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.system import seccomp
from tests.support.sandboxes import Lab, find_process

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    opened = Lab(tmp_path_factory.mktemp("steps"))
    yield opened
    opened.close()


def test_output_and_status_come_back(lab: Lab) -> None:
    answer = lab.run("echo out; echo err >&2; exit 7")
    assert (answer.status, sorted(answer.output.split())) == (7, ["err", "out"])


def test_a_signal_is_128_and_its_number(lab: Lab) -> None:
    assert lab.run("kill -TERM $$").status == 143


def test_environment_is_exactly_what_was_given(lab: Lab) -> None:
    answer = lab.run(["/bin/env"], env=[["A", "1"], ["B", "two words\nand a line"]])
    assert answer.output == "A=1\nB=two words\nand a line\n"


@pytest.mark.parametrize(
    ("argv", "status", "words"),
    [
        (["/no/such"], 127, "no such file"),
        (["nosuch"], 127, "not found in $PATH"),
        (["/bin"], 126, "Permission denied"),
        (["/text"], 126, "Exec format error"),
        (["/closed"], 126, "Permission denied"),
        (["/script"], 127, "interpreter"),
    ],
)
def test_what_cannot_be_executed_is_said(lab: Lab, argv: list[str], status: int, words: str) -> None:
    lower = lab.store / "odd"
    if not lower.exists():
        lower = lab.new_lower("odd")
        (lower / "text").write_text("no program")
        (lower / "text").chmod(0o755)
        (lower / "closed").write_text("x")
        (lower / "script").write_text("#!/no/shell\n")
        (lower / "script").chmod(0o755)
        lab.settle(lower)
    answer = lab.run(argv, lower="odd")
    assert answer.status == status
    assert words in answer.message


def test_a_daemon_holding_the_output_neither_hangs_the_step_nor_survives_it(lab: Lab) -> None:
    started = time.monotonic()
    answer = lab.run("sleep 98765 & setsid sleep 98765 & sleep 0.1; echo done")
    assert answer.output == "done\n"
    assert answer.leftover == 2
    assert time.monotonic() - started < 20
    assert find_process("sleep 98765") is None


def test_closing_the_output_does_not_end_the_step(lab: Lab) -> None:
    assert lab.run("exec >&- 2>&-; sleep 0.2; exit 5").status == 5


def test_much_output_arrives_whole(lab: Lab) -> None:
    assert lab.run("yes | head -c 5000000").size == 5_000_000


def test_output_over_the_limit_ends_the_step(lab: Lab) -> None:
    answer = lab.run("yes", isolation={"output_bytes": 1_000_000})
    assert answer.ended_by == "output"
    assert answer.size <= 1_000_000


def test_a_step_that_ignores_signals_ends_with_its_time(lab: Lab) -> None:
    answer = lab.run("trap '' TERM INT HUP; while true; do sleep 97531; done", timeout_s=0.5)
    assert answer.ended_by == "timeout"
    assert answer.status == 137
    assert find_process("sleep 97531") is None


def test_cancel_ends_the_step(lab: Lab) -> None:
    number = lab.begin("sleep 86420")
    while find_process("sleep 86420") is None:
        time.sleep(0.01)
    lab.cancel(number)
    assert lab.wait(number)["ended_by"] == "cancel"
    assert find_process("sleep 86420") is None


def test_nothing_is_left_in_the_rootfs_that_the_step_did_not_write(lab: Lab) -> None:
    answer = lab.run(
        "echo made > /made",
        resolv_conf="nameserver 127.0.0.1\n",
        mounts=[
            {"kind": "tmpfs", "target": "/a/b/c"},
            {"kind": "file", "target": "/run/secrets/token", "content": base64.b64encode(b"x").decode()},
        ],
    )
    assert answer.upper == ["made"]


def test_a_mount_point_that_the_step_filled_stays(lab: Lab) -> None:
    answer = lab.run("echo x > /a/other", mounts=[{"kind": "tmpfs", "target": "/a/b"}])
    assert answer.upper == ["a", "a/other"]


def test_folders_of_mount_points_keep_their_times(lab: Lab) -> None:
    lower = lab.new_lower("dated")
    (lower / "etc").mkdir()
    lab.settle(lower)
    os.utime(lower / "etc", ns=(10**18, 10**18))
    answer = lab.run("true", lower="dated", resolv_conf="x")
    assert answer.fields["times"].get("etc", 10**18) == 10**18


def test_a_dangling_link_as_a_mount_target_is_followed_inside(lab: Lab) -> None:
    lower = lab.new_lower("stub")
    (lower / "etc").mkdir()
    (lower / "etc" / "resolv.conf").symlink_to("../run/systemd/stub.conf")
    lab.settle(lower)
    answer = lab.run("cat /etc/resolv.conf; readlink /etc/resolv.conf", lower="stub", resolv_conf="nameserver 127.0.0.9\n")
    assert answer.output == "nameserver 127.0.0.9\n../run/systemd/stub.conf\n"
    assert not [path for path in answer.upper if path.startswith("run")]


def test_names_are_those_of_the_step(lab: Lab) -> None:
    answer = lab.run("hostname; cat /etc/hosts", hostname="builder", add_hosts=[["db.example.com", "192.0.2.7"]])
    assert answer.output.splitlines()[0] == "builder"
    assert "192.0.2.7\tdb.example.com" in answer.output


@pytest.mark.parametrize(("network", "status"), [("none", 0), ("gateway", 0)])
def test_loopback_is_up_and_nothing_else_is_there(lab: Lab, network: str, status: int) -> None:
    answer = lab.run("ip -o addr; ls /sys/class/net", network=network)
    assert ("198.18.0.1/15" in answer.output) == (network == "gateway")
    assert {line.split()[1] for line in answer.output.splitlines() if ": " in line} == {"lo"}


def test_listeners_are_handed_over_before_the_program_starts(lab: Lab) -> None:
    listen = [["tcp", "198.18.0.1", 443], ["udp", "127.0.0.1", 53]]
    answer = lab.run("echo ran", network="gateway", listen=listen)
    assert answer.fields["heard"] == ["('198.18.0.1', 443)", "('127.0.0.1', 53)"]
    assert answer.output == "ran\n"


def test_file_mounts_have_their_mode_owner_and_content(lab: Lab) -> None:
    secret = {
        "kind": "file",
        "target": "/s",
        "content": base64.b64encode(b"s3cret").decode(),
        "mode": 0o400,
        "uid": 5,
        "gid": 6,
    }
    answer = lab.run("stat -c '%a %u %g' /s; cat /s; echo x > /s", mounts=[secret])
    assert answer.output.startswith("400 5 6\ns3cret")
    assert "Read-only" in answer.output


def test_scripts_below_dev_pipes_can_be_executed(lab: Lab) -> None:
    script = {
        "kind": "file",
        "target": "/dev/pipes/EOF",
        "content": base64.b64encode(b"#!/bin/sh\necho hi\n").decode(),
        "mode": 0o755,
    }
    assert lab.run(["/dev/pipes/EOF"], mounts=[script]).output == "hi\n"


def test_a_bind_stays_inside_its_source(lab: Lab) -> None:
    source = lab.store / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_text("inside")
    (source / "link").symlink_to("/sub")
    (source / "out").symlink_to("../../../../proc")
    lab.settle(source)
    bind = {"kind": "bind", "target": "/m", "source": "/sandboxbuild/store/source", "source_path": "link"}
    assert lab.run("cat /m/f; touch /m/g", mounts=[bind]).output.startswith("inside")
    assert not (source / "sub" / "g").exists()
    refused = lab.run("ls /m", mounts=[{**bind, "source_path": "out"}])
    assert refused.status == 126
    assert "No such file" in refused.message


def test_a_user_and_its_groups_are_taken(lab: Lab) -> None:
    answer = lab.run(
        "id -u; id -g; id -G; grep -E 'Cap(Eff|Prm|Inh|Amb)' /proc/self/status", uid=1000, gid=1001, groups=[1001, 44]
    )
    lines = answer.output.splitlines()
    assert lines[:3] == ["1000", "1001", "1001 44"]
    assert all(line.split()[1] == "0" * 16 for line in lines[3:])


def test_set_user_id_programs_keep_their_meaning(lab: Lab) -> None:
    lower = lab.new_lower("suid")
    shutil.copy("/usr/bin/bash-static", lower / "bin" / "bash")
    lab.settle(lower)
    (lower / "bin" / "bash").chmod(0o4755)
    script = "echo $UID $EUID; while read line; do case $line in CapEff*) echo $line;; esac; done < /proc/self/status"
    answer = lab.run(["/bin/bash", "-p", "-c", script], lower="suid", uid=1000, gid=1000)
    assert answer.output.splitlines()[0] == "1000 0"
    assert int(answer.output.split()[-1], 16) == 0x800405FB


def test_a_missing_working_directory_is_made(lab: Lab) -> None:
    answer = lab.run("pwd", cwd="/new/place")
    assert answer.output == "/new/place\n"
    assert answer.upper == ["new", "new/place"]


def test_a_user_may_start_in_a_directory_that_it_cannot_search(lab: Lab) -> None:
    lower = lab.new_lower("private")
    (lower / "root").mkdir(mode=0o700)
    lab.settle(lower)
    assert lab.run(["/bin/true"], lower="private", uid=1000, cwd="/root").status == 0


def test_steps_run_side_by_side(lab: Lab) -> None:
    numbers = [lab.begin(f"sleep 0.2; echo {n}") for n in range(6)]
    outputs = [base64.b64decode(lab.wait(number)["output"]).decode() for number in numbers]
    assert outputs == [f"{n}\n" for n in range(6)]


def test_hundred_mount_stubs_or_an_unknown_limit_are_said_and_not_lost(lab: Lab) -> None:
    assert "no limit is called" in lab.run("true", ulimits=[["nonsense", 1, 1]]).message
    assert lab.run("ulimit -n", ulimits=[["nofile", 77, 99]]).output == "77\n"


def test_processes_are_limited(lab: Lab) -> None:
    answer = lab.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait", isolation={"pids": 5}, timeout_s=30)
    assert "can't fork" in answer.output


def test_a_step_is_as_quick_as_it_was_meant_to_be(lab: Lab, tmp_path: Path) -> None:
    times = sorted(lab.run("true").duration_ns for _ in range(10))
    assert times[0] < 200_000_000  # a bound for a busy machine; the bench folder has the figures


@pytest.mark.parametrize("name", ["default", "strict"])
@pytest.mark.parametrize("uid", [0, 1000])
def test_the_filter_is_in_force_and_set_user_id_programs_still_work(lab: Lab, name: str, uid: int) -> None:
    profile = (Path(__file__).parents[2] / "profiles" / "syscalls" / f"{name}.json").read_bytes()
    program = base64.b64encode(seccomp.compile_profile(profile, capabilities=[])).decode()
    script = "grep -E 'Seccomp:|NoNew' /proc/self/status; unshare -U true 2>&1; echo $?; yes | head -1; sleep 0 & wait; pwd"
    answer = lab.run(script, uid=uid, gid=uid, isolation={"seccomp_program": program})
    assert "NoNewPrivs:\t0\nSeccomp:\t2\n" in answer.output
    assert "not permitted" in answer.output
    assert answer.output.endswith("1\ny\n/\n")
