"""What a step may not do, tried from inside as its root, judged from outside."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.policy.library import packaged_folder
from sandboxbuild.protocol.request import StepIsolation
from sandboxbuild.system import idmap
from sandboxbuild.system.seccomp import compile_profile
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab, descendants, find_process

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


REFUSED = re.compile("permitted|denied|invalid argument|read-only|not implemented", re.IGNORECASE)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context on the host that nobody may change."""
    folder = tmp_path_factory.mktemp("context")
    (folder / "file").write_text("as it was")
    (folder / "file").chmod(0o600)
    return folder


@pytest.fixture(scope="module", params=["namespaces", "runc", "runsc"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, canary: Path) -> Iterator[Lab]:
    opened = Lab(tmp_path_factory.mktemp("attack"), context=canary, runtime=runtime_or_skip(request.param))
    yield opened
    opened.close()


# Where the host's /proc is looked at: gVisor's steps are no processes of the host, and runc has no init between.
in_plain = pytest.mark.parametrize("lab", ["namespaces"], indirect=True, scope="module")
on_the_kernel = pytest.mark.parametrize("lab", ["namespaces", "runc"], indirect=True, scope="module")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def executor_of(lab: Lab) -> int:
    """The host's pid: the only child of the sandbox's init, which is the only child of the helper."""
    init = children_of(lab.sandbox.pid)[0]
    return children_of(init)[0]


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(lab: Lab, seconds: str, **spec: object) -> tuple[int, int]:
    """A sleeping step: its number and the host's pid of its program."""
    number = lab.begin(["/bin/sleep", seconds], **spec)
    deadline = time.monotonic() + 20
    while (pid := find_process(f"/bin/sleep {seconds}")) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return number, pid


@pytest.mark.promise(6, "uid 0 of a step is nobody's uid 0 outside")
@on_the_kernel
def test_uid_0_of_a_step_is_no_host_user(lab: Lab) -> None:
    number, pid = running(lab, "77001")
    status = status_of(pid)
    uids, gids = ({int(word) for word in status[name].split()} for name in ("Uid", "Gid"))
    lab.cancel(number)
    lab.wait(number)
    assert uids == {idmap.ROOT_BASE}
    assert gids == {idmap.ROOT_BASE}


@pytest.mark.promise(6, "uid 0 of a step is nobody's uid 0 outside")
@in_plain
def test_no_process_of_a_sandbox_is_a_host_user(lab: Lab) -> None:
    number, _ = running(lab, "77002")
    below = descendants(lab.sandbox.pid)
    uids = {int(word) for pid in below for word in status_of(pid)["Uid"].split()}
    lab.cancel(number)
    lab.wait(number)
    assert len(below) >= 5
    assert uids == {idmap.ROOT_BASE, idmap.ROOT_BASE + idmap.ROOT_IMAGE_IDS}


@pytest.mark.promise(6, "a set-user-id file of a step is nobody's root outside")
def test_a_set_user_id_file_that_is_root_s_inside_is_not_outside(lab: Lab) -> None:
    lab.python(
        "import os; fd = os.open('/sandboxbuild/store/power', os.O_CREAT | os.O_WRONLY, 0o755); os.fchown(fd, 0, 0); "
        "os.fchmod(fd, 0o6755)"
    )
    status = (lab.store / "power").stat()
    assert status.st_mode & 0o6000 == 0o6000
    assert (status.st_uid, status.st_gid) == (idmap.ROOT_BASE, idmap.ROOT_BASE)


@pytest.mark.promise(2, "a step sees no process but its own")
@in_plain
def test_each_step_has_every_namespace_of_its_own(lab: Lab) -> None:
    first, one = running(lab, "77003")
    second, two = running(lab, "77004")
    kinds = ("user", "mnt", "pid", "ipc", "uts", "net", "cgroup")
    try:
        for kind in kinds:
            seen = {os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (one, two, executor_of(lab), os.getpid())}
            assert len(seen) == 4, kind
    finally:
        for number in (first, second):
            lab.cancel(number)
            lab.wait(number)


@pytest.mark.promise(2, "a step sees no process but its own")
@on_the_kernel
def test_a_step_sees_only_its_own_processes(lab: Lab) -> None:
    other, _ = running(lab, "77005")
    answer = lab.run("ls /proc | grep '^[0-9]'; ps")
    lab.cancel(other)
    lab.wait(other)
    assert "77005" not in answer.output
    assert {int(line) for line in answer.output.splitlines() if line.isdecimal()} <= set(range(1, 10))


@pytest.mark.promise(2, "a step's own init can't be read, ended or traced")
@on_the_kernel
@pytest.mark.parametrize(
    "path", ["environ", "mem", "maps", "auxv", "cwd/x", "root/x", "exe", "fd/2", "stack", "syscall", "pagemap"]
)
def test_the_init_of_a_step_cannot_be_read(lab: Lab, path: str) -> None:
    assert lab.run(f"dd if=/proc/1/{path} count=1 2>/dev/null | wc -c").output == "0\n"


@pytest.mark.promise(2, "a step's own init can't be read, ended or traced")
@on_the_kernel
def test_the_init_of_a_step_cannot_be_killed_or_traced(lab: Lab) -> None:
    answer = lab.run("kill -9 1; kill -STOP 1; sleep 0.1; echo alive; echo x > /proc/1/mem; echo 7 > /proc/1/uid_map")
    assert "alive" in answer.output
    assert answer.status != 137


@pytest.mark.promise(2, "a step can't mount, unmount or make namespaces")
@pytest.mark.promise(2, "device nodes open nothing")
@pytest.mark.promise(2, "/proc and /sys can't be written, and tell nothing of the host")
@pytest.mark.parametrize(
    "attempt",
    [
        "mount -t tmpfs none /mnt",
        "mount --bind /bin /mnt",
        "mount -o remount,rw /proc/sys",
        "umount /proc/sys",
        "umount /etc/hosts",
        "umount /proc",
        "mknod /d b 254 0",
        "mknod /d c 1 1",
        "unshare -U true",
        "unshare -r true",
        "unshare -m true",
        "echo '|/bin/sh' > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /proc/sys/user/max_user_namespaces",
        "echo x > /sys/kernel/uevent_helper",
        "cat /proc/kcore",
        "cat /proc/kmsg | grep .",
        "cat /proc/keys | grep .",
        "cat /proc/timer_list | grep .",
        "ls /sys/firmware | grep .",
        "hostname other",
        "ip link set lo down",
        "ip link add d0 type dummy",
        "date -s 2001-01-01 2>&1 | grep -v permitted | grep -v 2001",
        "cat /dev/mem",
        "echo -900 > /proc/self/oom_score_adj",
    ],
)
def test_a_step_is_refused(lab: Lab, attempt: str) -> None:
    spec = {}
    if lab.runtime == "runsc":  # it has no counters of namespaces, and lets anybody make device nodes: the filter doesn't
        if "oom_score_adj" in attempt:
            return  # a number that its own kernel keeps and doesn't use
        document = Path(packaged_folder(), "profiles", "syscalls", "default.json").read_bytes()
        program = compile_profile(document, capabilities=StepIsolation().capabilities)
        spec["isolation"] = {"seccomp_program": base64.b64encode(program).decode()}
    answer = lab.run(f"mkdir -p /mnt; {attempt}", **spec)
    assert answer.status != 0, answer


@pytest.mark.promise(5, "raw and packet sockets are refused")
def test_a_raw_socket_is_refused(lab: Lab) -> None:
    code = "import socket; socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"
    assert code  # a step's rootfs has no interpreter; busybox ping opens one
    assert lab.run(["/bin/busybox", "ping", "-c1", "-W1", "127.0.0.1"]).status != 0


@pytest.mark.promise(2, "a step stays in its root")
def test_the_classic_double_chroot_stays_inside(lab: Lab) -> None:
    escape = "mkdir -p /jail/bin; cp /bin/busybox /jail/bin/sh; cd /; chroot /jail /bin/sh -c 'cd ../../../../../../..; echo *'"
    lower = lab.new_lower("jail")
    lab.settle(lower)
    answer = lab.run(escape + "; cd /; for i in 1 2 3 4 5 6 7 8; do cd ..; done; ls", lower="jail")
    assert "sandboxbuild" not in answer.output
    assert set(answer.output.splitlines()[-1].split()) <= {"bin", "dev", "etc", "jail", "proc", "sys"}


@pytest.mark.promise(2, "a step inherits no descriptor, keyring or working directory")
@on_the_kernel
def test_no_descriptor_is_inherited(lab: Lab) -> None:
    number, pid = running(lab, "77006")
    seen = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    lab.cancel(number)
    lab.wait(number)
    assert set(seen) == {"0", "1", "2"}
    assert seen["0"] == "/dev/null"
    assert all(seen[name].startswith("pipe:") for name in "12")


@pytest.mark.promise(2, "a working directory is no way out of the root")
@pytest.mark.parametrize("number", [*range(3, 24), 64])
def test_a_working_directory_is_never_a_descriptor_of_ours(lab: Lab, number: int) -> None:
    answer = lab.run("pwd; ls", cwd=f"/proc/self/fd/{number}")
    if answer.status == 0:  # without openat2(2) what the link says is looked up inside the root
        assert not {"sandboxbuild", "inner.py", "store"} & set(answer.output.split())
        return
    assert answer.status == 126
    assert answer.output == ""


@pytest.mark.promise(5, "capabilities and groups are those of the policy")
@on_the_kernel
def test_every_capability_set_is_what_was_given(lab: Lab) -> None:
    number, pid = running(lab, "77007")
    status = status_of(pid)
    lab.cancel(number)
    lab.wait(number)
    assert {status[name] for name in ("CapInh", "CapAmb")} == {"0" * 16}
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")} == {0x800405FB}
    assert status["Groups"].strip() == ""
    assert status["SigIgn"] == "0" * 16
    assert status["SigBlk"] == "0" * 16


@pytest.mark.promise(5, "capabilities and groups are those of the policy")
@on_the_kernel
def test_supplementary_groups_are_those_of_the_step(lab: Lab) -> None:
    number, pid = running(lab, "77008", uid=1000, gid=1000, groups=[5, 27])
    groups = {int(word) for word in status_of(pid)["Groups"].split()}
    lab.cancel(number)
    lab.wait(number)
    assert groups == {idmap.ROOT_BASE + 5, idmap.ROOT_BASE + 27}


@pytest.mark.promise(2, "a step inherits no descriptor, keyring or working directory")
@on_the_kernel
def test_the_session_and_limits_are_the_step_s_own(lab: Lab) -> None:
    number, pid = running(lab, "77009")
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    limits = Path(f"/proc/{pid}/limits").read_text()
    adjusted = int(Path(f"/proc/{pid}/oom_score_adj").read_text())
    lab.cancel(number)
    lab.wait(number)
    assert int(fields[3]) == pid, "session"
    assert int(fields[4]) == 0, "no terminal"
    assert re.search(r"Max core file size\s+1\s+1\s", limits) or re.search(r"Max core file size\s+0\s+0\s", limits)
    assert adjusted > 0


@pytest.mark.promise(2, "an image's own /proc, /sys and /dev are never used")
@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("kind", ["link", "file", "absolute"])
def test_proc_sys_and_dev_of_an_image_are_never_used(lab: Lab, name: str, kind: str) -> None:
    lower = lab.new_lower(f"{name}-{kind}")
    (lower / "elsewhere").mkdir()
    (lower / "elsewhere" / "ptmx").write_text("canary")
    if kind == "file":
        (lower / name).write_text("")
    else:
        (lower / name).symlink_to("elsewhere" if kind == "link" else "/elsewhere")
    lab.settle(lower)
    answer = lab.run("echo ran", lower=f"{name}-{kind}")
    assert answer.status == 126
    assert "ordinary directory" in answer.message
    assert (lower / "elsewhere" / "ptmx").read_text() == "canary"


@pytest.mark.promise(2, "an image's own /proc, /sys and /dev are never used")
def test_devices_of_an_image_are_covered(lab: Lab) -> None:
    lower = lab.new_lower("devices")
    (lower / "dev").mkdir()
    (lower / "dev" / "null").symlink_to("/etc/shadow")
    (lower / "dev" / "kmsg").write_text("hostile")
    lab.settle(lower)
    answer = lab.run("stat -c '%t:%T %F' /dev/null; ls /dev; echo x > /dev/null", lower="devices")
    assert answer.output.startswith("1:3 character special file")
    assert "kmsg" not in answer.output


@pytest.mark.promise(2, "device nodes open nothing")
def test_a_device_node_in_a_layer_cannot_be_opened(lab: Lab) -> None:
    lower = lab.new_lower("node")
    os.mknod(lower / "disk", 0o666 | 0o060000, os.stat("/").st_dev)
    lab.settle(lower)
    assert "ermission denied" in lab.run("cat /disk", lower="node").output


@pytest.mark.promise(8, "mount targets of a RUN stay in its root")
def test_a_mount_target_that_climbs_stays_inside(lab: Lab) -> None:
    lower = lab.new_lower("climb")
    (lower / "out").symlink_to("../../../../../../sandboxbuild")
    (lower / "loop").symlink_to("loop")
    lab.settle(lower)
    content = base64.b64encode(b"planted").decode()
    answer = lab.run("cat /sandboxbuild/f", lower="climb", mounts=[{"kind": "file", "target": "/out/f", "content": content}])
    assert answer.output == "planted"
    assert lab.python("import os; value = os.path.exists('/sandboxbuild/f')") is False
    assert lab.run("true", lower="climb", mounts=[{"kind": "tmpfs", "target": "/loop/x"}]).status == 126
    assert lab.run("true", lower="climb", mounts=[{"kind": "tmpfs", "target": "/../../x"}]).status == 0


@pytest.mark.promise(8, "mount targets of a RUN stay in its root")
def test_removing_stubs_does_not_follow_what_the_step_moved(lab: Lab) -> None:
    lower = lab.new_lower("swap")
    (lower / "keep" / "b").mkdir(parents=True)
    lab.settle(lower)
    answer = lab.run("mv /a /c; ln -s /keep /a; ls /c", lower="swap", mounts=[{"kind": "tmpfs", "target": "/a/b"}])
    assert answer.status == 0
    assert (lower / "keep" / "b").is_dir()
    assert "keep" not in answer.upper


@pytest.mark.promise(2, "a step reads no memory, environment or file of the executor")
@pytest.mark.promise(2, "a step signals, kills and traces nobody outside")
def test_the_executor_is_out_of_reach(lab: Lab) -> None:
    answer = lab.run("ls /sandboxbuild /proc/1/root/sandboxbuild /proc/1/cwd/; find / -xdev -name inner.py; kill -9 -1; true")
    assert "inner.py" not in answer.output.replace("find", "")
    assert lab.python("value = 40 + 2") == 42


@pytest.mark.promise(8, "a hostile executor changes neither context nor programs")
@pytest.mark.parametrize(
    "code",
    [
        "from sandboxbuild.system import libc; libc.mount(None, '{0}', None, 4096 | 32, None)",
        "from sandboxbuild.system import libc; libc.mount_setattr(-100, '{0}', 0, attr_clear=1)",
        "open('{0}/file', 'w')",
        "open('{0}/new', 'w')",
        "import os; os.chmod('{0}/file', 0o777)",
        "from sandboxbuild.system import mounts, libc; libc.mount_setattr(mounts.clone_tree('{0}'), '', 0x1000, attr_clear=1)",
    ],
)
def test_a_hostile_executor_cannot_change_the_context(lab: Lab, canary: Path, code: str) -> None:
    place = "/sandboxbuild/contexts/default"
    assert lab.python(f"value = open('{place}/file').read()") == "as it was"
    if lab.runtime == "runsc" and ("libc.mount(None" in code or "chmod" in code):
        lab.python(code.format(place))  # its own kernel believes it, the host's mount doesn't
    else:
        with pytest.raises(RuntimeError, match=REFUSED):
            lab.python(code.format(place))
    with pytest.raises(RuntimeError, match=REFUSED):
        lab.python(f"open('{place}/file', 'w')")
    assert (canary / "file").read_text() == "as it was"
    assert os.listdir(canary) == ["file"]
    assert (canary / "file").stat().st_mode & 0o777 == 0o600


@pytest.mark.promise(8, "a hostile executor changes neither context nor programs")
@in_plain
def test_a_hostile_executor_cannot_take_the_context_away(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match=REFUSED):
        lab.python("from sandboxbuild.system import libc; libc.umount2('/sandboxbuild/contexts/default', 0)")


@in_plain
@pytest.mark.parametrize("code", ["import os; os.kill(1, 9)", "import os; os.kill(1, 19)", "open('/proc/1/mem', 'rb').read(1)"])
def test_a_hostile_executor_has_no_power_over_its_init(lab: Lab, code: str) -> None:
    try:
        lab.python(code)
    except RuntimeError:
        pass
    assert lab.python("value = 1") == 1


@pytest.mark.promise(8, "a hostile executor changes neither context nor programs")
def test_a_hostile_executor_cannot_write_its_programs(lab: Lab) -> None:
    with pytest.raises(RuntimeError, match=REFUSED):
        lab.python("open('/sandboxbuild/runtime/bin/python3', 'r+b')")


@pytest.mark.promise(3, "an executor has no network of its own")
def test_a_hostile_executor_has_only_loopback(lab: Lab) -> None:
    devices = lab.python("value = open('/proc/net/dev').read()")
    assert [line.split(":")[0].strip() for line in devices.splitlines()[2:]] == ["lo"]
    with pytest.raises(RuntimeError):
        lab.python("import socket; socket.create_connection(('192.0.2.1', 80), 2)")


@pytest.mark.promise(2, "another build's store is not there")
def test_host_files_are_not_in_the_sandbox(lab: Lab) -> None:
    seen = lab.python("import os; value = sorted(os.listdir('/')) + sorted(os.listdir('/sandboxbuild'))")
    seen = [name for name in seen if name != "scratch"]
    assert seen == ["dev", "proc", "sandboxbuild", "sys", "tmp", "contexts", "inner.py", "runtime", "store"]


_LAUNCHER = """
import sys, time
from pathlib import Path
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab
lab = Lab(Path(sys.argv[1]), bundle_cache=Path(sys.argv[2]))
lab.begin("sleep 66601 & setsid sleep 66602")
print(lab.sandbox.pid, flush=True)
time.sleep(600)
"""


@in_plain
@pytest.mark.parametrize("victim", ["launcher", "helper", "init", "executor"])
def test_nothing_outlives_a_killed(victim: str, tmp_path: Path, lab: Lab) -> None:
    mounted = set(Path("/proc/self/mountinfo").read_text().splitlines())
    root = Path(__file__).parents[2]
    launcher = subprocess.Popen(
        [sys.executable, "-c", _LAUNCHER, str(tmp_path), str(Path(lab.bundle.path).parent)], stdout=subprocess.PIPE, cwd=root
    )
    assert launcher.stdout is not None
    helper = int(launcher.stdout.readline())
    wait_until(lambda: find_process("sleep 66602") is not None)
    below = descendants(helper) | {helper}
    chain = [launcher.pid, helper, *sorted(descendants(helper))]
    os.kill(chain[["launcher", "helper", "init", "executor"].index(victim)], signal.SIGKILL)
    try:
        wait_until(lambda: not any(alive(pid) for pid in below))
        assert find_process("sleep 6660") in (None, launcher.pid)
        more = set(Path("/proc/self/mountinfo").read_text().splitlines()) - mounted
        assert [line for line in more if str(tmp_path) in line or "sandboxbuild" in line] == []  # others may be a test's beside
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()


def alive(pid: int) -> bool:
    try:
        return status_of(pid)["State"][0] not in "ZX"
    except OSError:
        return False


def wait_until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)
