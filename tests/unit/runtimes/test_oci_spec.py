"""The OCI document of a sandbox, and what is made of a runtime's answers."""

from __future__ import annotations

import pytest

from sandboxbuild.protocol.request import SCRATCH_PATH, STORE_PATH
from sandboxbuild.runtimes import IdRange, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.probe import version_in
from sandboxbuild.runtimes.spec import Json, oci_config, with_scratch

SPEC = SandboxSpec(
    build_id="b1",
    argv=("/sandboxbuild/python", "-m", "program"),
    environment=(("PATH", "/nonexistent"),),
    mounts=(SandboxMount("/host/store", STORE_PATH, writable=True), SandboxMount("/host/context", "/context", idmapped=True)),
    uid_ranges=(IdRange(0, 1000000, 65537),),
    gid_ranges=(IdRange(0, 2000000, 65537),),
    identity=65536,
    network="none",
    scratch="/host/scratch",
)


def config(spec: SandboxSpec = SPEC) -> Json:
    return oci_config(spec, [f"/stage/{number}" for number in range(len(spec.mounts))], "/stage/rootfs", "/group", 1024)


def test_id_0_of_the_sandbox_is_nobody_s_outside() -> None:
    assert config()["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 1000000, "size": 65537}]
    assert config()["linux"]["gidMappings"] == [{"containerID": 0, "hostID": 2000000, "size": 65537}]
    assert {"type": "user"} in config()["linux"]["namespaces"]


def test_only_the_store_can_be_written() -> None:
    binds = {mount["destination"]: mount for mount in config()["mounts"] if mount["type"] == "bind"}
    assert "rw" in binds[STORE_PATH]["options"]
    assert {"ro", "nosuid", "nodev"} <= set(binds["/context"]["options"])
    assert config()["root"]["readonly"] is True


def test_no_source_is_a_path_of_the_host() -> None:
    assert "/host" not in str(config())


def test_the_environment_is_complete_and_names_the_identity() -> None:
    assert config()["process"]["env"] == ["PATH=/nonexistent", "SANDBOXBUILD_IDENTITY=65536"]


@pytest.mark.parametrize(("network", "own"), [("none", True), ("host", False)])
def test_a_network_namespace_is_made_unless_the_host_s_is_wanted(network: str, own: bool) -> None:
    found = config(SPEC._replace(network=network))
    assert ({"type": "network"} in found["linux"]["namespaces"]) is own
    assert any(mount["destination"] == "/sys" for mount in found["mounts"]) is own


def test_scratch_becomes_a_mount_that_gvisor_is_told_of() -> None:
    spec = with_scratch(SPEC)
    assert spec.mounts[-1] == SandboxMount("/host/scratch", SCRATCH_PATH, writable=True)
    hints = config(spec)["annotations"]
    assert hints["dev.gvisor.spec.mount.scratch.source"] == "/stage/2"
    assert hints["dev.gvisor.spec.mount.scratch.type"] == "tmpfs"


def test_without_scratch_nothing_is_added() -> None:
    spec = SPEC._replace(scratch="")
    assert with_scratch(spec) == spec
    assert config(spec)["annotations"] == {}


@pytest.mark.parametrize(
    ("text", "minimum", "version"),
    [
        ("runsc version release-20240729.0\nspec: 1.1.0-rc.1\n", "20230101", "20240729"),
        ("runsc version 0.0~20221219.0\n", "20230101", "20221219"),
        ("runc version 1.1.5+ds1\nspec: 1.0.2-dev\n", "1.1", "1.1.5"),
        ("crun version 1.8.1\n", "1.8", "1.8.1"),
        ("who knows\n", "1.8", ""),
        ("version 20240729123\n", "20230101", ""),
    ],
)
def test_a_version_is_found_in_what_a_runtime_says(text: str, minimum: str, version: str) -> None:
    assert version_in(text, minimum) == version
