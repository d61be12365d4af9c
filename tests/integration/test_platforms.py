"""Several platforms in one build: an image index that others read, and a clear refusal of what can't run on this host."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxbuild.launcher.emulation import BINFMT_FOLDER, emulated_architectures
from tests.support.builder import Builder, run_tool
from tests.support.images import busybox_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

BOTH = ("--platform", "linux/amd64,linux/arm64")
COPIES = """FROM scratch
ARG TARGETPLATFORM TARGETARCH
COPY $TARGETARCH/ /
LABEL for=$TARGETPLATFORM
"""
CROSS = """FROM --platform=$BUILDPLATFORM BASE AS compiler
ARG TARGETARCH BUILDPLATFORM
RUN echo "made on $BUILDPLATFORM for $TARGETARCH" > /made
FROM scratch
COPY --from=compiler /made /made
"""
# What an ELF header of arm64 begins with, and which of its bits binfmt_misc compares.
ARM64_MAGIC = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00"
ARM64_MASK = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"


def program_that_says(text: bytes) -> bytes:
    """A static program for x86-64: write(1, text), exit(0)."""
    code = b"\xb8\x01\0\0\0\xbf\x01\0\0\0\x48\x8d\x35\x10\0\0\0\xba" + struct.pack("<I", len(text))
    code += b"\x0f\x05\xb8\x3c\0\0\0\x31\xff\x0f\x05" + text
    size = 120 + len(code)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 4096) + code


@pytest.fixture
def arm64_interpreter(tmp_path: Path) -> Iterator[None]:
    """An interpreter for programs of arm64 on this host, for a moment; it runs none of them, but says that it was called."""
    if "arm64" in emulated_architectures():
        pytest.skip("this host runs programs of arm64")
    program = tmp_path / "interpreter"
    program.write_bytes(program_that_says(b"emulated\n"))
    program.chmod(0o755)
    is_mounted = Path(BINFMT_FOLDER, "register").exists()
    if not is_mounted and subprocess.run(["mount", "-t", "binfmt_misc", "none", BINFMT_FOLDER], check=False).returncode:
        pytest.skip("this kernel has no binfmt_misc")
    name = f"sandboxbuild-test-{tmp_path.name}"
    escaped = ["".join(f"\\x{byte:02x}" for byte in each) for each in (ARM64_MAGIC, ARM64_MASK)]
    try:
        Path(BINFMT_FOLDER, "register").write_text(f":{name}:M::{escaped[0]}:{escaped[1]}:{program}:F")
        yield
    finally:
        Path(BINFMT_FOLDER, name).write_text("-1")
        if not is_mounted:
            run_tool("umount", BINFMT_FOLDER)


@pytest.fixture
def base(registry: str) -> str:
    name = f"{registry}/base:1"
    run_tool("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", f"docker://{name}")
    return name


def raw(reference: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(run_tool("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"))
    return found


def fetch(reference: str, architecture: str, target: Path) -> tuple[dict[str, object], str]:
    """(the config, the text of the file `made`) of one platform's image, fetched and unpacked by others."""
    arch = ("--override-arch", architecture)
    config = run_tool("skopeo", *arch, "inspect", "--config", "--tls-verify=false", f"docker://{reference}")
    run_tool("skopeo", *arch, "copy", "-q", "--src-tls-verify=false", f"docker://{reference}", f"oci:{target}:1")
    run_tool("umoci", "unpack", "--image", f"{target}:1", f"{target}-bundle")
    return json.loads(config), Path(f"{target}-bundle", "rootfs", "made").read_text()


def test_two_platforms_are_an_index_that_others_read(builder: Builder, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/app:1"
    context = builder.context({"Dockerfile": COPIES, "amd64/made": "for amd64", "arm64/made": "for arm64"})
    document = builder.metadata(*BOTH, "-d", name, context)
    index = raw(name)
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    platforms = [each["platform"] for each in index["manifests"]]  # type: ignore[attr-defined]
    assert platforms == [{"architecture": "amd64", "os": "linux"}, {"architecture": "arm64", "os": "linux"}]
    digest = run_tool("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{name}").strip()
    assert digest == document["containerimage.digest"]
    for architecture in ("amd64", "arm64"):
        config, text = fetch(name, architecture, tmp_path / architecture)
        assert (config["architecture"], text) == (architecture, f"for {architecture}")
        assert config["config"]["Labels"] == {"for": f"linux/{architecture}"}  # type: ignore[index]


def test_two_platforms_are_an_index_in_a_layout_as_well(builder: Builder) -> None:
    context = builder.context({"Dockerfile": COPIES, "amd64/made": "", "arm64/made": ""})
    layout = builder.folder / "layout"
    builder.run(*BOTH, "-o", f"type=oci,tar=false,dest={layout}", context)
    for architecture in ("amd64", "arm64"):
        config = run_tool("skopeo", "--override-arch", architecture, "inspect", "--config", f"oci:{layout}")
        assert json.loads(config)["architecture"] == architecture


def test_a_stage_of_the_build_platform_makes_files_for_others(
    builder: Builder, registry: str, base: str, tmp_path: Path
) -> None:
    name = f"{registry}/cross:1"
    builder.run(*BOTH, "-d", name, builder.context({"Dockerfile": CROSS.replace("BASE", base)}))
    for architecture in ("amd64", "arm64"):
        assert fetch(name, architecture, tmp_path / architecture)[1] == f"made on linux/amd64 for {architecture}\n"


@pytest.mark.skipif("s390x" in emulated_architectures(), reason="this host runs programs of s390x")
def test_a_foreign_run_is_refused_before_anything_runs(builder: Builder, base: str) -> None:
    text = f"FROM {base} AS first\nRUN echo began\nFROM scratch\nCOPY --from=first /bin/busybox /bin/busybox\nRUN true\n"
    done = builder.fail(3, "--platform=linux/amd64,linux/s390x", builder.context({"Dockerfile": text}))
    assert "a step of linux/s390x can't run here: this host is linux/amd64" in done.last_error
    assert "binfmt_misc" in done.last_error
    assert "5 | >>> RUN true" in done.log
    assert "BUILDPLATFORM" in done.log
    assert " began" not in done.log.partition("ERROR")[0].replace("RUN echo began", "")


def test_a_warning_is_said_once_for_all_platforms(builder: Builder) -> None:
    context = builder.context({"Dockerfile": COPIES + "ENV API_KEY=x\n", "amd64/made": "", "arm64/made": ""})
    done = builder.run(*BOTH, context)
    assert done.log.count("SecretsUsedInArgOrEnv") == 1


@pytest.mark.usefixtures("arm64_interpreter")
def test_a_foreign_run_works_where_there_is_an_interpreter(builder: Builder) -> None:
    foreign = ARM64_MAGIC + bytes(200)
    text = 'FROM scratch\nCOPY --chmod=755 program /program\nRUN ["/program"]\n'
    context = builder.context({"Dockerfile": text, "program": foreign})
    done = builder.run("--platform", "linux/arm64", context)
    assert " emulated" in done.log
