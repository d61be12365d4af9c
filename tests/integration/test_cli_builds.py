"""The command from end to end: what is printed where, which files are written, which exit codes come back."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from tests.integration.registry_fixtures import RunningRegistry, plain_registry  # noqa: F401
from tests.support.builder import Builder, kill_all, processes_naming, run_tool, wait_until

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "echo said; echo written > /file"]
ENV A=1
"""
FAILING = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "echo last words; exit 42"]
"""
ENDLESS = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "trap : TERM INT; echo started; while :; do /bin/busybox sleep 1; done"]
"""


@pytest.fixture
def context(builder: Builder) -> Path:
    return builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": DOCKERFILE, "failing": FAILING, "endless": ENDLESS})


def make_busybox_runnable(context: Path) -> None:
    (context / "busybox").chmod(0o755)


@pytest.fixture(autouse=True)
def runnable(context: Path) -> None:
    make_busybox_runnable(context)


def test_files_for_other_programs_tell_one_story(builder: Builder, context: Path) -> None:
    names = ("iid", "digest", "names")
    flags = [f"{flag}={builder.folder / name}" for flag, name in zip(
        ("--iidfile", "--digest-file", "--image-name-tag-with-digest-file"), names, strict=True
    )]  # fmt: skip
    document = builder.metadata("-t", "example.com/team/app:1", *flags, context)
    iid, digest, lines = ((builder.folder / name).read_text() for name in names)
    assert document["containerimage.digest"] == digest
    assert document["containerimage.config.digest"] == iid
    assert lines == f"example.com/team/app:1@{digest}\n"
    assert [step["status"] for step in document["sandboxbuild.steps"]] == [0, 0]
    inspected = json.loads(builder("inspect", "example.com/team/app:1").out)
    assert inspected[0]["Digest"] == digest
    assert "A=1" in inspected[0]["Config"]["config"]["Env"]


def test_an_image_goes_to_standard_output_and_progress_does_not(builder: Builder, context: Path) -> None:
    done = subprocess.run(
        builder.argv("run", "--progress=plain", "-t", "app:1", "-o", "type=docker,dest=-", context),
        capture_output=True, check=True, env=dict(os.environ),
    )  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert manifest[0]["RepoTags"] == ["app:1"]
    assert b"said" in done.stderr


def test_quiet_prints_the_image_id_alone(builder: Builder, context: Path) -> None:
    done = builder("run", "-q", "--iidfile", builder.folder / "iid", context)
    assert (done.status, done.log) == (0, "")
    assert done.out == (builder.folder / "iid").read_text() + "\n"


def test_raw_json_is_lines_of_json(builder: Builder, context: Path) -> None:
    done = builder("run", "--progress=rawjson", context)
    updates = [json.loads(line) for line in done.log.splitlines()]
    assert any("logs" in update for update in updates)
    assert any(vertex.get("completed") for update in updates for vertex in update.get("vertexes", ()))


def test_a_rebuild_runs_no_step_and_gives_the_same_image(builder: Builder, context: Path) -> None:
    first = builder.metadata(context)
    second = builder.metadata(context)
    assert [step["cached"] for step in second["sandboxbuild.steps"]] == [True, True]
    assert second["containerimage.digest"] == first["containerimage.digest"]


def test_a_failed_step_is_shown_with_its_words_its_line_and_its_status(builder: Builder, context: Path) -> None:
    done = builder.fail(1, "-f", context / "failing", "--metadata-file", builder.folder / "m", context)
    assert "   last words\n" in done.log
    assert "   3 | >>> RUN" in done.log
    assert done.last_error.endswith("exit code: 42")
    assert json.loads((builder.folder / "m").read_text())["sandboxbuild.error"]["status"] == 42


def test_an_old_iidfile_is_gone_when_the_build_fails(builder: Builder, context: Path) -> None:
    builder.run("--iidfile", builder.folder / "iid", context)
    builder.fail(1, "-f", context / "failing", "--iidfile", builder.folder / "iid", context)
    assert not (builder.folder / "iid").exists()


def test_a_timeout_is_124(builder: Builder, context: Path) -> None:
    builder.fail(124, "--timeout=3s", "-f", context / "endless", context)


def started(builder: Builder, context: Path) -> subprocess.Popen[bytes]:
    """A build in its endless RUN; its standard error is read no further than that."""
    process = builder.popen("run", "--progress=plain", "-f", context / "endless", context)
    assert process.stderr is not None
    while line := process.stderr.readline():
        if b" started" in line and b"RUN" not in line:
            return process
    raise AssertionError("the build never came to its RUN")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_a_run_ends_it_soon(number: int, status: int, builder: Builder, context: Path) -> None:
    process = started(builder, context)
    begun = time.monotonic()
    process.send_signal(number)
    _, log = process.communicate(timeout=30)
    assert process.returncode == status
    assert b"ERROR: stopped by" in log
    assert time.monotonic() - begun < 10
    builder.check_nothing_is_left()


def test_a_second_interrupt_is_no_slower_and_leaves_nothing(builder: Builder, context: Path) -> None:
    process = started(builder, context)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    builder.check_nothing_is_left()


def test_a_killed_executor_is_one_clear_error_and_the_next_build_works(builder: Builder, context: Path) -> None:
    process = started(builder, context)
    wait_until(lambda: executors(builder), what="the executor")
    kill_all(executors(builder))
    _, log = process.communicate(timeout=30)
    assert process.returncode == 100, log
    assert b"ERROR: the executor was killed by signal 9" in log
    builder.check_nothing_is_left()
    builder.run(context)


def executors(builder: Builder) -> list[int]:
    found = processes_naming(str(builder.store))
    return [int(line.split()[0]) for line in found if "sandboxbuild.executor.main" in line]


def test_a_dockerfile_can_come_alone(builder: Builder, context: Path) -> None:
    done = subprocess.run(
        builder.argv("run", "--progress=plain", "-t", "label:1", "-"),
        input=b"FROM scratch\nLABEL a=b\n", capture_output=True, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(builder("inspect", "label:1").out)[0]["Config"]["config"]["Labels"] == {"a": "b"}


def test_a_build_is_pushed_and_a_stored_image_too(builder: Builder, context: Path, plain_registry: RunningRegistry) -> None:  # noqa: F811
    built = f"{plain_registry.host}/team/app:1"
    document = builder.metadata("-d", built, context)
    assert [push["reference"] for push in document["sandboxbuild.pushes"]] == [built]
    for name in (built, f"{plain_registry.host}/team/other:2"):
        if name != built:
            assert builder("push", built, name).status == 0
        raw = run_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{name}")
        assert json.loads(raw)["Digest"] == document["containerimage.digest"]


def test_a_stored_image_is_saved_for_docker(builder: Builder, context: Path) -> None:
    builder.run("-t", "app:1", context)
    assert builder("save", "app:1", "-o", builder.folder / "app.tar").status == 0
    listed = json.loads(run_tool("skopeo", "inspect", f"docker-archive:{builder.folder / 'app.tar'}"))
    assert listed["Architecture"] == "amd64"


def test_what_an_output_leaves_out_is_a_warning(builder: Builder) -> None:
    """Set-id bits, where others than root could reach the file."""
    context = builder.context({"Dockerfile": "FROM scratch\nCOPY --chmod=4755 tool /tool\n", "tool": "x"}, "set-id")
    target, metadata = builder.folder / "files", builder.folder / "metadata.json"
    for folder in (target, builder.folder / "again"):
        folder.mkdir()
        os.chown(folder, 1000, 1000)
    done = builder.run("-t", "set-id", "-o", f"type=local,dest={target}", "--metadata-file", metadata, context)
    assert f"WARNING: output {target}: 1 files lost set-id bits" in done.log
    assert "lost set-id bits" in json.loads(metadata.read_text())["sandboxbuild.warnings"][0]
    assert (target / "tool").stat().st_mode & 0o4000 == 0
    saved = builder("save", "set-id", "-o", f"type=local,dest={builder.folder / 'again'}")
    assert f"WARNING: output {builder.folder / 'again'}: 1 files lost set-id bits" in saved.log


def test_images_are_listed_removed_and_pruned(builder: Builder, context: Path) -> None:
    builder.run("-t", "app:1", "-t", "app:2", context)
    assert [image["name"] for image in json.loads(builder("images", "--format=json").out)] == ["app:1", "app:2"]
    assert builder("rm", "app:1", "app:2").status == 0
    assert builder("images", "--format=json").out.strip() == "[]"
    assert builder("prune", "--all").status == 0
    assert json.loads(builder("du", "--format=json").out)["blobs"] == 0


def test_doctor_finds_a_host_that_can_build(builder: Builder) -> None:
    checks = json.loads(builder("doctor", "--format=json").out)
    assert [check for check in checks if check["state"] == "missing"] == []
