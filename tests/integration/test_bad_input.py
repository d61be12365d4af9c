"""What goes wrong gives one clear message and its exit code, leaves nothing behind, and the next build works."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builder import Builder, run_tool, wait_until

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")

HEAD = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
"""


@pytest.fixture
def context(builder: Builder) -> Path:
    """A context in which `HEAD` builds."""
    return builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": HEAD + "RUN echo fine > /fine\n"})


def dockerfile(context: Path, text: str) -> Path:
    (context / "Dockerfile").write_text(text)
    return context


@pytest.fixture
def works_afterwards(builder: Builder, context: Path) -> Iterator[None]:
    """Whatever the test did, a plain build with the same store works after it."""
    yield
    builder.run("-o", f"type=oci,dest={builder.folder / 'after'}", dockerfile(context, HEAD + "RUN echo fine > /fine\n"))
    run_tool("skopeo", "inspect", f"oci-archive:{builder.folder / 'after'}")
    builder.check_nothing_is_left()


pytestmark = [pytest.mark.root, pytest.mark.usefixtures("works_afterwards")]


def test_an_unknown_instruction_is_shown_with_its_line_and_a_caret(builder: Builder, context: Path) -> None:
    done = builder.fail(3, dockerfile(context, HEAD + "RUM echo hello\n"))
    assert "Dockerfile:5" in done.log
    assert ">>> RUM echo hello" in done.log or "RUM echo hello" in done.log
    assert "^" in done.log


def test_a_missing_file_in_copy_is_named(builder: Builder, context: Path) -> None:
    done = builder.fail(3, dockerfile(context, HEAD + "COPY nothing /x\n"))
    assert "nothing" in done.last_error


def test_a_failing_run_gives_its_status_and_its_last_lines(builder: Builder, context: Path) -> None:
    metadata = builder.folder / "metadata.json"
    done = builder.fail(1, "--metadata-file", metadata, dockerfile(context, HEAD + "RUN echo about to fail; exit 7\n"))
    assert "exit code: 7" in done.last_error
    assert "about to fail" in done.log
    assert "RUN echo about to fail" in done.log
    assert json.loads(metadata.read_text())["sandboxbuild.error"]["status"] == 7


def test_a_run_that_a_signal_ends_has_128_and_its_number(builder: Builder, context: Path) -> None:
    done = builder.fail(1, dockerfile(context, HEAD + "RUN kill -9 $$\n"))
    assert "137" in done.last_error


def test_a_command_that_is_not_there_is_127(builder: Builder, context: Path) -> None:
    done = builder.fail(1, dockerfile(context, HEAD + 'RUN ["/no/such/program"]\n'))
    assert "127" in done.last_error


def test_a_context_that_is_not_there_is_named(builder: Builder) -> None:
    done = builder.fail(3, builder.folder / "absent")
    assert "absent" in done.last_error


def test_a_dockerfile_that_is_not_there_is_named(builder: Builder, context: Path) -> None:
    done = builder.fail(3, "-f", "Nofile", context)
    assert "Nofile" in done.last_error


def test_an_unknown_flag_is_a_usage_error(builder: Builder, context: Path) -> None:
    done = builder("run", "--tagg", "x", context)
    assert done.status == 2
    assert "--tag" in done.log


def test_a_full_disk_is_a_limit(builder: Builder, context: Path) -> None:
    small = builder.folder / "small"
    small.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small)
    try:
        narrow = Builder(builder.folder, small / "store")
        done = narrow.fail(102, dockerfile(context, HEAD + "RUN dd if=/dev/zero of=/big bs=1M count=200\n"))
        assert "space" in done.last_error or "full" in done.last_error
        narrow.run(dockerfile(context, HEAD + "RUN echo small > /small\n"))
    finally:
        run_tool("umount", "-l", small)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_run_ends_everything(builder: Builder, context: Path, number: int, status: int) -> None:
    dockerfile(context, HEAD + "RUN echo started; sleep 100\n")
    with builder.popen("run", "--progress", "plain", context) as process:
        wait_until(lambda: any("sleep 100" in line for line in _all_commands()), what="the step")
        started = time.monotonic()
        process.send_signal(number)
        _, log = process.communicate(timeout=20)
    assert process.returncode == status, log
    assert time.monotonic() - started < 10
    builder.check_nothing_is_left()
    assert not any("sleep 100" in line for line in _all_commands())


def _all_commands() -> list[str]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append(Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue
    return [line for line in found if line.startswith("sleep ")]


def test_a_build_that_takes_too_long_is_a_timeout(builder: Builder, context: Path) -> None:
    started = time.monotonic()
    builder.fail(124, "--timeout", "3s", dockerfile(context, HEAD + "RUN sleep 100\n"))
    assert time.monotonic() - started < 20


def test_output_cannot_move_the_cursor_or_fake_a_line(builder: Builder, context: Path) -> None:
    text = HEAD + "RUN printf 'a\\033[2Jb\\rERROR: fake\\n#1 DONE\\n'; false\n"
    done = builder("run", "--progress", "plain", dockerfile(context, text))
    assert done.status == 1
    assert "\033" not in done.log
    assert "\r" not in done.log
    assert len([line for line in done.log.splitlines() if line.startswith("ERROR")]) == 1


def layered_image(folder: Path, entries: list[tuple[str, bytes, str]]) -> Path:
    """An OCI layout whose one layer has `entries`: (name, tar type, link target), written by tarfile without any check."""
    import hashlib

    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, target in entries:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, target, 0o755
            member.devmajor, member.devminor = 1, 1
            content = b"evil\n" if kind == tarfile.REGTYPE else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    layer = put(buffer.getvalue(), "layer.v1.tar")
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer],
    }
    described = put(json.dumps(manifest).encode(), "manifest.v1+json")
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [described]}))
    return folder


MALICIOUS = {
    "dot-dot": [("../../../../../../../../{canary}/escaped", tarfile.REGTYPE, "")],
    "link-then-write": [("door", tarfile.SYMTYPE, "{canary}"), ("door/escaped", tarfile.REGTYPE, "")],
    "link-then-link": [("a", tarfile.SYMTYPE, "../../../../../../.."), ("a{canary}/escaped", tarfile.REGTYPE, "")],
    "hard-link-outside": [("stolen", tarfile.LNKTYPE, "../../../../../../../..{canary}/secret")],
    "hard-link-absolute": [("stolen", tarfile.LNKTYPE, "{canary}/secret")],
    "root-is-a-link": [(".", tarfile.SYMTYPE, "{canary}"), ("escaped", tarfile.REGTYPE, "")],
}


@pytest.mark.parametrize("name", MALICIOUS)
def test_a_malicious_layer_writes_and_reads_nothing_outside(
    builder: Builder, context: Path, registry: str, tmp_path: Path, name: str
) -> None:
    canary = tmp_path / "canary"
    canary.mkdir()
    canary.chmod(0o777)
    (canary / "secret").write_text("canary-secret")
    entries = [(path.format(canary=canary), kind, target.format(canary=canary)) for path, kind, target in MALICIOUS[name]]
    layout = layered_image(tmp_path / "evil", entries)
    run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{registry}/evil/{name}:1")
    text = f'FROM {registry}/evil/{name}:1\nCOPY busybox /busybox\nRUN ["/busybox", "find", "/", "-xdev"]\n'
    done = builder("run", "--progress", "plain", "-o", f"type=oci,tar=false,dest={tmp_path / 'out'}", dockerfile(context, text))
    assert done.status in (0, 5), done.log
    assert "Traceback" not in done.log
    assert sorted(path.name for path in canary.iterdir()) == ["secret"]
    if done.status == 0:
        assert not any("canary-secret" in text for text in layer_texts(tmp_path / "out"))


def layer_texts(layout: Path) -> Iterator[str]:
    """All that lies in the files of an image's layers."""
    for blob in (layout / "blobs" / "sha256").iterdir():
        done = subprocess.run(["tar", "-xOf", str(blob)], capture_output=True, check=False)
        yield done.stdout.decode("utf-8", "replace")


def test_device_nodes_in_a_base_open_nothing(builder: Builder, context: Path, registry: str, tmp_path: Path) -> None:
    layout = layered_image(tmp_path / "nodes", [("disk", tarfile.BLKTYPE, ""), ("memory", tarfile.CHRTYPE, "")])
    run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:latest", f"docker://{registry}/evil/nodes:1")
    text = f'FROM {registry}/evil/nodes:1\nCOPY busybox /busybox\nRUN ["/busybox", "dd", "if=/memory", "bs=16", "count=1"]\n'
    done = builder("run", "--progress", "plain", dockerfile(context, text))
    assert done.status in (0, 1)
    for path in Path(builder.store).rglob("*"):
        assert not path.is_block_device(), path
        if path.is_char_device():
            assert os.lstat(path).st_rdev == 0, path


@pytest.mark.timeout(240)
def test_four_builds_at_once_on_one_store_all_work(builder: Builder, context: Path) -> None:
    def start(number: int) -> subprocess.Popen[bytes]:
        variant = builder.context(
            {"busybox": BUSYBOX.read_bytes(), "Dockerfile": HEAD + f"RUN sleep 0.2; echo {number // 2} > /n\n"},
            f"context-{number}",
        )
        return builder.popen("run", "--progress", "plain", "-o", f"type=oci,dest={builder.folder / f'out-{number}'}", variant)

    processes = [start(number) for number in range(4)]
    for number, process in enumerate(processes):
        _, log = process.communicate(timeout=200)
        assert process.returncode == 0, log.decode()
        run_tool("skopeo", "inspect", f"oci-archive:{builder.folder / f'out-{number}'}")


def test_a_full_disk_during_an_export_is_a_limit(builder: Builder, context: Path) -> None:
    small = builder.folder / "small"
    small.mkdir()
    run_tool("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small)
    try:
        for output in ("type=oci,dest={}/image.tar", "type=oci,tar=false,dest={}/layout", "type=rootfs,dest={}/root"):
            done = builder.fail(102, "-o", output.format(small), context)
            assert "disk is full" in done.last_error
            assert sorted(path.name for path in small.iterdir()) == []
    finally:
        run_tool("umount", "-l", small)


GARBAGE = {
    "binary": bytes(range(256)) * 40,
    "nothing": b"",
    "only comments": b"# a\n#b\n",
    "NUL": b"FROM scratch\nLABEL a=\0\n",
    "an endless line": b"FROM " + b"x" * 2_000_000,
    "an unclosed quote": b'FROM scratch\nENV a="b\n',
    "deep heredoc": b"FROM scratch\nCOPY <<EOF /a\n",
    "not UTF-8": b"FROM scratch\nCOPY \xff\xfe /\xff\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_as_a_dockerfile_is_one_error(builder: Builder, context: Path, name: str) -> None:
    (context / "Dockerfile").write_bytes(GARBAGE[name])
    done = builder("run", "--progress", "plain", context)
    assert done.status in (3, 102), done.log
    assert "Traceback" not in done.log
    assert len(done.log) < 20_000
    assert done.last_error


def test_odd_entries_of_a_context_are_copied_or_refused_by_name(builder: Builder, context: Path) -> None:
    odd = context / "odd"
    odd.mkdir()
    (odd / os.fsdecode(b"not-utf8-\xff")).write_text("x")
    (odd / "new\nline \x1b[2J").write_text("x")
    (odd / ("n" * 255)).write_text("x")
    (odd / "loop").symlink_to("loop")
    (odd / "outside").symlink_to("/etc/shadow")
    os.mkfifo(odd / "fifo")
    done = builder("run", "--progress", "plain", dockerfile(context, HEAD + "COPY odd /odd\nRUN ls /odd | wc -l\n"))
    assert "Traceback" not in done.log
    assert "\x1b" not in done.log
    assert done.status in (0, 3), done.log
    assert done.status == 0 or "fifo" in done.last_error
    shutil.rmtree(odd)


def test_a_deep_context_is_no_problem(builder: Builder, context: Path) -> None:
    deep = context
    for _ in range(150):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    builder.run(dockerfile(context, HEAD + "COPY d /d\n"))
    shutil.rmtree(context / "d")


def test_what_a_run_leaves_in_the_background_ends_with_it(builder: Builder, context: Path) -> None:
    marker = "54321"
    text = HEAD + f"RUN (setsid nohup sleep {marker} >/dev/null 2>&1 &) ; (sleep {marker} &) ; echo started\nRUN sleep 0.1\n"
    started = time.monotonic()
    builder.run(dockerfile(context, text))
    assert time.monotonic() - started < 60
    assert not any(marker in line for line in _all_commands())


def test_root_reads_what_others_keep_to_themselves(builder: Builder, context: Path) -> None:
    private = context / "private"
    private.write_text("secret of 12345\n")
    os.chown(private, 12345, 12345)
    private.chmod(0o600)
    (context / "closed").mkdir(mode=0o000)
    (context / "closed" / "inner").write_text("inner")
    builder.run(dockerfile(context, HEAD + "COPY private closed /\nRUN cat /private /inner\n"))


def test_a_dockerfile_that_is_a_link_to_the_host_is_refused(builder: Builder, context: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("FROM scratch\nLABEL canary=found\n")
    for target in (str(outside), "../outside"):
        (context / "Dockerfile").unlink()
        (context / "Dockerfile").symlink_to(target)
        done = builder.fail(3, context)
        assert "canary" not in done.log
    (context / "Dockerfile").unlink()


def test_a_closed_pipe_as_output_ends_the_build_quietly(builder: Builder, context: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    argv = builder.argv("run", "--progress", "plain", "-o", "-", context)
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE, check=False, cwd=builder.folder
    )
    os.close(writer)
    log = done.stderr.decode()
    assert "Traceback" not in log
    assert done.returncode in (2, 141), log
    assert len([line for line in log.splitlines() if line.startswith("ERROR")]) <= 1


def test_a_full_disk_as_standard_output_is_one_error(builder: Builder) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(builder.argv("du"), stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 102
    assert done.stderr.decode() == "ERROR: the output can't be written: No space left on device\n"


def test_two_tags_name_one_image(builder: Builder, context: Path, registry: str) -> None:
    names = [f"{registry}/team/app:1", f"{registry}/team/app:2"]
    builder.run("-t", names[0], "-t", names[1], "--push", context)
    digests = {
        run_tool("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{name}") for name in names
    }
    assert len(digests) == 1
    assert all(name.rpartition(":")[2] in builder("images").out for name in names)
