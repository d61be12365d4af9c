"""A step and the socket over which the executor speaks to the gateway: what stands between them, one thing after the other.

The oracle is a server that only the executor may fetch from (tests/support/step_attempts.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.step_attempts import UPLINK, Scene, attempts_scene

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

# A connection of the executor that was left open when the zygote began; it waits for the gateway, which starts beside it.
LEAK = {
    "    namespaces.close_descriptors((0, 1, 2, channel.fileno()))\n": """\
    namespaces.close_descriptors((0, 1, 2, channel.fileno()))
    import socket, time
    leaked = socket.socket(socket.AF_UNIX)
    while leaked.connect_ex("/sandboxbuild/uplink/socket"):
        time.sleep(0.01)
    os.dup2(leaked.detach(), 77)
"""
}
KEPT = {"    namespaces.close_descriptors((0, 1, 2, channel.fileno()))\n": ""}
MOUNTED = {
    "            mounts=mounts,\n": """\
            mounts=(*mounts, _UPLINK),
""",
    "SHOWN_REFUSALS: Final = 5\n": """\
SHOWN_REFUSALS: Final = 5
from sandboxbuild.executor.stepspec import StepMount
_UPLINK = StepMount("bind", "/sandboxbuild/uplink", "/sandboxbuild/uplink", writable=True)
""",
}
ANYBODYS = {
    "os.umask(0o177)": "os.umask(0)",
    "connection is None or not self._peers or": "connection is None or self._peers or",
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with attempts_scene(tmp_path_factory.mktemp("uplink")) as made:
        yield made


@pytest.mark.promise(3, "a step finds no way to the executor's uplink")
def test_a_connection_that_the_executor_left_open_is_closed_before_the_step(scene: Scene, tmp_path: Path) -> None:
    leaked = scene.build_mutant(tmp_path, UPLINK, {"executor/zygote.py": LEAK})
    assert leaked.of(UPLINK) == set()


@pytest.mark.without_defence(3, "a step finds no way to the executor's uplink")
def test_a_connection_that_is_left_open_serves_a_step_that_closes_nothing(scene: Scene, tmp_path: Path) -> None:
    changes = {"executor/zygote.py": LEAK, "executor/stepchild.py": KEPT}
    assert scene.build_mutant(tmp_path, UPLINK, changes).of(UPLINK) == {"uplink-inherited"}


@pytest.mark.without_defence(3, "a step finds no way to the executor's uplink")
def test_a_socket_that_is_mounted_into_the_step_and_open_to_all_serves_it(scene: Scene, tmp_path: Path) -> None:
    folder = {"os.fchmod(folder_fd, 0o2700)": "os.fchmod(folder_fd, 0o2777)"}
    changes = {"executor/runs.py": MOUNTED, "gateway/uplink.py": ANYBODYS, "launcher/uplinkfolder.py": folder}
    tried = scene.build_mutant(tmp_path, UPLINK, changes)
    assert tried.of(UPLINK) == {"uplink-found", "uplink-path"}


@pytest.mark.promise(3, "a step finds no way to the executor's uplink")
def test_a_socket_that_is_mounted_into_the_step_is_still_not_its(scene: Scene, tmp_path: Path) -> None:
    assert scene.build_mutant(tmp_path, UPLINK, {"executor/runs.py": MOUNTED}).of(UPLINK) == set()
