"""Attacks of test_step_isolation.py on steps whose defence is taken out: each succeeds, so the defence holds them off.

Steps come from a zygote that ran a few lines first, which replace a function of ours (Lab.without).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.runtimes.namespaces import NamespacesRuntime
from sandboxbuild.system.capabilities import NAMES
from tests.support.builder import wait_until
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab, find_process

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.timeout(120)]
EVERYTHING = {"capabilities": list(NAMES)}

NO_HIDING = """
import os
from sandboxbuild.executor import zygote
from sandboxbuild.system import namespaces
patch(namespaces, "hide_from_tracers", lambda: None)
identity = os.geteuid()
part = zygote._image_part
patch(zygote, "_image_part", lambda path, end: part(path, identity + 1))
"""
LEAK = """
import os
from sandboxbuild.executor import rootfs
build = rootfs.build_root
def leaking(spec, places, made):
    os.dup2(os.open("/", os.O_RDONLY | os.O_DIRECTORY), 7)
    build(spec, places, made)
patch(rootfs, "build_root", leaking)
"""
NO_WALK = """
import os
from sandboxbuild.executor import stepchild
patch(stepchild, "enter_directory", os.chdir)
"""
ANY_PROC = """
import os
from sandboxbuild.executor import rootfs
from sandboxbuild.system import files
patch(files, "open_beneath", files.open_in_root)
patch(rootfs, "_mount_point", lambda root_fd, name, made: files.open_in_root(root_fd, name, os.O_PATH | os.O_DIRECTORY))
"""
ANY_TARGET = """
import os
from sandboxbuild.executor import rootfs
careful = rootfs.open_target
def joined(root_fd, path, *, directory, made):
    if "out" not in path:
        return careful(root_fd, path, directory=directory, made=made)
    os.close(os.open("/tmp/" + path, os.O_CREAT | os.O_WRONLY, 0o644))
    return os.open("/tmp/" + path, os.O_PATH)
patch(rootfs, "open_target", joined)
"""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("context")
    (folder / "file").write_text("as it was")
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, context: Path) -> Iterator[Lab]:
    opened = Lab(tmp_path_factory.mktemp("undefended"), context=context, writable_context=True, runtime=NamespacesRuntime())
    yield opened
    opened.close()


@pytest.mark.without_defence(2, "a step's own init can't be read, ended or traced")
def test_an_init_that_does_not_hide_is_read(lab: Lab) -> None:
    lab.without("open", NO_HIDING)
    command = "dd if=/proc/1/environ bs=4096 count=1 2>/dev/null | wc -c"
    assert int(lab.run(command, zygote="open", isolation=EVERYTHING).output) > 0
    assert lab.run(command, isolation=EVERYTHING).output == "0\n", "hiding is enough, whatever the capabilities"


@pytest.mark.without_defence(2, "a working directory is no way out of the root")
def test_a_working_directory_that_is_only_entered_leads_out(lab: Lab) -> None:
    lab.without("leaking", LEAK)
    lab.without("out", LEAK + NO_WALK)
    attempt = {"cwd": "/proc/self/fd/7"}
    assert "sandboxbuild" in lab.run("ls", zygote="out", **attempt).output
    assert "sandboxbuild" not in lab.run("ls", zygote="leaking", **attempt).output, "a leak alone is no way out"


@pytest.mark.without_defence(2, "an image's own /proc, /sys and /dev are never used")
def test_a_proc_that_is_a_link_decides_where_ours_is_mounted(lab: Lab) -> None:
    lower = lab.new_lower("swapped")
    for name in ("elsewhere", "sys", "dev"):
        (lower / name).mkdir()
    (lower / "proc").symlink_to("elsewhere")
    lab.settle(lower)
    lab.without("any proc", ANY_PROC)
    answer = lab.run("ls -d /elsewhere/self", zygote="any proc", lower="swapped")
    assert "/elsewhere/self" in answer.output, answer


@pytest.mark.without_defence(8, "mount targets of a RUN stay in its root")
def test_a_target_that_is_joined_to_the_root_is_made_outside(lab: Lab) -> None:
    lower = lab.new_lower("climb")
    (lower / "out").symlink_to("/sandboxbuild/store")
    lab.settle(lower)
    lab.python("import os; os.chmod('/sandboxbuild/store', 0o777)")
    lab.without("any target", ANY_TARGET)
    content = base64.b64encode(b"planted").decode()
    mount = {"kind": "file", "target": "/out/planted", "content": content}
    answer = lab.run("true", zygote="any target", lower="climb", mounts=[mount])
    assert (lab.store / "planted").exists(), answer


@pytest.mark.without_defence(8, "a hostile executor changes neither context nor programs")
def test_a_context_that_is_mounted_writable_is_changed(lab: Lab, context: Path) -> None:
    lab.python("open('/sandboxbuild/contexts/default/file', 'w').write('changed')")
    assert (context / "file").read_text() == "changed"


@pytest.fixture(scope="module")
def root_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A sandbox whose ids and network are the host's own; the plain driver can't be made to give up that its 0 is nobody."""
    opened = Lab(tmp_path_factory.mktemp("root"), first_id=0, network="host", runtime=runtime_or_skip("runc"))
    yield opened
    opened.close()


@pytest.mark.without_defence(6, "uid 0 of a step is nobody's uid 0 outside")
def test_where_ids_are_the_host_s_a_step_is_the_host_s_root(root_lab: Lab) -> None:
    number = root_lab.begin(["/bin/sleep", "77301"])
    wait_until(lambda: find_process("/bin/sleep 77301") is not None, what="the step")
    pid = find_process("/bin/sleep 77301")
    status = Path(f"/proc/{pid}/status").read_text()
    root_lab.cancel(number)
    root_lab.wait(number)
    assert "Uid:\t0\t0\t0\t0" in status


@pytest.mark.without_defence(6, "a set-user-id file of a step is nobody's root outside")
def test_where_ids_are_the_host_s_a_set_user_id_file_is_the_host_s_root(root_lab: Lab) -> None:
    root_lab.python(
        "import os; fd = os.open('/sandboxbuild/store/power', os.O_CREAT | os.O_WRONLY, 0o755); os.fchown(fd, 0, 0); "
        "os.fchmod(fd, 0o6755)"
    )
    status = (root_lab.store / "power").stat()
    (root_lab.store / "power").unlink()
    assert (status.st_mode & 0o6000, status.st_uid) == (0o6000, 0)


@pytest.mark.without_defence(3, "an executor has no network of its own")
def test_in_the_host_s_network_an_executor_has_the_host_s_devices(root_lab: Lab) -> None:
    inside = root_lab.python("value = open('/proc/net/dev').read()")
    seen, ours = ({line.split(":")[0] for line in text.splitlines()} for text in (inside, Path("/proc/net/dev").read_text()))
    assert seen == ours
