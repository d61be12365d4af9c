from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxbuild.errors import RegistryError
from sandboxbuild.gateway.credentials import ConfiguredCredentials, Place, find_in, places_of, read_document
from sandboxbuild.registry.auth import Credential


def auth(pair: str) -> dict[str, str]:
    return {"auth": base64.b64encode(pair.encode()).decode()}


def find(document: object, host: str, repository: str = "team/app") -> Credential | None:
    return find_in(json.loads(json.dumps(document)), "config.json", host, repository)


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("registry.example.com", "registry.example.com"),
        ("https://registry.example.com", "registry.example.com"),
        ("https://registry.example.com/v2/", "registry.example.com"),
        ("registry.example.com:5000", "registry.example.com:5000"),
        ("Registry.Example.com", "registry.example.com"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_an_entry_is_found_under_each_spelling_of_its_host(key: str, host: str) -> None:
    found = find({"auths": {key: auth("user:pass:word")}}, host)
    assert found is not None
    assert (found.username, found.password, found.origin) == ("user", "pass:word", f"config.json, entry {key}")


@pytest.mark.parametrize(
    "key",
    [
        "registry.example.com:5000",
        "example.com",
        "registry.example.com.evil.example",
        "aregistry.example.com",
        "registry.example.com/other",
    ],
)
def test_an_entry_of_another_host_port_or_path_is_not_used(key: str) -> None:
    assert find({"auths": {key: auth("a:b")}}, "registry.example.com") is None


def test_the_longest_path_wins() -> None:
    document = {
        "auths": {
            "registry.example.com": auth("host:x"),
            "registry.example.com/team": auth("team:x"),
            "registry.example.com/team/app": auth("app:x"),
        }
    }
    names = [getattr(find(document, "registry.example.com", name), "username", None) for name in ("team/app", "team/b", "c")]
    assert names == ["app", "team", "host"]


def test_tokens_are_credentials() -> None:
    document = {"auths": {"a.example.com": {"identitytoken": "idt"}, "b.example.com": {"registrytoken": "rt"}}}
    assert getattr(find(document, "a.example.com"), "identity_token", "") == "idt"
    assert getattr(find(document, "b.example.com"), "registry_token", "") == "rt"


@pytest.mark.parametrize("entry", [{}, {"auth": ""}, {"email": "x"}, None, "x", []])
def test_an_empty_entry_is_none(entry: object) -> None:
    assert find({"auths": {"a.example.com": entry}}, "a.example.com") is None


@pytest.mark.parametrize("value", ["!!!", base64.b64encode(b"nocolon").decode()])
def test_a_malformed_auth_is_an_error_that_names_the_entry_and_not_the_value(value: str) -> None:
    with pytest.raises(RegistryError, match=r"config\.json, entry a\.example\.com") as caught:
        find({"auths": {"a.example.com": {"auth": value}}}, "a.example.com")
    assert value not in caught.value.message


def helper(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_helper_is_asked_for_the_host_on_its_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, "one", 'read host; echo "{\\"Username\\":\\"u\\",\\"Secret\\":\\"$host\\"}"', monkeypatch)
    found = find({"credHelpers": {"registry.example.com": "one"}, "auths": {}}, "registry.example.com")
    assert found is not None
    assert (found.username, found.password) == ("u", "registry.example.com")
    assert found.origin == "config.json, helper docker-credential-one"


def test_the_store_is_asked_for_the_hub_by_its_old_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, "two", 'read host; echo "{\\"Username\\":\\"<token>\\",\\"Secret\\":\\"$host\\"}"', monkeypatch)
    found = find({"credsStore": "two"}, "docker.io")
    assert found is not None
    assert found.identity_token == "https://index.docker.io/v1/"


def test_a_helper_that_knows_nothing_leaves_the_entry_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, "three", "echo 'credentials not found in native keychain'; exit 1", monkeypatch)
    document = {"credsStore": "three", "auths": {"registry.example.com": auth("u:p")}}
    assert getattr(find(document, "registry.example.com"), "username", "") == "u"


@pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '[]'", "head -c 100000 /dev/zero; sleep 20"])
def test_a_helper_that_fails_is_an_error(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper(tmp_path, "four", script, monkeypatch)
    with pytest.raises(RegistryError, match="docker-credential-four"):
        find({"credsStore": "four"}, "registry.example.com")


@pytest.mark.parametrize("name", ["../x", "a b", "x;y", "/bin/sh"])
def test_a_helpers_name_is_no_path_and_no_command(name: str) -> None:
    with pytest.raises(RegistryError, match="can't be one"):
        find({"credsStore": name}, "registry.example.com")


def test_a_named_file_is_the_only_place() -> None:
    assert [place.path for place in places_of({"REGISTRY_AUTH_FILE": "/a", "HOME": "/h"})] == ["/a"]
    assert [place.path for place in places_of({"REGISTRY_AUTH_FILE": "/a"}, "/b")] == ["/b"]


def test_the_usual_places_in_order() -> None:
    places = places_of({"HOME": "/h", "XDG_RUNTIME_DIR": "/r", "DOCKER_AUTH_CONFIG": "{}"})
    assert [place.label for place in places] == [
        "DOCKER_AUTH_CONFIG",
        "/h/.docker/config.json",
        "/r/containers/auth.json",
        "/h/.config/containers/auth.json",
    ]


def test_the_first_place_that_has_it_answers(tmp_path: Path) -> None:
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {"registry.example.com": auth("file:x")}}))
    credentials = ConfiguredCredentials(
        (Place("none", str(tmp_path / "none")), Place("text", text="{}"), Place("f", str(path)))
    )
    assert getattr(credentials.find("registry.example.com", "a"), "username", "") == "file"
    assert credentials.find("other.example.com", "a") is None


def test_nothing_prints_a_secret(tmp_path: Path) -> None:
    place = Place("DOCKER_AUTH_CONFIG", text=json.dumps({"auths": {"a.example.com": auth("u:hunter2")}}))
    found = ConfiguredCredentials((place,)).find("a.example.com", "x")
    assert "hunter2" not in f"{found!r} {found} {place!r}"
    assert auth("u:hunter2")["auth"] not in f"{found!r} {place!r}"


@given(st.binary(max_size=80).map(lambda content: content.decode("latin-1")))
@settings(max_examples=100, deadline=None)
def test_any_text_is_a_document_or_an_error(text: str) -> None:
    try:
        document = read_document(Place("x", text=text))
    except RegistryError:
        return
    assert document is not None
