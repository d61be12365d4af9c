"""A RUN uses secrets; afterwards nothing that stays behind has a byte of them: image, store, caches, logs, reports.

The oracle is a search of whole folders, with what is compressed unpacked, for the secret as it is and in base64 and hex.
"""

from __future__ import annotations

import base64
import gzip
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builder import Builder, Done, run_tool, wait_until
from tests.support.images import busybox_layout
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

FILE_SECRET = "canary-file-5b1d83e7a90c"
ENV_SECRET = "canary-variable-c27f6e41d0"
MARKER = "marker-in-the-image-9921"
USES = f"""FROM BASE
RUN --mount=type=secret,id=f --mount=type=secret,id=e,env=TOKEN \\
    wc -c /run/secrets/f > /sizes; echo "$TOKEN" | wc -c >> /sizes
RUN --mount=type=secret,id=f,target=/etc/deep/folder/f,mode=0444,uid=1000 --mount=type=cache,target=/cache \\
    --mount=type=tmpfs,target=/t cp /etc/deep/folder/f /t/copy; cp /etc/deep/folder/f /tmp/copy; rm /tmp/copy; ls /cache
RUN --mount=type=secret,id=f printf '#!/bin/sh\\ncat /run/secrets/f > /dev/null\\n' > /{MARKER}; sh /{MARKER}
"""


def needles() -> list[bytes]:
    found = []
    for secret in (FILE_SECRET, ENV_SECRET):
        found += [secret.encode(), secret.encode().hex().encode()]
        found += [base64.b64encode(b"x" * padding + secret.encode())[4:-4] for padding in range(3)]
    return found


def traces(*places: Path) -> list[str]:
    """The files below `places` that hold a needle; fails if they don't hold MARKER, for then the search is blind."""
    found, seen = [], False
    for place in places:
        for path in [place] if place.is_file() else place.rglob("*"):
            for name, content in contents(path):
                seen = seen or MARKER.encode() in content
                found += [f"{path}{name}" for needle in needles() if needle in content or needle in os.fsencode(path)]
    assert seen, "not even the marker is found"
    return found


def contents(path: Path) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, and those of what is packed in it; a link's target; extended attributes."""
    if path.is_symlink():
        yield "", os.fsencode(os.readlink(path))
    elif path.is_file():
        raw = path.read_bytes()
        yield "", raw
        if raw[:2] == b"\x1f\x8b":
            yield " (unpacked)", gzip.decompress(raw)
        elif raw[257:262] == b"ustar":
            with tarfile.open(path) as archive:
                for member in archive:
                    stream = archive.extractfile(member) if member.isreg() else None
                    content = stream.read() if stream else b""
                    yield f":{member.name}", gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    if not path.is_symlink():
        yield " (xattrs)", b"".join(name.encode() + b"=" + os.getxattr(path, name) for name in os.listxattr(path))


@pytest.fixture
def base(registry: str) -> str:
    name = f"{registry}/base:1"
    run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", f"docker://{name}")
    return name


@pytest.fixture
def flags(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The secrets as the command gets them: one from a file outside the builder's folder, one from the environment."""
    source = tmp_path_factory.mktemp("operator") / "secret"
    source.write_text(FILE_SECRET)
    builder.environment["OPERATORS_TOKEN"] = ENV_SECRET
    return ["--secret", f"id=f,src={source}", "--secret", "id=e,env=OPERATORS_TOKEN"]


def run_logged(builder: Builder, base: str, flags: list[str], text: str, *more: str) -> Done:
    """A build with every log and report there is, below the builder's folder."""
    builder.environment["SANDBOXBUILD_DEBUG"] = "1"
    top = builder.folder
    reports = [f"--audit-log={top / 'audit'}", f"--metadata-file={top / 'metadata'}", f"--iidfile={top / 'iid'}"]
    context = builder.context({"Dockerfile": text.replace("BASE", base)})
    done = builder("run", "--progress", "rawjson", *reports, *flags, *more, context)
    (top / "printed").write_text(done.out + done.log)
    return done


@pytest.mark.promise(1, "a secret stays in no image, store, cache or log")
@pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
def test_a_build_that_used_secrets_keeps_nothing_of_them(builder: Builder, base: str, flags: list[str], profile: str) -> None:
    runtime_or_skip({"plain": "namespaces", "gvisor": "runsc"}.get(profile, profile))
    outputs = ["-o", f"type=oci,dest={builder.folder / 'image.tar'}", "-o", f"type=rootfs,dest={builder.folder / 'rootfs'}"]
    done = run_logged(builder, base, flags, USES, *outputs, "--profile", profile)
    assert done.status == 0, done.log
    sizes = (builder.folder / "rootfs" / "sizes").read_text().split()
    assert sizes == [str(len(FILE_SECRET)), "/run/secrets/f", str(len(ENV_SECRET) + 1)]
    assert (builder.folder / "audit").stat().st_size > 0
    assert traces(builder.folder) == []


def test_a_secret_is_no_part_of_the_key_of_a_step(builder: Builder, base: str, flags: list[str], tmp_path: Path) -> None:
    run_logged(builder, base, flags, USES)
    changed = tmp_path / "changed"
    changed.write_text("another value")
    done = run_logged(builder, base, ["--secret", f"id=f,src={changed}", *flags[2:]], USES)
    assert done.status == 0
    assert done.log.count('"cached": true') + done.log.count('"cached":true') >= 3


# A secret is a file of the image like another, in place of one that is mounted for the time of the step.
WRITTEN = {
    "executor/rootfs.py": {
        '    if mount.kind == "file":\n        source = _new_file(dev_fd, mount)\n': (
            '    if mount.target.startswith("/run/secrets"):\n'
            '        folder = files.make_directories(root_fd, os.path.dirname(mount.target).strip("/"))\n'
            "        return files.write_file(folder, os.path.basename(mount.target), mount.content, 0o644)\n"
            '    if mount.kind == "file":\n        source = _new_file(dev_fd, mount)\n'
        ),
    },
}


@pytest.mark.without_defence(1, "a secret stays in no image, store, cache or log")
def test_a_secret_that_is_written_in_place_of_mounted_is_found(builder: Builder, base: str, flags: list[str]) -> None:
    builder.environment["PYTHONPATH"] = str(make_mutant(builder.folder, WRITTEN))
    text = f"FROM BASE\nRUN --mount=type=secret,id=f cat /run/secrets/f > /dev/null; echo > /{MARKER}; echo {MARKER}\n"
    done = run_logged(builder, base, flags, text, "-o", f"type=rootfs,dest={builder.folder / 'rootfs'}")
    assert done.status == 0, done.log
    assert (builder.folder / "rootfs" / "run" / "secrets" / "f").read_text() == FILE_SECRET
    assert traces(builder.folder) != []


@pytest.mark.promise(1, "a secret stays in no image, store, cache or log")
def test_a_step_that_fails_with_a_secret_tells_nothing_of_it(builder: Builder, base: str, flags: list[str]) -> None:
    text = USES + "RUN --mount=type=secret,id=f --mount=type=secret,id=e,env=TOKEN false\n"
    assert run_logged(builder, base, flags, text).status == 1
    assert traces(builder.folder) == []


@pytest.mark.promise(1, "a secret stays in no image, store, cache or log")
def test_a_killed_build_leaves_nothing_of_a_secret(builder: Builder, base: str, flags: list[str]) -> None:
    text = USES + "RUN --mount=type=secret,id=f --mount=type=secret,id=e,env=TOKEN echo holding; sleep 300\n"
    context = builder.context({"Dockerfile": text.replace("BASE", base)})
    with builder.popen("run", "--progress", "plain", *flags, context) as process:
        wait_until(lambda: any("sleep 300" in line for line in command_lines()), what="the step")
        process.send_signal(signal.SIGKILL)
        process.wait()
    builder.check_nothing_is_left()
    assert traces(builder.folder) == []


@pytest.mark.promise(1, "a secret stays in no image, store, cache or log")
def test_no_command_line_shows_a_secret_while_it_is_used(builder: Builder, base: str, flags: list[str]) -> None:
    text = "FROM BASE\nRUN --mount=type=secret,id=f --mount=type=secret,id=e,env=TOKEN echo holding; sleep 3\n"
    context = builder.context({"Dockerfile": text.replace("BASE", base)})
    with builder.popen("run", "--progress", "plain", *flags, context) as process:
        wait_until(lambda: any("sleep 3" in line for line in command_lines()), what="the step")
        lines = command_lines()
        assert process.wait() == 0
    assert not [line for line in lines if FILE_SECRET in line or ENV_SECRET in line]


@pytest.mark.promise(1, "a secret stays in no image, store, cache or log")
def test_a_step_without_the_mount_gets_nothing(builder: Builder, base: str, flags: list[str]) -> None:
    text = (
        "FROM BASE\nRUN --mount=type=secret,id=f true\n"
        "RUN ls -AR /run > /seen; cat /proc/self/environ >> /seen; cat /proc/self/mountinfo >> /seen\n"
    )
    run_logged(builder, base, flags, text, "-o", f"type=rootfs,dest={builder.folder / 'rootfs'}")
    seen = (builder.folder / "rootfs" / "seen").read_text()
    assert "canary" not in seen
    assert "secrets" not in seen


def test_a_required_secret_that_is_not_given_is_an_error(builder: Builder, base: str) -> None:
    text = "FROM BASE\nRUN --mount=type=secret,id=absent,required=true echo ran > /ran\n"
    done = builder.fail(3, builder.context({"Dockerfile": text.replace("BASE", base)}))
    assert "'absent'" in done.last_error
    text = "FROM BASE\nRUN --mount=type=secret,id=absent test ! -e /run/secrets/absent\n"
    builder.run(builder.context({"Dockerfile": text.replace("BASE", base)}))


def command_lines() -> list[str]:
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                lines.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            except OSError:
                continue
    return lines
