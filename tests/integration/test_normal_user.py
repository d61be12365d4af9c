"""Builds by a user who is not root: with subordinate ids all works, without them what can; what can't is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.builder import Builder, run_tool, wait_until
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import descendants

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
UID = 54321
HEAD = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
"""
# A private /etc/passwd, group, subuid and subgid; then the user, without any privilege.
AS_USER = """
mount --make-rprivate /
for name in passwd group subuid subgid; do mount --bind "$1/etc-$name" /etc/$name; done
shift
exec setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps=-all "$@"
"""


class UserBuilder(Builder):
    """The command, run by UID."""

    def argv(self, *arguments: str | Path) -> list[str]:
        return ["unshare", "-m", "sh", "-c", AS_USER, "sh", str(self.folder), *super().argv(*arguments)]

    def context(self, files: dict[str, str | bytes], name: str = "context") -> Path:  # type: ignore[override]
        top = super().context(files, name)
        run_tool("chown", "-R", f"{UID}:{UID}", top)
        return top


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    """The user's cache folder, so that one bundle is made for all tests."""
    folder = _folder()
    yield folder
    shutil.rmtree(folder)


def _folder() -> Path:
    """A folder of the user's, where he can reach it: pytest closes its own to all but root."""
    folder = Path(tempfile.mkdtemp(prefix="sandboxbuild-user-"))
    os.chown(folder, UID, UID)
    return folder


@pytest.fixture
def as_user(cache: Path) -> Iterator[Callable[[str], UserBuilder]]:
    """Makes a builder for a user to whom /etc/subuid and /etc/subgid give what the argument says."""
    made: list[UserBuilder] = []

    def make(subordinate: str) -> UserBuilder:
        folder = _folder()
        (folder / "etc-passwd").write_text(Path("/etc/passwd").read_text() + f"tester:x:{UID}:{UID}::{folder}:/bin/sh\n")
        (folder / "etc-group").write_text(Path("/etc/group").read_text() + f"tester:x:{UID}:\n")
        for name in ("subuid", "subgid"):
            assert os.path.exists(f"/etc/{name}"), f"there is no /etc/{name} to cover: install uidmap"
            (folder / f"etc-{name}").write_text(subordinate)
        builder = UserBuilder(folder)
        builder.environment["HOME"] = str(folder)
        builder.environment["XDG_CACHE_HOME"] = str(cache)
        made.append(builder)
        return builder

    yield make
    for builder in made:
        builder.check_nothing_is_left()
        shutil.rmtree(builder.folder)


def layer_owners(archive: Path) -> set[str]:
    """Owners of all files in all layers of an OCI archive."""
    layout = archive.with_suffix(".layout")
    run_tool("skopeo", "copy", f"oci-archive:{archive}", f"dir:{layout}")
    manifest = json.loads((layout / "manifest.json").read_text())
    listings = [
        run_tool("tar", "--numeric-owner", "-tvf", layout / layer["digest"].removeprefix("sha256:"))
        for layer in manifest["layers"]
    ]
    return {line.split()[1] for listing in listings for line in listing.splitlines()}


def test_a_user_with_subordinate_ids_builds_and_pushes_all_owners(as_user: Callable[[str], UserBuilder], registry: str) -> None:
    builder = as_user("tester:200000:65536\n")
    text = HEAD + "RUN id -u > /who; touch /a /b; chown 1000:2000 /a; chown 65535 /b\nUSER 33\nRUN [ $(id -u) = 33 ]\n"
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": text})
    out = builder.folder / "out.tar"
    builder.run("-t", f"{registry}/user/app:1", "--push", "-o", f"type=oci,dest={out}", context)
    assert layer_owners(out) == {"0/0", "1000/2000", "65535/0"}
    assert out.stat().st_uid == UID
    run_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/user/app:1")
    again = builder.run(context)
    assert again.log.count("CACHED") == 4
    assert builder("prune", "--all").status == 0
    assert [path for path in (builder.store / "layers").rglob("*") if path.is_file()] == []


def test_a_base_of_many_owners_is_unpacked_by_a_user(as_user: Callable[[str], UserBuilder], registry: str) -> None:
    builder = as_user("tester:200000:65536\n")
    first = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": HEAD + "RUN touch /a; chown 7:8 /a\n"})
    builder.run("-t", f"{registry}/user/base:1", "--push", first)
    builder("prune", "--all")
    second = builder.context({"Dockerfile": f'FROM {registry}/user/base:1\nRUN [ "$(stat -c %u:%g /a)" = 7:8 ]\n'}, "second")
    builder.run(second)


def test_a_user_without_subordinate_ids_builds_what_root_owns(as_user: Callable[[str], UserBuilder]) -> None:
    builder = as_user("somebody:200000:65536\n")
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": HEAD + "RUN id -u; touch /a; rm /bin/yes\n"})
    out = builder.folder / "out.tar"
    builder.run("-o", f"type=oci,dest={out}", context)
    assert layer_owners(out) == {"0/0"}


def test_other_owners_without_subordinate_ids_are_a_clear_error(as_user: Callable[[str], UserBuilder]) -> None:
    builder = as_user("")
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": HEAD + "COPY --chown=5:5 busybox /b\n"})
    done = builder("run", "--progress", "plain", context)
    assert done.status in (3, 6), done.log
    assert "Traceback" not in done.log
    assert "5" in done.last_error
    assert "subuid" in done.log


@pytest.mark.parametrize("subordinate", ["tester:200000:65536\n", ""], ids=["range", "single id"])
def test_a_user_builds_the_same_bytes_in_each_runtime(as_user: Callable[[str], UserBuilder], subordinate: str) -> None:
    builder = as_user(subordinate)
    owners = "touch /a; chown 7:8 /a; chown 65535 /bin/no; [ $(id -u) = 0 ]\nUSER 33\nRUN [ $(id -u) = 33 ]\n"
    text = HEAD + "RUN rm /bin/yes; mkdir -m 1777 /t; ln /bin/busybox /t/b\n" + (f"RUN {owners}" if subordinate else "")
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": text.replace("/bin/no;", "/bin/busybox;")})
    add_profile(builder, "crun")
    made = {}
    for profile, runtime in (("plain", "namespaces"), ("runc", "runc"), ("crun", "crun"), ("gvisor", "runsc")):
        runtime_or_skip(runtime)
        out = builder.folder / f"{profile}.tar"
        options = ("--no-cache", "--source-date-epoch", "1700000000", "-o", f"type=oci,dest={out}")
        builder.run("--profile", profile, *options, context)
        builder.check_nothing_is_left()
        made[profile] = out.read_bytes()
    assert {profile for profile in made if made[profile] != made["plain"]} == set()


def add_profile(builder: UserBuilder, runtime: str) -> None:
    """A profile of the user's own for a runtime that no packaged one names."""
    folder = builder.folder / "config" / "sandboxbuild" / "profiles"
    folder.mkdir(parents=True)
    text = f'[profile]\nruntime = "{runtime}"\ndescription = "of a test"\n[network]\nmode = "none"\n'
    (folder / f"{runtime}.toml").write_text(text)
    builder.environment["XDG_CONFIG_HOME"] = str(builder.folder / "config")


@pytest.mark.parametrize("profile", ["runc", "gvisor"])
def test_a_user_s_step_is_nobody_on_the_host_and_ends_with_its_launcher(
    as_user: Callable[[str], UserBuilder], profile: str
) -> None:
    runtime_or_skip({"runc": "runc", "gvisor": "runsc"}[profile])
    builder = as_user("tester:200000:65536\n")
    text = HEAD + "RUN echo begun-$((1 + 1)); sleep 7700\n"
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": text})
    with builder.popen("run", "--profile", profile, "--progress", "plain", context) as process:
        try:
            wait_until(lambda: any(b"begun-2" in line for line in process.stderr or ()), 60, what="the step")
            owned = {uid for pid in [process.pid, *descendants(process.pid)] for uid in uids_of(pid)}
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
    assert 0 not in owned
    assert owned <= {UID, *range(200000, 265536)}, owned
    assert 200000 in owned, "no process of the sandbox was seen"


def uids_of(pid: int) -> set[int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return set()  # it has ended
    return {int(field) for line in lines if line.startswith("Uid:") for field in line.split()[1:]}


def test_a_file_of_the_context_that_the_user_can_not_read_is_named(as_user: Callable[[str], UserBuilder]) -> None:
    builder = as_user("tester:200000:65536\n")
    context = builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": HEAD + "COPY private /\n", "private": "x"})
    os.chown(context / "private", 0, 0)
    (context / "private").chmod(0o600)
    done = builder.fail(3, context)
    assert "private" in done.last_error
