"""The Dockerfile is found where people expect it, and a context can't make the launcher read anything else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sandboxbuild.errors import ContextError, InputError, LimitExceeded
from sandboxbuild.launcher.settings import BuildSettings
from sandboxbuild.launcher.sources import DOCKERFILE_LIMIT_BYTES, Sources, find_sources, path_inside

SECRET = b"FROM secret"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_bytes(b"FROM scratch")
    (tmp_path / "secret").write_bytes(SECRET)
    return folder


def find(context: Path, dockerfile: str = "", stdin: bytes = b"", **fields: str) -> Sources:
    return find_sources(BuildSettings(context=str(context), dockerfile=dockerfile, **fields), io.BytesIO(stdin))  # type: ignore[arg-type]


def test_the_contexts_dockerfile_is_the_default(context: Path) -> None:
    found = find(context)
    assert (found.context, found.folder, found.dockerfile, found.dockerfile_name) == (
        "local",
        str(context),
        b"FROM scratch",
        "Dockerfile",
    )


def test_an_ignore_file_beside_the_dockerfile_goes_with_it(context: Path) -> None:
    (context / "Dockerfile.dockerignore").write_bytes(b"*.o")
    assert find(context).ignore_file == b"*.o"


def test_a_path_is_looked_up_as_given_first(context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Dockerfile").write_bytes(b"FROM here")
    monkeypatch.chdir(tmp_path)
    assert find(context, "Dockerfile").dockerfile == b"FROM here"


def test_a_path_that_is_not_here_is_looked_up_in_the_context_and_that_is_said(context: Path) -> None:
    (context / "docker").mkdir()
    (context / "docker" / "File").write_bytes(b"FROM inner")
    found = find(context, "docker/File")
    assert found.dockerfile == b"FROM inner"
    assert found.note == "using docker/File of the context"


def test_standard_input_can_be_the_dockerfile(context: Path) -> None:
    assert find(context, "-", stdin=b"FROM stdin").dockerfile == b"FROM stdin"


def test_a_dash_as_context_is_a_dockerfile_alone() -> None:
    found = find(Path("-"), stdin=b"FROM stdin")
    assert (found.context, found.folder, found.dockerfile) == ("none", "", b"FROM stdin")


def small_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("Dockerfile"))
    return stream.getvalue()


@pytest.mark.parametrize("archive", [b"\x1f\x8b\x08" + bytes(20), b"\x28\xb5\x2f\xfd" + bytes(20), small_tar()])
@pytest.mark.parametrize("context", ["-", "tar://stdin"])
def test_an_archive_on_standard_input_is_the_context(context: str, archive: bytes) -> None:
    found = find_sources(BuildSettings(context=context, dockerfile="docker/File"), io.BytesIO(archive))
    assert (found.context, found.dockerfile, found.dockerfile_name) == ("archive", None, "docker/File")
    assert found.archive is not None
    assert found.archive.first + found.archive.rest.read() == archive


def test_an_archive_may_be_a_file_of_the_operators(tmp_path: Path) -> None:
    (tmp_path / "context.tar").write_bytes(small_tar())
    assert find_sources(BuildSettings(context=f"tar://{tmp_path}/context.tar"), io.BytesIO()).context == "archive"


@pytest.mark.parametrize("name", ["Dockerfile", "absent", "."])
def test_a_file_that_is_no_archive_is_no_context(context: Path, name: str) -> None:
    with pytest.raises(ContextError):
        find_sources(BuildSettings(context=f"tar://{context}/{name}"), io.BytesIO())


def test_a_dockerfile_and_a_context_cannot_both_be_standard_input() -> None:
    with pytest.raises(ContextError, match="standard input"):
        find_sources(BuildSettings(context="-", dockerfile="-"), io.BytesIO(small_tar()))


@pytest.mark.parametrize("target", ["../secret", "/etc/hostname", "../../../../etc/hostname"])
@pytest.mark.parametrize("spelling", ["", "given"])
def test_a_link_in_the_context_leads_nowhere_outside(context: Path, target: str, spelling: str) -> None:
    (context / "Dockerfile").unlink()
    (context / "Dockerfile").symlink_to(target)
    with pytest.raises(InputError):
        find(context, str(context / "Dockerfile") if spelling else "")


def test_a_link_in_the_context_leads_nowhere_outside_by_another_spelling_of_the_context(context: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(context)
    (context / "Dockerfile").unlink()
    (context / "Dockerfile").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError):
        find(tmp_path / "alias", str(context / "Dockerfile"))


def test_a_linked_folder_in_the_context_leads_nowhere_outside(context: Path, tmp_path: Path) -> None:
    (context / "docker").symlink_to(tmp_path)
    with pytest.raises(InputError):
        find(context, str(context / "docker" / "secret"))


def test_an_ignore_file_that_is_a_link_to_outside_is_not_read(context: Path, tmp_path: Path) -> None:
    (context / "Dockerfile.dockerignore").symlink_to(tmp_path / "secret")
    assert find(context).ignore_file is None


def test_a_link_within_the_context_is_followed(context: Path) -> None:
    (context / "real").write_bytes(b"FROM real")
    (context / "Dockerfile").unlink()
    (context / "Dockerfile").symlink_to("real")
    assert find(context).dockerfile == b"FROM real"


def test_the_operators_own_link_outside_the_context_is_followed(context: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    assert find(context, str(tmp_path / "link")).dockerfile == SECRET


def test_a_fifo_in_the_context_is_refused_and_not_waited_for(context: Path) -> None:
    (context / "Dockerfile").unlink()
    os.mkfifo(context / "Dockerfile")
    with pytest.raises(InputError, match="regular"):
        find(context)


def test_a_dockerfile_without_end_is_a_limit(context: Path) -> None:
    (context / "Dockerfile").write_bytes(b"#" * (DOCKERFILE_LIMIT_BYTES + 1))
    with pytest.raises(LimitExceeded):
        find(context)
    with pytest.raises(LimitExceeded):
        find(context, "-", stdin=b"#" * (DOCKERFILE_LIMIT_BYTES + 1))


def test_a_context_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ContextError, match="not a folder"):
        find(Path("/nonexistent"))


def test_a_dockerfile_that_is_not_there_is_an_error(context: Path) -> None:
    with pytest.raises(InputError, match="neither here nor in the context"):
        find(context, "missing")


def test_a_sub_path_stays_in_the_context(context: Path, tmp_path: Path) -> None:
    (context / "sub").mkdir()
    (context / "sub" / "Dockerfile").write_bytes(b"FROM sub")
    assert find(context, context_subpath="sub").dockerfile == b"FROM sub"
    (context / "out").symlink_to(tmp_path)
    with pytest.raises(ContextError):
        find(context, context_subpath="out")


def test_named_contexts_are_folders_or_passed_on(context: Path) -> None:
    settings = BuildSettings(context=str(context), named_contexts=(("lib", str(context)), ("base", "docker-image://alpine")))
    found = find_sources(settings, io.BytesIO())
    assert found.named == (("lib", "local"), ("base", "docker-image://alpine"))
    assert found.named_folders == (("lib", str(context)),)


@pytest.mark.parametrize("name", ["../x", "", ".", "a/b", "x" * 200])
def test_a_named_folder_has_a_name_that_is_no_path(name: str, context: Path) -> None:
    with pytest.raises(ContextError):
        find_sources(BuildSettings(context=str(context), named_contexts=((name, str(context)),)), io.BytesIO())


def test_inside_is_by_spelling_or_by_real_parent(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert path_inside(f"{folder}/a/b", folder) == "a/b"
    assert path_inside(f"{folder}/a/../../b", folder) is None
    assert path_inside(f"{folder}-other/b", folder) is None
