"""Small inputs on which another daemonless builder gives a wrong image or a wrong ending, and what is right for each.

Numbers are those of the list that the inputs come from; 19 concerns gVisor and stands with that runtime's tests.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.builder import Builder, Done, run_tool
from tests.support.built import Built, member, read_image, write_layout
from tests.support.images import busybox_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

CANARY = "canary-71c4e0d9"
Build = Callable[..., Built]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry with the images busybox:1, opaque:1 and nodes:1."""
    from tests.integration.registry_fixtures import running_registry

    folder = tmp_path_factory.mktemp("registry")
    plain = busybox_layout()
    opaque = [[member("opt/low/file", b"low")], [member("opt/low/.wh..wh..opq")]]
    nodes = [[member("pipe", kind=tarfile.FIFOTYPE), member("full", kind=tarfile.CHRTYPE, mode=0o666)]]
    layouts = {
        "busybox": plain,
        "opaque": write_layout(folder / "opaque", opaque, plain),
        "nodes": write_layout(folder / "nodes", nodes, plain),
    }
    with running_registry(folder) as running:
        for name, layout in layouts.items():
            target = f"docker://{running.host}/{name}:1"
            run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:latest", target)
        yield running.host


@pytest.fixture
def build(builder: Builder, host: str) -> Build:
    """build(text, files, *flags, base=...): FROM the base and `text`, which must succeed; gives the image."""

    def run(text: str, files: Mapping[str, str | bytes] | None = None, *flags: str | Path, base: str = "busybox") -> Built:
        context = write(builder, host, text, files or {}, base)
        layout = builder.folder / f"out-{len(list(builder.folder.glob('out-*')))}"
        builder.run("-o", f"type=oci,tar=false,dest={layout}", *flags, context)
        return read_image(layout)

    return run


def write(builder: Builder, host: str, text: str, files: Mapping[str, str | bytes], base: str = "busybox") -> Path:
    """The context of a build FROM `base`. `B` in FROM is the base's name."""
    head = "" if "FROM B" in text else "FROM B\n"
    return builder.context({**files, "Dockerfile": (head + text).replace("FROM B", f"FROM {host}/{base}:1")})


@contextlib.contextmanager
def serving(content: dict[str, bytes]) -> Iterator[str]:
    """host:port of a web server for `content`, which may be changed while it runs."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None: ...

        def do_GET(self) -> None:
            body = content[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("mark", ["EOF", "'EOF'"], ids=["1-plain", "2-quoted"])
def test_01_02_a_heredoc_of_run_is_run(build: Build, mark: str) -> None:
    built = build(f"RUN <<{mark}\necho first > /made\necho $((1 + 1)) >> /made\nEOF\n")
    assert built.tree()["made"].text == "first\n2\n"


def test_03_a_heredoc_of_copy_is_a_file(build: Build) -> None:
    assert build("ARG who=you\nCOPY <<EOF /letter\nto $who\nEOF\n").tree()["letter"].text == "to you\n"


def test_04_copy_excludes_and_keeps_parents(build: Build) -> None:
    tree = build("COPY --exclude=*.txt --parents d/ /p/\n", {"d/a.txt": "a", "d/b.bin": "b"}).tree()
    assert [name for name in tree if name.startswith("p/")] == ["p/d", "p/d/b.bin"]


def test_05_dockerignore_with_two_stars_holds_at_each_depth(build: Build) -> None:
    files = {"x/f": "", "a/x/f": "", "a/b/x/sub/g": "", "keep/f": "", "a/b/keep": "", ".dockerignore": "**/x\n"}
    tree = build("COPY . /c/\n", files).tree()
    assert {"c/keep/f", "c/a/b/keep"} <= tree.keys()
    assert not [name for name in tree if name.startswith("c/") and "/x" in name]


def test_06_what_is_copied_belongs_to_root(build: Build, builder: Builder) -> None:
    builder.context({"f": "x"})
    os.chown(builder.folder / "context" / "f", 1234, 1234)
    tree = build("USER 1000\nCOPY f /f\n", {}).tree()
    assert (tree["f"].uid, tree["f"].gid) == (0, 0)


def test_07_a_link_below_the_target_is_replaced_not_followed(build: Build) -> None:
    tree = build("RUN mkdir /d; echo old > /t; ln -s /t /d/f\nCOPY f /d/\n", {"f": "new"}).tree()
    assert (tree["d/f"].kind, tree["d/f"].text, tree["t"].text) == ("file", "new", "old\n")


def test_07_a_link_named_as_the_target_is_followed(build: Build) -> None:
    tree = build("RUN echo old > /t; ln -s /t /l\nCOPY f /l\n", {"f": "new"}).tree()
    assert (tree["l"].kind, tree["t"].text) == ("link", "new")


def test_08_a_hard_link_that_is_overwritten_leaves_the_other_name(build: Build) -> None:
    tree = build("RUN echo old > /h1; ln /h1 /h2\nCOPY f /h2\n", {"f": "new"}).tree()
    assert (tree["h1"].text, tree["h2"].text) == ("old\n", "new")


def test_09_a_folder_that_is_there_keeps_its_mode(build: Build, builder: Builder) -> None:
    builder.context({"dd/sub/f": "x"})
    (builder.folder / "context" / "dd" / "sub").chmod(0o711)
    tree = build("RUN mkdir -m 700 /k; mkdir -m 700 /k/sub\nCOPY dd /k\n").tree()
    assert (tree["k"].mode, tree["k/sub"].mode) == (0o700, 0o711)


def test_10_an_opaque_folder_of_a_base_hides_what_is_below(build: Build) -> None:
    built = build("RUN ls -A /opt/low > /seen\n", base="opaque")
    assert built.tree()["seen"].text == ""


def test_11_fifos_and_devices_of_a_base_stay(build: Build) -> None:
    built = build("RUN test -p /pipe; ls -la /pipe /full\nRUN chmod 600 /full; touch /pipe\n", base="nodes")
    tree = built.tree()
    assert (tree["pipe"].kind, tree["full"].kind, tree["full"].device) == ("fifo", "char", (1, 7))
    assert (tree["full"].mode, tree["full"].content) == (0o600, b"")


def test_12_a_step_has_the_group_of_user(build: Build) -> None:
    assert build("USER user:extra\nRUN id -g > /tmp/g; id -u >> /tmp/g\n").tree()["tmp/g"].text == "4242\n1000\n"


def test_13_a_label_of_the_command_line_wins(build: Build) -> None:
    assert build("LABEL who=file other=1\n", {}, "--label", "who=flag").settings["Labels"] == {"who": "flag", "other": "1"}


def test_14_a_range_of_ports_is_each_port(build: Build) -> None:
    ports = build("EXPOSE 8000-8010\n").settings["ExposedPorts"]
    assert sorted(ports) == sorted(f"{port}/tcp" for port in range(8000, 8011))


def test_15_a_healthcheck_keeps_its_start_interval(build: Build) -> None:
    check = build("HEALTHCHECK --start-interval=2s CMD true\n").settings["Healthcheck"]
    assert (check["StartInterval"], check["Test"]) == (2_000_000_000, ["CMD-SHELL", "true"])


def test_16_an_argument_ends_with_its_stage(build: Build) -> None:
    text = 'FROM B AS one\nARG LEAK=v\nRUN echo "$LEAK" > /one\nFROM B\nCOPY --from=one /one /one\nRUN echo "[$LEAK]" > /two\n'
    tree = build(text).tree()
    assert (tree["one"].text, tree["two"].text) == ("v\n", "[]\n")


def test_17_build_arg_wins_over_env_for_the_arg_after_it(build: Build) -> None:
    built = build("ENV E=env\nARG E=arg\nRUN echo $E > /e\n", {}, "--build-arg", "E=cli")
    assert (built.tree()["e"].text, built.environment["E"]) == ("cli\n", "env")


def test_18_what_a_step_leaves_running_is_over_before_its_layer_is_made(build: Build) -> None:
    writers = 'for n in 1 2 3 4 5 6; do setsid sh -c "while :; do echo x > /w/$n; rm /w/$n; done" & done; sleep 0.3'
    built = build(f"RUN mkdir /w; {writers}\nRUN ls /bin | wc -l > /count; sleep 0.2\n")
    assert built.names(-1) == ["count"]
    assert int(built.tree()["count"].text) > 100
    assert not [name for name in built.names(-2) if ".wh." in name]


def test_20_a_changed_download_changes_the_step_after_it(build: Build) -> None:
    content = {"/f": b"old"}
    with serving(content) as address:
        text = f"ADD http://{address}/f /f\nRUN cat /f > /d\n"
        first = build(text, {}, "--insecure-registry", address).tree()
        content["/f"] = b"new"
        second = build(text, {}, "--insecure-registry", address).tree()
    assert (first["d"].text, second["d"].text, second["f"].text) == ("old", "new", "new")


@pytest.mark.parametrize(
    ("copy", "old", "new"),
    [("COPY *.txt /d/", "a.txt", "b.txt"), ("COPY dir /d", "dir/a.txt", "dir/b.txt")],
    ids=["21-wildcard", "22-folder"],
)
def test_21_22_a_renamed_file_is_copied_under_its_new_name(
    build: Build, builder: Builder, copy: str, old: str, new: str
) -> None:
    text = f"{copy}\nRUN ls /d > /n\n"
    assert build(text, {old: "same"}).tree()["n"].text == "a.txt\n"
    os.rename(builder.folder / "context" / old, builder.folder / "context" / new)
    assert build(text).tree()["n"].text == "b.txt\n"


def test_23_a_change_goes_through_stages_to_the_end(build: Build) -> None:
    text = (
        "FROM B AS b\nCOPY src /src\nRUN cp /src /built\n"
        "FROM B\nCOPY --from=b /built /app\nRUN cat /app > /d\n"
    )  # fmt: skip
    ignore = {".dockerignore": "*\n!src\n"}
    assert build(text, {"src": "one", **ignore}).tree()["d"].text == "one"
    second = build(text, {"src": "two", **ignore}).tree()
    assert (second["app"].text, second["d"].text) == ("two", "two")


def test_24_a_changed_heredoc_is_another_step(build: Build) -> None:
    text = "RUN cat <<EOF > /h\nbody {}\nEOF\n"
    assert build(text.format(1)).tree()["h"].text == "body 1\n"
    assert build(text.format(2)).tree()["h"].text == "body 2\n"


def test_25_the_working_directory_is_part_of_a_step(build: Build) -> None:
    text = "ARG A\nWORKDIR /w-$A\nRUN pwd > /p\n"
    assert build(text, {}, "--build-arg", "A=1").tree()["p"].text == "/w-1\n"
    built = build(text, {}, "--build-arg", "A=2")
    assert (built.tree()["p"].text, built.settings["WorkingDir"]) == ("/w-2\n", "/w-2")


def test_26_a_step_finds_no_credential_of_the_builder(build: Build, builder: Builder) -> None:
    config = builder.folder / "config.json"
    config.write_text(json.dumps({"auths": {"example.com": {"username": "u", "password": CANARY}}}))
    builder.environment["SECRET_OF_THE_OPERATOR"] = CANARY
    search = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline > /seen 2>&1; "
    search += "find / -xdev -type f -exec grep -l canary-71[c]4 {} + > /files"
    tree = build(f"RUN {search}; true\n", {}, "--authfile", config).tree()
    assert b"PATH=" in tree["seen"].content
    assert CANARY.encode() not in tree["seen"].content
    assert tree["files"].text == ""


def test_27_a_step_without_the_mount_has_no_secret(build: Build, builder: Builder) -> None:
    (builder.folder / "secret").write_text(CANARY)
    text = (
        "RUN --mount=type=secret,id=s cat /run/secrets/s | wc -c > /length\n"
        "RUN ls -A /run /run/secrets > /seen 2>&1; find / -xdev -type f -exec grep -l canary-71c4 {} + >> /seen; true\n"
    )
    tree = build(text, {}, "--secret", f"id=s,src={builder.folder / 'secret'}").tree()
    assert tree["length"].text == f"{len(CANARY)}\n"
    assert "/secrets/s" not in tree["seen"].text
    assert "run/secrets/s" not in tree


def archive_that_climbs(kind: str) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        entries = [member("Dockerfile", b"FROM scratch\nCOPY . /\n")]
        if kind == "dots":
            entries.append(member("../escaped", b"x"))
        else:
            entries += [member("door", kind=tarfile.SYMTYPE, link="/var"), member("door/escaped", b"x")]
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return plain.getvalue()


@pytest.mark.parametrize("kind", ["dots", "link"])
def test_28_a_context_archive_writes_nothing_outside_of_it(builder: Builder, kind: str) -> None:
    argv = builder.argv("run", "--progress", "plain", "-o", f"type=rootfs,dest={builder.folder / 'out'}", "-")
    done = subprocess.run(argv, input=archive_that_climbs(kind), capture_output=True, check=False, cwd=builder.folder)
    assert done.returncode == 3, done.stderr
    assert not list(builder.folder.rglob("escaped"))
    assert not Path("/var/escaped").exists()


@pytest.mark.parametrize("kind", ["dots", "link"])
def test_28_an_added_archive_writes_nothing_outside_of_the_image(build: Build, builder: Builder, host: str, kind: str) -> None:
    context = write(builder, host, "ADD evil.tar /inner/place/\n", {"evil.tar": archive_that_climbs(kind)})
    done = builder("run", "--progress", "plain", context)
    assert done.status in (0, 3), done.log
    assert not Path("/var/escaped").exists()


def test_29_a_failed_build_leaves_no_digest_file(builder: Builder, host: str) -> None:
    target = builder.folder / "digest"
    done = ends(builder, host, 1, "RUN echo cached > /c\nRUN exit 1\n", "--digest-file", target)
    assert "exit code: 1" in done.last_error
    ends(builder, host, 1, "RUN echo cached > /c\nRUN exit 1\n", "--digest-file", target)
    assert not target.exists()


@pytest.mark.parametrize(("command", "status"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_30_the_own_status_of_a_step_is_in_the_metadata(builder: Builder, host: str, command: str, status: int) -> None:
    target = builder.folder / "metadata.json"
    ends(builder, host, 1, f"RUN {command}\n", "--metadata-file", target)
    assert json.loads(target.read_text())["sandboxbuild.error"]["status"] == status


def test_31_a_sub_path_of_the_context_is_the_context(builder: Builder, host: str) -> None:
    context = builder.context({
        "Dockerfile": "FROM scratch\nLABEL outer=1\n",
        "s/Dockerfile": "FROM scratch\nCOPY . /\n",
        "s/inner": "x",
    })  # fmt: skip
    layout = builder.folder / "out"
    builder.run("-o", f"type=oci,tar=false,dest={layout}", "--context", context, "--context-sub-path", "s")
    built = read_image(layout)
    assert ("inner" in built.tree(), "Labels" in built.settings) == (True, False)


def test_32_memory_does_not_grow_with_a_layer(builder: Builder, host: str) -> None:
    context = write(builder, host, "RUN dd if=/dev/urandom of=/big bs=1M count=100 2>/dev/null\n", {})
    with builder.popen("run", "--progress", "plain", "-t", "big", context) as process:
        peak_bytes = peak_memory(process.pid)
        assert process.stderr is not None
        assert process.wait() == 0, process.stderr.read()
    assert 10_000_000 < peak_bytes < 150_000_000


def peak_memory(pid: int) -> int:
    """The largest resident set that any process below `pid` had, in bytes, until `pid` ends."""
    peaks: dict[int, int] = {}
    while not has_ended(pid):
        for each in (pid, *descendants(pid)):
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{each}/status").read_text().splitlines()
                high = next(line for line in lines if line.startswith("VmHWM"))
                peaks[each] = int(high.split()[1]) * 1024
        threading.Event().wait(0.02)
    return max(peaks.values())


def has_ended(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def ends(builder: Builder, host: str, status: int, text: str, *flags: str | Path) -> Done:
    return builder.fail(status, *flags, write(builder, host, text, {}))
