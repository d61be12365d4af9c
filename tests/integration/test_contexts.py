"""Contexts that are no folders, named ones, ADD of repositories, and ssh agents: with git's and ssh's own programs."""

from __future__ import annotations

import http.server
import re
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.support.builder import Builder, run_tool
from tests.support.githttp import GitServer, commit, git, git_server, repository
from tests.support.images import busybox_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

TOKEN = "canary-token-8f3a"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[GitServer]:
    with git_server(tmp_path / "repositories") as server:
        yield server


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """http://HOST:PORT of a server of files."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def built(builder: Builder, *arguments: str | Path) -> Path:
    """Run a build and give its root filesystem."""
    target = builder.folder / "rootfs"
    shutil.rmtree(target, ignore_errors=True)
    builder.run("-o", f"type=local,dest={target}", *arguments)
    return target


def packed(folder: Path, target: Path) -> Path:
    mode = {".gz": "w:gz", ".xz": "w:xz"}.get(target.suffix, "w")
    with tarfile.open(target, mode) as archive:  # type: ignore[call-overload]  # a mode that tarfile knows
        archive.add(folder, arcname=".")
    return target


FILES = {
    "Dockerfile": "FROM scratch\nCOPY . /all\n",
    "inner/Dockerfile": "FROM scratch\nCOPY f /f\n",
    "inner/f": "inner\n",
    "ignored.o": "x",
    ".dockerignore": "*.o\n",
}


@pytest.mark.parametrize("name", ["c.tar", "c.tar.gz", "c.tar.xz"])
def test_an_archive_is_a_context_with_its_ignore_file(builder: Builder, name: str) -> None:
    archive = packed(builder.context(FILES), builder.folder / name)
    root = built(builder, f"tar://{archive}")
    assert (root / "all/inner/f").read_text() == "inner\n"
    assert not (root / "all/ignored.o").exists()
    root = built(builder, "--context-sub-path", "inner", f"tar://{archive}")
    assert [path.name for path in root.iterdir()] == ["f"]


@pytest.mark.parametrize(("dockerfile", "status"), [("Dockerfile", 0), ("inner/Dockerfile", 3)])
def test_an_archive_comes_on_standard_input(builder: Builder, dockerfile: str, status: int) -> None:
    """The inner Dockerfile copies what only the inner folder has, and the context is all of the archive."""
    archive = packed(builder.context(FILES), builder.folder / "c.tar.gz")
    with archive.open("rb") as stream:
        argv = builder.argv("run", "--progress", "plain", "-f", dockerfile, "-")
        done = subprocess.run(argv, stdin=stream, capture_output=True, check=False, text=True)
    assert done.returncode == status, done.stderr


def test_a_url_gives_an_archive_or_a_dockerfile(builder: Builder) -> None:
    context = builder.context(FILES)
    packed(context, builder.folder / "c.tar.gz")
    (context / "alone").write_text("FROM scratch\nCOPY Dockerfile /here\n")
    with web_server(builder.folder) as address:
        assert (built(builder, f"{address}/c.tar.gz") / "all/inner/f").exists()
        assert (built(builder, f"{address}/context/alone") / "here").read_text().startswith("FROM scratch")
        assert "404" in builder.fail(3, f"{address}/absent").last_error


def test_an_address_beside_the_context_that_was_named_is_refused(builder: Builder) -> None:
    with web_server(builder.folder) as address:
        packed(builder.context({"Dockerfile": f"FROM scratch\nADD {address}/secret /s\n"}), builder.folder / "c.tar")
        (builder.folder / "secret").write_text("s")
        done = builder.fail(4, f"{address}/c.tar")
    assert "127.0.0.1" in done.last_error


def test_a_repository_is_a_context(builder: Builder, served: GitServer) -> None:
    work = repository(served.root / "app", {**FILES, "run*": "#!/bin/sh\n", "link -> inner/f": ""})
    first = git(work, "rev-parse", "HEAD")
    git(work, "tag", "-a", "v1", "-m", "one")
    commit(work, {"inner/f": "second\n"})
    root = built(builder, served.url("app"))
    assert (root / "all/inner/f").read_text() == "second\n"
    assert (root / "all/run").stat().st_mode & 0o777 == 0o755
    assert (root / "all/link").readlink() == Path("inner/f")
    assert not (root / "all/.git").exists()
    for reference in ("v1", first):
        assert (built(builder, f"{served.url('app')}#{reference}:inner") / "f").read_text() == "inner\n"


def test_kanikos_spelling_of_a_repository_works(builder: Builder, served: GitServer) -> None:
    work = repository(served.root / "app", FILES)
    first = git(work, "rev-parse", "HEAD")
    commit(work, {"inner/f": "second\n"})
    builder.environment["GIT_PULL_METHOD"] = "http"
    url = f"{served.url('app').replace('http://', 'git://')}#refs/heads/main#{first}"
    root = built(builder, "--context", url, "--context-sub-path", "inner")
    assert (root / "f").read_text() == "inner\n"


@pytest.mark.parametrize("place", ["..", "../..", "inner/../../..", "out", "absent", "inner/f"])
def test_a_sub_directory_never_leaves_the_repository(builder: Builder, served: GitServer, place: str) -> None:
    repository(served.root / "app", {**FILES, "out -> /etc": "", "up -> ../../..": ""})
    builder.fail(3, f"{served.url('app')}#main:{place}")


def test_a_link_at_the_dockerfile_leads_nowhere_outside(builder: Builder, served: GitServer) -> None:
    repository(served.root / "app", {"Dockerfile -> /etc/passwd": "", "x": "y"})
    assert "no Dockerfile" in builder.fail(3, served.url("app")).last_error


def test_a_private_repository_needs_its_token_which_goes_nowhere_else(builder: Builder, tmp_path: Path) -> None:
    with git_server(tmp_path / "private", TOKEN) as server:
        repository(server.root / "app", FILES)
        repository(server.root / "other", FILES)
        assert "GIT_AUTH_TOKEN" in builder.fail(3, server.url("app")).log
        (tmp_path / "token").write_text(TOKEN + "\n")
        secret = f"id=GIT_AUTH_TOKEN,src={tmp_path / 'token'}"
        done = builder.run("--secret", secret, "-o", f"type=oci,dest={builder.folder / 'image.tar'}", server.url("app"))
        commit(server.root / "app", {"Dockerfile": f"FROM scratch\nADD {server.url('other')} /o\n"})
        refused = builder.fail(4, "--secret", secret, server.url("app"))
    assert TOKEN not in done.log + refused.log
    assert_nowhere(builder.store, TOKEN)


def test_a_login_in_the_contexts_url_enters_no_output(builder: Builder, tmp_path: Path) -> None:
    """CVE-2023-26054: BuildKit wrote it into the provenance."""
    with git_server(tmp_path / "private", TOKEN) as server:
        repository(server.root / "app", FILES)
        url = server.url("app").replace("http://", f"http://user:{TOKEN}@")
        outputs = builder.folder / "outputs"
        outputs.mkdir()
        reports = ("--metadata-file", outputs / "metadata.json", "--audit-log", outputs / "audit")
        done = builder.run(
            *reports, "-o", f"type=oci,dest={outputs / 'image'}", "--build-arg=BUILDKIT_CONTEXT_KEEP_GIT_DIR=1", url
        )
        other = builder.fail(3, url.replace("app", "absent"))
    assert TOKEN not in done.log + other.log
    assert_nowhere(outputs, TOKEN)
    assert_nowhere(builder.store, TOKEN)


def assert_nowhere(folder: Path, text: str) -> None:
    found = subprocess.run(["grep", "-rl", text, str(folder)], capture_output=True, text=True, check=False).stdout
    assert not found


def test_add_of_a_repository_keeps_a_git_folder_that_git_believes(builder: Builder, served: GitServer) -> None:
    work = repository(served.root / "app", {f"d{number % 7}/f{number}": f"{number}\n" * number for number in range(60)})
    head = git(work, "rev-parse", "HEAD")
    url = served.url("app")
    lines = f"FROM scratch\nADD --keep-git-dir=true {url}#main /src\nADD --checksum={head} {url} /bare\n"
    root = built(builder, "--insecure-registry", served.host, builder.context({"Dockerfile": lines}))
    assert git(root / "src", "rev-parse", "HEAD") == head
    assert git(root / "src", "status", "--porcelain") == ""
    assert git(root / "src", "fsck", "--strict") == ""
    assert not (root / "bare/.git").exists()
    assert git(root / "src", "diff", "--no-index", "--stat", "d1", str(root / "bare/d1")) == ""


def test_another_commit_than_the_checksums_is_refused(builder: Builder, served: GitServer) -> None:
    work = repository(served.root / "app", FILES)
    first = git(work, "rev-parse", "HEAD")
    commit(work, {"inner/f": "second\n"})
    lines = f"FROM scratch\nADD --checksum={first} {served.url('app')}#main /src\n"
    done = builder.fail(3, "--insecure-registry", served.host, builder.context({"Dockerfile": lines}))
    assert first in done.last_error


def with_submodule(work: Path, url: str, inner: Path, path: str = "sub", *settings: str) -> None:
    """Commit `inner` as a submodule of `work`, with `url` in .gitmodules whatever it was cloned from."""
    git(work, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner), path)
    git(work, "config", "-f", ".gitmodules", f"submodule.{path}.url", url)
    for setting in settings:
        git(work, "config", "-f", ".gitmodules", f"submodule.{path}.{setting.partition('=')[0]}", setting.partition("=")[2])
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "with a submodule")


def test_submodules_are_fetched_with_their_own(builder: Builder, served: GitServer) -> None:
    deepest = repository(served.root / "deepest", {"d": "deepest\n"})
    inner = repository(served.root / "inner", {"i": "inner\n"})
    with_submodule(inner, "../../deepest/.git", deepest, "more/deep")
    pinned = git(inner, "rev-parse", "HEAD")
    work = repository(served.root / "app", FILES)
    with_submodule(work, served.url("inner"), inner, "lib/sub")
    commit(inner, {"i": "later\n"})
    target = builder.folder / "rootfs"
    lines = f"FROM scratch\nADD --keep-git-dir {served.url('app')}#main /src\nADD {served.url('app')}?submodules=false /bare\n"
    context = builder.context({"Dockerfile": lines})
    builder.run("--insecure-registry", served.host, "-o", f"type=local,dest={target}", context)
    assert (target / "src/lib/sub/i").read_text() == "inner\n"
    assert (target / "src/lib/sub/more/deep/d").read_text() == "deepest\n"
    assert list((target / "bare/lib/sub").iterdir()) == []
    assert pinned in git(target / "src", "ls-files", "--stage", "lib/sub")
    assert git(target / "src", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("../../../../etc", "leads out of its server"),
        ("git@example.com:a/b.git", "not supported"),
        ("--upload-pack=touch", "not supported"),
        ("", "has no URL"),
    ],
)
def test_a_submodule_that_cant_be_fetched_is_an_error(url: str, said: str, builder: Builder, served: GitServer) -> None:
    inner = repository(served.root / "inner", FILES)
    work = repository(served.root / "app", FILES)
    with_submodule(work, url, inner)
    done = builder.fail(3, served.url("app"))
    assert said in done.last_error


def test_a_submodule_that_is_not_to_be_updated_stays_empty_and_that_is_said(builder: Builder, served: GitServer) -> None:
    work = repository(served.root / "app", FILES)
    with_submodule(work, "../nowhere", repository(served.root / "inner", FILES), "sub", "update=none")
    target = builder.folder / "rootfs"
    done = builder.run("-o", f"type=local,dest={target}", served.url("app"))
    assert list((target / "all/sub").iterdir()) == []
    assert "submodules that are not fetched: sub" in done.log


def test_named_contexts_are_folders_archives_repositories_and_images(builder: Builder, served: GitServer) -> None:
    repository(served.root / "app", {"g": "from git\n"})
    files = builder.context({"x": "from a folder\n"}, "files")
    packed(builder.context({"w": "from the web\n"}, "web"), builder.folder / "w.tar.gz")
    lines = (
        "FROM base AS a\nRUN --mount=type=bind,from=app,target=/mnt cp /mnt/g /ran\n"
        "FROM scratch\nCOPY --from=files x /x\nCOPY --from=app g /g\nCOPY --from=web w /w\n"
        "COPY --from=a /ran /ran\nCOPY --from=base /etc/passwd /passwd\n"
    )
    with web_server(builder.folder) as address:
        root = built(
            builder,
            f"--build-context=files={files}",
            f"--build-context=app={served.url('app')}#main",
            f"--build-context=web={address}/w.tar.gz",
            f"--build-context=base=oci-layout://{busybox_layout()}:latest",
            builder.context({"Dockerfile": lines}),
        )
    found = {path.name: path.read_text() for path in root.iterdir()}
    assert found.pop("passwd").startswith("root:")
    assert found == {"x": "from a folder\n", "g": "from git\n", "w": "from the web\n", "ran": "from git\n"}


def test_a_layouts_image_takes_the_place_of_a_reference(builder: Builder) -> None:
    lines = "FROM registry.example.com/base:1\nRUN echo ran > /ran\n"
    layout = f"--build-context=registry.example.com/base:1=oci-layout://{busybox_layout()}"
    assert (built(builder, layout, builder.context({"Dockerfile": lines})) / "ran").read_text() == "ran\n"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of a real ssh-agent with one key, whose comment is canary-key."""
    key, socket = tmp_path / "key", tmp_path / "agent.sock"
    run_tool("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "canary-key", "-f", key)
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL) as process:
        while not socket.exists():
            pass
        run_tool("ssh-add", "-q", key, env={"SSH_AUTH_SOCK": str(socket)})
        yield socket
        process.terminate()


def with_ssh_add(builder: Builder, lines: str) -> Path:
    """A context whose folder `tools` holds ssh-add and what it is linked with."""
    program = shutil.which("ssh-add") or ""
    linked = re.findall(r"(/\S+) \(0x", run_tool("ldd", program))
    return builder.context({"Dockerfile": lines, **{f"tools{path}": Path(path).read_bytes() for path in [program, *linked]}})


SSH_LINES = """FROM base
COPY tools /
RUN chmod -R 755 /usr /lib*
RUN --mount=type=ssh ssh-add -l > /first; echo $SSH_AUTH_SOCK > /where; stat -c %a:%u $SSH_AUTH_SOCK >> /where
RUN ssh-add -l > /second 2>&1; test -e "$(head -1 /where)" && echo there > /left; true
RUN --mount=type=ssh,uid=1000,mode=0600,target=/agent ssh-add -D > /third 2>&1; ssh-add -l >> /third
"""


def test_an_agent_is_there_for_the_run_that_names_it_and_for_no_other(builder: Builder, agent: Path) -> None:
    base = f"--build-context=base=oci-layout://{busybox_layout()}"
    root = built(builder, "--ssh", f"default={agent}", base, with_ssh_add(builder, SSH_LINES))
    assert "canary-key" in (root / "first").read_text()
    assert (root / "where").read_text() == "/run/buildkit/ssh_agent.0\n600:0\n"
    assert "canary-key" not in (root / "second").read_text()
    assert not (root / "left").exists()
    assert not (root / "run").exists() or not list((root / "run").rglob("*agent*"))
    assert "canary-key" in run_tool("ssh-add", "-l", env={"SSH_AUTH_SOCK": str(agent)})
    assert "canary-key" in (root / "third").read_text()  # the step asked for its removal in vain


def test_a_key_file_is_served_by_an_agent_of_the_builds_time(builder: Builder, agent: Path) -> None:
    base = f"--build-context=base=oci-layout://{busybox_layout()}"
    lines = "FROM base\nCOPY tools /\nRUN chmod -R 755 /usr /lib*\nRUN --mount=type=ssh,id=k,required ssh-add -l > /first\n"
    root = built(builder, "--ssh", f"k={agent.parent / 'key'}", base, with_ssh_add(builder, lines))
    assert "canary-key" in (root / "first").read_text()


def test_a_required_agent_that_was_not_given_is_an_error(builder: Builder) -> None:
    base = f"--build-context=base=oci-layout://{busybox_layout()}"
    lines = "FROM base\nRUN --mount=type=ssh,required true\n"
    assert "--ssh default" in builder.fail(3, base, builder.context({"Dockerfile": lines})).log
