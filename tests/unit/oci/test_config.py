"""Image configs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import RegistryError
from sandboxbuild.oci.config import Healthcheck, History, ImageConfig, decode_config, encode_config

DIFF_ID = "sha256:" + "2" * 64


def decoded(**fields: Any) -> ImageConfig:
    return decode_config(json.dumps(fields).encode())


def inner(**fields: Any) -> ImageConfig:
    return decoded(config=fields)


def test_full_config_reads_back() -> None:
    config = ImageConfig(
        os="linux",
        architecture="arm",
        variant="v7",
        author="somebody",
        created="2020-01-01T00:00:00Z",
        env=(("PATH", "/bin"), ("A", "x=y"), ("EMPTY", "")),
        cmd=("sh", "-c", "é"),
        entrypoint=(),
        working_dir="/w",
        user="1:1",
        exposed_ports=("443/tcp", "80/tcp"),
        volumes=("/data",),
        labels=(("a", ""), ("b", "c")),
        healthcheck=Healthcheck(("CMD", "true"), 1, 2, 3, 4, 5),
        onbuild=("RUN x",),
        stop_signal="SIGTERM",
        shell=("/bin/bash", "-c"),
        args_escaped=True,
        diff_ids=(DIFF_ID,),
        history=(History("a", "2020-01-01T00:00:00Z", "c", "d", True), History()),
        extra={"docker_version": "1"},
        inner_extra={"Hostname": "h"},
    )
    assert decode_config(encode_config(config)) == config


def test_nulls_and_absent_fields_are_the_same() -> None:
    empty = decoded(config=None, rootfs=None, history=None, author=None)
    assert empty == decoded() == ImageConfig()
    assert inner(Env=None, Cmd=None, Labels=None, ExposedPorts=None, Healthcheck=None, OnBuild=None) == empty


def test_empty_command_is_not_an_absent_one() -> None:
    assert (inner(Cmd=[]).cmd, inner(Cmd=None).cmd) == ((), None)
    assert b'"Cmd":[]' in encode_config(ImageConfig(cmd=()))
    assert b"Cmd" not in encode_config(ImageConfig())


def test_lone_command_is_a_list_of_one() -> None:
    assert inner(Cmd="top", Entrypoint="/init").cmd == ("top",)


def test_variable_without_equals_sign_is_empty() -> None:
    assert inner(Env=["A", "B=1"]).env == (("A", ""), ("B", "1"))


def test_last_of_equal_variables_wins_in_the_first_place() -> None:
    assert inner(Env=["A=1", "B=2", "A=3"]).env == (("A", "3"), ("B", "2"))


def test_variable_without_name_is_dropped() -> None:
    assert inner(Env=["=x", ""]).env == ()


def test_unset_fields_are_left_out() -> None:
    assert json.loads(encode_config(ImageConfig())) == {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"config": []},
        {"config": {"Env": "A=1"}},
        {"config": {"Env": [1]}},
        {"config": {"Cmd": [["sh"]]}},
        {"config": {"Cmd": 1}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"Labels": ["a"]}},
        {"config": {"ExposedPorts": {"80": "x"}}},
        {"config": {"Healthcheck": {"Interval": "1s"}}},
        {"config": {"Healthcheck": {"Interval": -1}}},
        {"config": {"env": ["A=1"]}},
        {"Config": {}},
        {"rootfs": {"type": "other"}},
        {"rootfs": {"diff_ids": ["sha256:x"]}},
        {"rootfs": {"diff_ids": [DIFF_ID] * 1025}},
        {"history": [[]]},
        {"history": [{"empty_layer": "yes"}]},
        {"os": 1},
    ],
)
def test_malformed_config_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RegistryError):
        decoded(**fields)


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(["Env", "Cmd", "Labels", "User", "Volumes", "OnBuild", "Other"]),
        st.none()
        | st.text("aé=\0\\/ \u2028", max_size=3)
        | st.lists(st.text("aé=\0\\/ \u2028", max_size=3), max_size=2)
        | st.dictionaries(st.text("aé=\0\\/ \u2028", max_size=2), st.none()),
    )
)
def test_any_inner_config_is_refused_or_stable(fields: dict[str, Any]) -> None:
    try:
        config = inner(**fields)
    except RegistryError:
        return
    assert decode_config(encode_config(config)) == config
