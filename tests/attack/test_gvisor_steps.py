"""What a step may not do in gVisor, seen from inside its own kernel and from the host, where its processes are nobody's."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.policy.library import packaged_folder
from sandboxbuild.protocol.request import StepIsolation
from sandboxbuild.system import idmap
from sandboxbuild.system.seccomp import compile_profile
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab, descendants, find_process

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("context")
    (folder / "file").write_text("as it was")
    return folder


@pytest.fixture(scope="module", params=["runsc"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, context: Path) -> Iterator[Lab]:
    opened = Lab(tmp_path_factory.mktemp("gvisor"), context=context, runtime=runtime_or_skip(request.param))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def filtered() -> dict[str, str]:
    """The isolation of a step under the default filter."""
    document = Path(packaged_folder(), "profiles", "syscalls", "default.json").read_bytes()
    program = compile_profile(document, capabilities=StepIsolation().capabilities)
    return {"seccomp_program": base64.b64encode(program).decode()}


@pytest.mark.promise(2, "a step's calls are served by another kernel than the host's")
def test_a_step_meets_another_kernel_than_the_host_s(lab: Lab) -> None:
    version = lab.run("cat /proc/version").output
    assert version != Path("/proc/version").read_text()
    assert os.uname().release not in version


@pytest.mark.promise(6, "uid 0 of a step is nobody's uid 0 outside")
def test_no_process_of_the_sandbox_is_root_on_the_host_but_its_keepers(lab: Lab) -> None:
    """The runtime's own two monitors stay root outside; whatever serves the sandbox's calls and files doesn't."""
    number = lab.begin("sleep 77101")
    lab.run("true")
    by_name: dict[str, set[int]] = {}
    for pid in descendants(lab.sandbox.pid):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        text = re.search(r"^Uid:\s+(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
        assert text is not None
        by_name.setdefault(words[0].decode(), set()).update(int(word) for word in text.group(1).split())
    lab.cancel(number)
    lab.wait(number)
    assert by_name["runsc-sandbox"] == {idmap.ROOT_BASE}
    assert by_name["runsc-gofer"] == {idmap.ROOT_BASE}


@pytest.mark.promise(2, "a step's calls are served by another kernel than the host's")
def test_a_step_s_program_is_no_process_of_the_host(lab: Lab) -> None:
    number = lab.begin(["/bin/sleep", "77102"])
    lab.run("true")
    assert find_process("/bin/sleep 77102") is None
    lab.cancel(number)
    lab.wait(number)


@pytest.mark.promise(2, "a step sees no process but its own")
def test_a_step_sees_no_other_step(lab: Lab) -> None:
    number = lab.begin(["/bin/sleep", "77103"])
    lab.run("true")
    answer = lab.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; ls /proc")
    lab.cancel(number)
    lab.wait(number)
    assert "77103" not in answer.output
    numbers = {int(word) for word in answer.output.split() if word.isdecimal()}
    assert numbers <= set(range(1, 10))


@pytest.mark.promise(2, "a step reads no memory, environment or file of the executor")
def test_the_step_s_init_holds_nothing_of_the_executor(lab: Lab) -> None:
    """gVisor lets a step look at its own init, which is one of ours: so nothing may be in it."""
    answer = lab.run("cat /proc/1/environ | tr '\\0' '\\n'; ls -l /proc/1/fd; cat /proc/1/cwd/inner.py; ls /proc/1/root")
    names = {line.partition("=")[0] for line in answer.output.splitlines() if re.match(r"[A-Z_]+=", line)}
    assert names <= {"HOME", "LC_ALL", "MALLOC_ARENA_MAX", "PATH", "SANDBOXBUILD_IDENTITY"}
    assert "sandboxbuild/store" not in answer.output
    assert "inner.py" not in answer.output.replace("can't open '/proc/1/cwd/inner.py'", "")


@pytest.mark.promise(2, "a step signals, kills and traces nobody outside")
def test_memory_of_the_init_cannot_be_written_or_traced(lab: Lab, filtered: dict[str, str]) -> None:
    answer = lab.run("echo x > /proc/1/mem && echo wrote; echo 7 > /proc/1/uid_map && echo mapped", isolation=filtered)
    assert "wrote" not in answer.output
    assert "mapped" not in answer.output


@pytest.mark.promise(2, "a step signals, kills and traces nobody outside")
def test_a_step_that_kills_its_init_ends_itself_alone(lab: Lab) -> None:
    other = lab.begin("sleep 3; echo fine")
    lab.run("kill -9 1; sleep 5")
    assert base64.b64decode(lab.wait(other)["output"]) == b"fine\n"
    assert lab.python("value = 40 + 2") == 42


@pytest.mark.promise(5, "capabilities and groups are those of the policy")
def test_the_capabilities_are_those_that_were_given(lab: Lab) -> None:
    rows = dict(line.split(":\t") for line in lab.run("cat /proc/self/status").output.splitlines() if line.startswith("Cap"))
    mask = int(rows["CapEff"], 16)
    assert bin(mask).count("1") == len(StepIsolation().capabilities)
    assert rows["CapPrm"] == rows["CapEff"] == rows["CapBnd"]
    assert int(rows["CapInh"], 16) == 0


@pytest.mark.promise(5, "capabilities and groups are those of the policy")
def test_a_user_s_step_has_no_capability(lab: Lab) -> None:
    answer = lab.run("id; grep Cap /proc/self/status", uid=1000, gid=1000)
    assert answer.output.startswith("uid=1000 gid=1000")
    assert all(int(line.split()[1], 16) == 0 for line in answer.output.splitlines() if line.startswith(("CapEff", "CapPrm")))


@pytest.mark.promise(5, "capabilities and groups are those of the policy")
def test_supplementary_groups_are_those_of_the_step(lab: Lab) -> None:
    assert lab.run("id -G", uid=1000, gid=1000, groups=[1001, 1002]).output.split() == ["1000", "1001", "1002"]


@pytest.mark.promise(2, "a step inherits no descriptor, keyring or working directory")
def test_no_descriptor_is_inherited(lab: Lab) -> None:
    seen = lab.run("ls /proc/self/fd").output.split()
    assert set(seen) <= {"0", "1", "2", "3"}  # 3 is the directory that ls reads


@pytest.mark.promise(5, "a call that the policy closes fails, by every ABI")
@pytest.mark.parametrize("attempt", ["unshare -U true", "unshare -m true", "mount -t proc p /mnt", "umount /proc"])
def test_the_filter_is_in_force_inside(lab: Lab, filtered: dict[str, str], attempt: str) -> None:
    assert lab.run(f"mkdir -p /mnt; {attempt}", isolation=filtered).status != 0


@pytest.mark.promise(2, "device nodes open nothing")
@pytest.mark.parametrize("device", ["c 1 1", "c 1 3", "b 254 0", "c 10 200"])
def test_a_device_node_that_a_step_makes_opens_nothing(lab: Lab, filtered: dict[str, str], device: str) -> None:
    """gVisor asks for no capability when a node is made, and heeds no nodev: the filter refuses to make one."""
    answer = lab.run(f"mknod /node {device}; ls /node; dd if=/node count=1 of=/dev/null", isolation=filtered)
    assert answer.status != 0
    assert "not permitted" in answer.output


@pytest.mark.promise(5, "a call that the policy closes fails, by every ABI")
def test_the_filter_keeps_its_errno(lab: Lab, filtered: dict[str, str]) -> None:
    """--oci-seccomp makes EPERM of everything; the step's own filter says what the profile says."""
    answer = lab.run("unshare -U true", isolation=filtered)
    assert "not permitted" in answer.output
    assert lab.run("grep Seccomp: /proc/self/status", isolation=filtered).output.split()[-1] == "2"


def test_steps_have_no_network_but_loopback(lab: Lab) -> None:
    assert [line.split(":")[0].strip() for line in lab.run("cat /proc/net/dev").output.splitlines()[2:]] == ["lo"]
    assert lab.run("nc -w 2 192.0.2.1 80 < /dev/null").status != 0


@pytest.mark.promise(8, "a hostile executor changes neither context nor programs")
def test_the_context_cannot_be_written_whatever_its_kernel_believes(lab: Lab, context: Path) -> None:
    place = "/sandboxbuild/contexts/default"
    lab.python(f"from sandboxbuild.system import libc; libc.mount(None, '{place}', None, 4096 | 32, None)")
    for code in (
        f"open('{place}/file', 'w')",
        f"open('{place}/new', 'w')",
        f"import os; os.unlink('{place}/file')",
        f"import os; os.truncate('{place}/file', 0)",
    ):
        with pytest.raises(RuntimeError, match="Read-only"):
            lab.python(code)
    lab.python(f"import os; os.chmod('{place}/file', 0o777)")  # believed inside for a moment, and nothing outside
    assert (context / "file").read_text() == "as it was"
    assert (context / "file").stat().st_mode & 0o777 == 0o644
    assert os.listdir(context) == ["file"]


@pytest.mark.promise(6, "uid 0 of a step is nobody's uid 0 outside")
def test_what_the_store_gets_belongs_to_the_sandbox_s_ids(lab: Lab) -> None:
    lab.python("import os; open('/sandboxbuild/store/mine', 'w').close(); os.chown('/sandboxbuild/store/mine', 0, 33)")
    status = (lab.store / "mine").stat()
    assert (status.st_uid, status.st_gid) == (idmap.ROOT_BASE, idmap.ROOT_BASE + 33)
    lab.python("os = __import__('os'); open('/sandboxbuild/store/own', 'w').close()")
    assert (lab.store / "own").stat().st_uid == idmap.ROOT_BASE + lab.plan.identity
