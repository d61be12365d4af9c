"""Three real builds as users have them: apt, C in two stages, Python; pushed, read by skopeo, run by runc."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.registry_fixtures import running_registry
from tests.support.builder import Builder, run_tool
from tests.support.images import debian_layout

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

# unsafe-io: as in the images that Debian makes for containers, dpkg doesn't wait for the disk after each file.
APT = """
FROM {base}
ENV DPKG_FORCE=unsafe-io
RUN apt-get update && apt-get install -y --no-install-recommends curl && rm -rf /var/lib/apt/lists/*
CMD ["curl", "--version"]
"""

C_PROGRAM = """
FROM {base} AS compiler
ENV DPKG_FORCE=unsafe-io
RUN apt-get update
RUN apt-get install -y --no-install-recommends gcc libc6-dev
COPY hello.c /src/hello.c
RUN gcc -O2 -static -o /hello /src/hello.c

FROM {base}
COPY --from=compiler /hello /usr/local/bin/hello
ENTRYPOINT ["hello"]
"""

PYTHON = """
FROM {base}
ENV DPKG_FORCE=unsafe-io
RUN apt-get update
RUN apt-get install -y --no-install-recommends python3 python3-venv
WORKDIR /app
COPY certificates.crt /usr/local/share/ca-certificates/test.crt
COPY requirements.txt .
ENV PIP_CERT=/usr/local/share/ca-certificates/test.crt PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /venv && /venv/bin/pip install --no-cache-dir -r requirements.txt
COPY app.py .
RUN useradd --create-home app
USER app
CMD ["/venv/bin/python", "app.py"]
"""


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Builder, str]]:
    """A builder, and the host of a registry that holds `debian`: one for all, so that the base is pulled once."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "registry").mkdir()
    builder = Builder(folder)
    with running_registry(folder / "registry") as registry:
        source = f"oci:{debian_layout()}:latest"
        run_tool("skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{registry.host}/debian:12")
        yield builder, registry.host
    builder.remove_store()


def build_push_run(pushing: tuple[Builder, str], dockerfile: str, files: dict[str, str | bytes], name: str) -> str:
    """Learn a policy, build under it and push, let skopeo pull the image and runc run it; gives what the program prints.

    The hosts are those of this machine's own apt and pip configuration; with one host more the build fails.
    """
    builder, registry = pushing
    text = dockerfile.format(base=f"{registry}/debian:12")
    context = builder.context({"Dockerfile": text, **files}, name)
    reference = f"{registry}/team/{name}:1.0"
    learned = builder.folder / f"{name}.toml"
    builder.run("-t", reference, "--learn", learned, context)
    builder.run("-t", reference, "--no-cache", "--policy-file", learned, "--push", context)
    builder.context({"Dockerfile": f"{text}RUN bash -c 'echo > /dev/tcp/one-more.example.com/80'\n"}, name)
    assert "the step asked for one-more.example.com, which the policy" in builder.fail(1, "--policy-file", learned, context).log
    builder.check_nothing_is_left()
    described = json.loads(run_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{reference}"))
    assert described["Architecture"] == "amd64"
    layout = builder.folder / f"{name}-pulled"
    run_tool("skopeo", "copy", "--src-tls-verify=false", f"docker://{reference}", f"oci:{layout}:latest")
    return run_in_runc(layout, builder.folder / f"{name}-bundle")


def run_in_runc(layout: Path, bundle: Path) -> str:
    """Unpack with umoci and run the image's own command with runc."""
    run_tool("umoci", "unpack", "--image", f"{layout}:latest", bundle)
    spec_file = bundle / "config.json"
    spec = json.loads(spec_file.read_text())
    spec["process"]["terminal"] = False
    spec["linux"].pop("resources", None)
    spec["linux"]["namespaces"] = [item for item in spec["linux"]["namespaces"] if item["type"] != "cgroup"]
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "cgroup"]
    spec_file.write_text(json.dumps(spec))
    name = f"sandboxbuild-test-{os.getpid()}-{bundle.name}"
    try:
        return run_tool("runc", "run", "--bundle", bundle, name)
    finally:
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.rmtree(layout, ignore_errors=True)


def test_apt_installs_a_package(pushing: tuple[Builder, str]) -> None:
    assert "libcurl" in build_push_run(pushing, APT, {}, "apt")


def test_a_c_program_is_compiled_in_one_stage_and_copied_to_another(pushing: tuple[Builder, str]) -> None:
    source = '#include <stdio.h>\nint main(void) { puts("hello from C"); return 0; }\n'
    assert build_push_run(pushing, C_PROGRAM, {"hello.c": source}, "c").strip() == "hello from C"


def test_a_python_application_gets_its_requirements(pushing: tuple[Builder, str]) -> None:
    files: dict[str, str | bytes] = {
        "requirements.txt": "six==1.16.0\n",
        "app.py": "import six, os\nprint('six', six.__version__, os.getuid())\n",
        "certificates.crt": Path("/etc/ssl/certs/ca-certificates.crt").read_bytes(),
    }
    assert build_push_run(pushing, PYTHON, files, "python").strip() == "six 1.16.0 1000"
