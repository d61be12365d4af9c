"""Flags come to the build that people mean by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sandboxbuild.cli import arguments
from sandboxbuild.cli.options import RUN_FLAGS, Kind
from sandboxbuild.cli.settings import build_settings
from sandboxbuild.errors import UsageError
from sandboxbuild.launcher.settings import BuildSettings, OutputSpec, SecretSource


def settings(path: str | None = None, environ: dict[str, str] | None = None, **given: Any) -> BuildSettings:
    values: dict[str, Any] = {flag.parameter: () if flag.kind is Kind.LIST else None for flag in RUN_FLAGS}
    assert given.keys() <= values.keys()
    return build_settings(path, values | given, environ or {})


def test_a_tag_names_and_a_destination_pushes_too() -> None:
    built = settings(tag=("a",), destination=("b",))
    assert (built.tags, built.pushes, built.push_tags) == (("a",), ("b",), False)


def test_push_pushes_the_tags() -> None:
    assert settings(tag=("a",), push=True).push_tags


def test_no_push_turns_destinations_into_names() -> None:
    built = settings(tag=("a",), destination=("b",), push=False)
    assert (built.tags, built.pushes, built.push_tags) == (("a", "b"), (), False)


def test_push_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="name"):
        settings(push=True)


def test_a_registry_output_pushes_its_names_or_the_tags() -> None:
    assert settings(output=("type=registry,name=b",)).pushes == ("b",)
    assert settings(tag=("a",), output=("type=registry",)).push_tags
    assert settings(output=("type=image,name=b,push=true",)).pushes == ("b",)
    assert settings(output=("type=image,name=b",)).tags == ("b",)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("type=oci,dest=x.tar", OutputSpec("oci", "x.tar", as_tar=True)),
        ("type=oci,dest=x", OutputSpec("oci", "x", as_tar=True)),
        ("type=oci,dest=x/", OutputSpec("oci", "x/", as_tar=False)),
        ("type=oci,tar=false,dest=x", OutputSpec("oci", "x", as_tar=False)),
        ("type=oci,dest=-", OutputSpec("oci", "-", as_tar=True)),
        ("type=docker,dest=x", OutputSpec("docker", "x", as_tar=True)),
        ("type=rootfs,dest=x", OutputSpec("rootfs", "x", as_tar=False)),
        ("type=rootfs,dest=x.tar", OutputSpec("rootfs", "x.tar", as_tar=True)),
        ("type=local,dest=x.tar", OutputSpec("rootfs", "x.tar", as_tar=False)),
        ("type=tar,dest=x", OutputSpec("rootfs", "x", as_tar=True)),
        ("folder", OutputSpec("rootfs", "folder", as_tar=False)),
        ("-", OutputSpec("rootfs", "-", as_tar=True)),
        ('type=oci,"dest=a,b.tar"', OutputSpec("oci", "a,b.tar", as_tar=True)),
        ("type=oci,dest=x,oci-mediatypes=true", OutputSpec("oci", "x", as_tar=True)),
    ],
)
def test_an_output_is(text: str, spec: OutputSpec) -> None:
    assert arguments.parse_output(text).spec == spec


def test_an_oci_layout_goes_into_a_folder_that_is_there(tmp_path: Path) -> None:
    assert settings(output=(f"type=oci,dest={tmp_path}",)).outputs == (OutputSpec("oci", str(tmp_path), as_tar=False),)


@pytest.mark.parametrize(
    "text",
    [
        "type=oci",
        "type=zip,dest=x",
        "dest=x",
        "type=registry,dest=x",
        "type=docker,tar=false,dest=x",
        "type=local,dest=-",
        "type=oci,dest=a,dest=b",
        "type=oci,dest=a,push-by-digest=true",
        "type=oci,dest=a,tar=perhaps",
        'type=oci,"dest=a',
    ],
)
def test_no_output_is(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.parse_output(text)


def test_kanikos_outputs_are_ours() -> None:
    assert settings(tar_path="x.tar", oci_layout_path="y").outputs == (
        OutputSpec("docker", "x.tar", as_tar=True),
        OutputSpec("oci", "y", as_tar=False),
    )


def test_a_build_arg_without_a_value_is_the_environments_or_absent() -> None:
    built = settings(build_arg=("A=1=2", "B", "C", "A=3"), environ={"B": "b"})
    assert built.build_args == (("A", "3"), ("B", "b"))


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("id=a,src=f", SecretSource("a", "f", "")),
        ("id=a,source=f,type=file", SecretSource("a", "f", "")),
        ("id=a,env=E", SecretSource("a", "", "E")),
        ("id=a", SecretSource("a", "", "a")),
        ("id=b", SecretSource("b", "b", "")),
        ("type=env,id=a,src=E", SecretSource("a", "", "E")),
    ],
)
def test_a_secret_is(text: str, secret: SecretSource) -> None:
    assert arguments.parse_secret(text, {"a": "", "E": ""}) == secret


@pytest.mark.parametrize("text", ["src=f", "id=a,src=f,env=E", "id=a,type=vault", "id=a,x=y", "a", "id=a,env=UNSET"])
def test_no_secret_is(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.parse_secret(text, {"E": ""})


def test_an_error_about_a_secret_does_not_repeat_it() -> None:
    with pytest.raises(UsageError) as caught:
        arguments.parse_secret("id=a,value=hunter2", {})
    assert "hunter2" not in str(caught.value)


def test_hosts_may_be_split_by_commas_and_have_ipv6_addresses() -> None:
    built = settings(add_host=("a:10.0.0.1,b=10.0.0.2", "c:[::1]"))
    assert built.add_hosts == (("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "::1"))


@pytest.mark.parametrize("text", ["a", "a:host", ":10.0.0.1", "a b:10.0.0.1", "a\n:10.0.0.1"])
def test_no_host_is(text: str) -> None:
    with pytest.raises(UsageError):
        arguments.parse_hosts([text])


def test_limits_have_a_soft_and_a_hard_value() -> None:
    assert arguments.parse_ulimits(["nofile=1024:2048", "core=0", "stack=-1"]) == (
        ("nofile", 1024, 2048),
        ("core", 0, 0),
        ("stack", -1, -1),
    )
    for text in ("nofile", "nofile=x", "none=1", "nofile=-2"):
        with pytest.raises(UsageError):
            arguments.parse_ulimits([text])


def test_registry_maps_are_kanikos() -> None:
    assert settings(registry_map=("a=b;c=d", "a=e")).registries.maps == (("a", "b"), ("c", "d"), ("a", "e"))


def test_name_servers_are_addresses_with_port_53_unless_said() -> None:
    servers = settings(dns=("192.0.2.53", "127.0.0.1:5353", "2001:db8::53", "[2001:db8::53]:54")).registries.name_servers
    assert servers == (("192.0.2.53", 53), ("127.0.0.1", 5353), ("2001:db8::53", 53), ("2001:db8::53", 54))


@pytest.mark.parametrize("text", ["dns.example.com", "192.0.2.53:0", "192.0.2.53:x", "192.0.2.53:70000", "", ":53", "1.2.3"])
def test_no_name_server_is(text: str) -> None:
    with pytest.raises(UsageError, match="--dns"):
        settings(dns=(text,))


def test_token_servers_and_client_certificates_are_a_registrys() -> None:
    given = settings(
        registry_auth_realm=("Registry.example.com:5000=auth.example.com", "a.example.com=b.example.com:8443"),
        registry_client_cert=("registry.example.com=/c.pem,/k.pem",),
        registry_timeout="5s",
    ).registries
    assert given.realms == (("registry.example.com:5000", "auth.example.com"), ("a.example.com", "b.example.com:8443"))
    assert given.client_certificates == (("registry.example.com", "/c.pem", "/k.pem"),)
    assert given.timeout_s == 5


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("registry_auth_realm", "registry.example.com"),
        ("registry_auth_realm", "registry.example.com=https://auth.example.com/token"),
        ("registry_client_cert", "registry.example.com=/c.pem"),
        ("registry_client_cert", "/c.pem,/k.pem"),
    ],
)
def test_no_registry_setting_is(flag: str, text: str) -> None:
    with pytest.raises(UsageError, match=flag.replace("_", "-")):
        settings(**{flag: (text,)})


@pytest.mark.parametrize("text", ["0", "0s", "2h", "soon", "-1s"])
def test_a_timeout_of_registries_is_one_that_can_be_waited(text: str) -> None:
    with pytest.raises(UsageError, match="--registry-timeout"):
        settings(registry_timeout=text)


def test_the_context_is_given_once() -> None:
    assert settings("x").context == "x"
    assert settings(context="dir:///w/x").context == "/w/x"
    assert settings().context == "."
    with pytest.raises(UsageError, match="twice"):
        settings("x", context="y")


def test_platforms_are_normalised_and_come_from_docker_too() -> None:
    assert settings(platform=("linux/x86_64,linux/aarch64",)).platforms == ("linux/amd64", "linux/arm64")
    assert settings(environ={"DOCKER_DEFAULT_PLATFORM": "linux/arm/v7"}).platforms == ("linux/arm/v7",)


def test_the_epoch_is_the_flag_or_the_environment_or_zero_if_reproducible() -> None:
    assert settings(source_date_epoch="12").source_date_epoch == 12
    assert settings(environ={"SOURCE_DATE_EPOCH": "13"}).source_date_epoch == 13
    assert settings(reproducible=True).source_date_epoch == 0
    assert settings().source_date_epoch is None
    with pytest.raises(UsageError):
        settings(source_date_epoch="now")


def test_sizes_and_times_name_their_flag_when_wrong() -> None:
    assert settings(shm_size="1g", timeout="1h").shm_size_bytes == 1 << 30
    with pytest.raises(UsageError, match="--shm-size"):
        settings(shm_size="much")
    with pytest.raises(UsageError, match="--timeout"):
        settings(timeout="soon")


@pytest.mark.parametrize(("word", "pull"), [(None, False), ("true", True), ("always", True), ("missing", False)])
def test_pull_takes_buildahs_words(word: str | None, pull: bool) -> None:
    assert settings(pull=word).pull is pull


def test_pull_never_is_refused_and_not_ignored() -> None:
    with pytest.raises(UsageError):
        settings(pull="never")


def test_tls_verify_false_is_for_pulls_and_pushes() -> None:
    registries = settings(tls_verify=False).registries
    assert registries.unverified_pull
    assert registries.unverified_push
    assert not settings(tls_verify=True).registries.unverified_pull


def test_a_secrets_file_is_looked_for_before_the_build(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("x")
    assert settings(secret=(f"id=a,src={tmp_path / 's'}",)).secrets == (SecretSource("a", str(tmp_path / "s")),)
    with pytest.raises(UsageError, match="can't be read"):
        settings(secret=(f"id=a,src={tmp_path / 'missing'}",))


def test_annotations_are_the_manifests() -> None:
    assert settings(annotation=("a=b", "manifest:c=d")).annotations == (("a", "b"), ("c", "d"))
    with pytest.raises(UsageError, match="only a manifest"):
        settings(annotation=("index:a=b",))
