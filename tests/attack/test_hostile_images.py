"""An image whose every program and library is the attacker's, and files that make digests differ: neither gets its way."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.builder import Builder
from tests.support.profiles import runtime_or_skip
from tests.support.sandboxes import Lab

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]
every_profile = pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
MARK = "mark-of-the-image"
# Leaves a mark wherever it may: in the executor's store, and in the root that it sees.
PROGRAM = f"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
__attribute__((constructor)) static void leave(void) {{
    open("/sandboxbuild/store/{MARK}", O_CREAT | O_WRONLY, 0644);
    open("/{MARK}", O_CREAT | O_WRONLY, 0644);
}}
int main(void) {{ puts("ran in a step"); return 0; }}
"""
NAMES = (
    *("bin/sh", "bin/tar", "bin/gzip", "usr/bin/unpigz", "usr/bin/xz", "usr/bin/git", "usr/bin/newuidmap", "usr/bin/python3"),
    *("usr/bin/id", "usr/bin/getent", "usr/sbin/runc", "lib64/ld-linux-x86-64.so.2", "sandboxbuild/runtime/bin/python3"),
)
LIBRARIES = ("libnss_files.so.2", "libnss_compat.so.2", "libc.so.6", "libseccomp.so.2")
DOCKERFILE = """FROM scratch AS base
ADD image.tar /
ENV LD_PRELOAD=/lib/libc.so.6 LD_LIBRARY_PATH=/lib PYTHONPATH=/lib PYTHONSTARTUP=/lib/libc.so.6 PATH=/bin:/usr/bin

FROM base
ADD packed.tar.gz /packed/
COPY --chown=somebody:people Dockerfile /owned
WORKDIR /work
USER somebody
COPY --from=base /bin/sh /again
"""


def compiled(folder: Path, *options: str) -> bytes:
    (folder / "hostile.c").write_text(PROGRAM)
    subprocess.run(["gcc", *options, "-w", "-o", str(folder / "hostile"), str(folder / "hostile.c")], check=True)
    return (folder / "hostile").read_bytes()


def image(folder: Path) -> bytes:
    """A tar of a system whose programs, set-user-id, and libraries are PROGRAM."""
    program, library = compiled(folder, "-static"), compiled(folder, "-shared", "-fPIC")
    files = dict.fromkeys(NAMES, program)
    files.update({f"{place}/{name}": library for place in ("lib", "lib/x86_64-linux-gnu") for name in LIBRARIES})
    files["etc/passwd"] = b"root:x:0:0::/:/bin/sh\nsomebody:x:77:78::/:/bin/sh\n"
    files["etc/group"] = b"people:x:79:somebody\n"
    files["etc/ld.so.preload"] = b"/lib/libc.so.6\n"
    files["etc/nsswitch.conf"] = b"passwd: compat files\n"
    return tar_of(files)


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o6755
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.promise(2, "programs and libraries of an image are loaded in its steps alone")
@every_profile
def test_nothing_of_an_image_runs_for_what_is_no_run(builder: Builder, profile: str) -> None:
    """Names are looked up, archives unpacked, directories made: all by the executor itself. Only then does a RUN run."""
    runtime_or_skip({"plain": "namespaces", "gvisor": "runsc"}.get(profile, profile))
    packed = gzip.compress(tar_of({"inner": b"packed"}))
    context = builder.context({"Dockerfile": DOCKERFILE, "image.tar": image(builder.folder), "packed.tar.gz": packed})
    output = builder.folder / "rootfs"
    builder.run("--profile", profile, "-o", f"type=rootfs,dest={output}", context)
    assert not (builder.store / MARK).exists()
    assert not (output / MARK).exists()
    assert ((output / "owned").stat().st_uid, (output / "owned").stat().st_gid) == (77, 79)
    assert (output / "packed" / "inner").read_bytes() == b"packed"
    (context / "Dockerfile").write_text(DOCKERFILE + "USER root\nRUN some words of a shell\n")
    log = builder.run("--profile", profile, "-o", f"type=rootfs,dest={builder.folder / 'ran'}", context).log
    assert "ran in a step" in log
    assert (builder.folder / "ran" / MARK).exists(), "in the step's own root"
    assert not (builder.store / MARK).exists()


@pytest.mark.without_defence(2, "programs and libraries of an image are loaded in its steps alone")
def test_a_program_of_the_image_that_the_executor_runs_leaves_its_mark(tmp_path: Path) -> None:
    lab = Lab(tmp_path, runtime=runtime_or_skip("namespaces"))
    try:
        lab.new_lower("hostile")
        (lab.store / "lower" / "hostile").write_bytes(compiled(tmp_path, "-static"))
        (lab.store / "lower" / "hostile").chmod(0o755)
        lab.python("import os; os.chmod('/sandboxbuild/store', 0o777)")
        lab.python("import subprocess; value = subprocess.run(['/sandboxbuild/store/lower/hostile'], stdout=2).returncode")
        assert (lab.store / MARK).exists()
    finally:
        lab.close()


# What is made in another order, at another time and by another process each time.
RESTLESS = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
ENV PATH=/bin
RUN for n in $(shuf -i 1-40); do mkdir -p /d/$((n % 7)); echo $n > /d/$((n % 7))/$n; done; sleep 0.0$((RANDOM % 9)); \\
    for n in $(shuf -i 1-20); do ln -s $n /l$n; done; ln /d/1/1 /hard; touch /d
RUN rm -r /d/3; mkdir /d/3; for n in $(shuf -i 1-9); do mkfifo /d/3/$n; done; chown 5:6 /d/3/1
"""


def digest(builder: Builder, *options: str) -> str:
    report = builder.metadata("--no-cache", *options, builder.folder / "context")
    return str(report["containerimage.digest"])


@pytest.mark.promise(11, "what a RUN makes in another order and at another time has the same digest")
@every_profile
def test_a_restless_run_has_one_digest(builder: Builder, profile: str) -> None:
    runtime_or_skip({"plain": "namespaces", "gvisor": "runsc"}.get(profile, profile))
    context = builder.context({"Dockerfile": RESTLESS, "busybox": BUSYBOX.read_bytes()})
    (context / "busybox").chmod(0o755)
    time = ("--source-date-epoch", "1700000000")
    assert digest(builder, *time, "--profile", profile) == digest(builder, *time, "--snapshotter", "walk")


@pytest.mark.without_defence(11, "what a RUN makes in another order and at another time has the same digest")
def test_without_a_time_the_digests_differ(builder: Builder) -> None:
    context = builder.context({"Dockerfile": RESTLESS, "busybox": BUSYBOX.read_bytes()})
    (context / "busybox").chmod(0o755)
    assert digest(builder) != digest(builder)
