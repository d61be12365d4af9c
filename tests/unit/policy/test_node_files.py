"""What lies beside each runtime's file for a node: it says the same names, and keeps what the runtime's claims rest on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandboxbuild.policy.library import RUNTIMES, Library, packaged_folder
from sandboxbuild.policy.runtime import load_runtime

FOLDER = Path(packaged_folder()) / RUNTIMES
PACKAGED = Library((packaged_folder(),))
HOSTED = tuple(name for name in PACKAGED.names(RUNTIMES) if name != "namespaces")
QUANTITY = re.compile(r"[1-9][0-9]*(m|Mi|Gi)?")
LABEL = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def containerd(name: str) -> dict[str, Any]:
    document = tomllib.loads((FOLDER / f"{name}.containerd.toml").read_text())
    assert document["version"] == 2
    runtimes: dict[str, Any] = document["plugins"]["io.containerd.grpc.v1.cri"]["containerd"]["runtimes"]
    return runtimes


@pytest.mark.parametrize("name", HOSTED)
def test_containerd_is_told_of_the_runtime_under_its_name(name: str) -> None:
    runtimes = containerd(name)
    assert list(runtimes) == [name]
    kind = runtimes[name]["runtime_type"]
    assert re.fullmatch(r"io\.containerd\.[a-z]+\.v[12]", kind)
    shim = load_runtime(PACKAGED, name).values.shim
    assert not shim or kind == shim
    assert runtimes[name]["options"].get("BinaryName", name) == name


@pytest.mark.parametrize("name", HOSTED)
def test_the_runtime_class_names_containerd_s_handler(name: str) -> None:
    (document,) = yaml.safe_load_all((FOLDER / f"{name}.runtimeclass.yaml").read_text())
    assert (document["apiVersion"], document["kind"]) == ("node.k8s.io/v1", "RuntimeClass")
    assert set(document) <= {"apiVersion", "kind", "metadata", "handler", "scheduling", "overhead"}
    assert document["handler"] in containerd(name)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", document["metadata"]["name"])
    selector = document["scheduling"]["nodeSelector"]
    assert all(LABEL.fullmatch(label) and value == "true" for label, value in selector.items())
    assert all(QUANTITY.fullmatch(value) for value in document.get("overhead", {}).get("podFixed", {}).values())


def test_a_node_s_runsc_heeds_seccomp_profiles_and_opens_no_host_sockets() -> None:
    assert containerd("runsc")["runsc"]["options"]["ConfigPath"] == "/etc/containerd/runsc.toml"
    flags = tomllib.loads((FOLDER / "runsc.shim.toml").read_text())["runsc_config"]
    assert (flags["oci-seccomp"], flags["host-uds"]) == ("true", "none")
    assert all(isinstance(value, str) for value in flags.values()), "the shim takes strings alone"


def test_a_node_s_kata_filters_in_the_guest_and_takes_nothing_from_pods() -> None:
    settings = tomllib.loads((FOLDER / "kata.shim.toml").read_text())
    assert settings["runtime"]["disable_guest_seccomp"] is False
    assert settings["hypervisor"]["qemu"]["enable_annotations"] == []
    assert containerd("kata")["kata"]["pod_annotations"] == []


def test_they_are_no_runtimes_themselves() -> None:
    assert not [name for name in PACKAGED.names(RUNTIMES) if "containerd" in name or "shim" in name]
