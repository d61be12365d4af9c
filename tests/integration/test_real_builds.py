"""Three real builds as users have them: apt, C in two stages, Python; under the strict filter and a learned policy."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.registry_fixtures import running_registry
from tests.support.builder import Builder, run_tool
from tests.support.images import debian_layout
from tests.support.profiles import runtime_or_skip
from tests.support.realbuilds import PROFILES, RealBuilds, Recipe, certificates

pytestmark = [pytest.mark.root, pytest.mark.timeout(1800)]

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

RECIPES = {
    "apt": (APT, {}),
    "c": (C_PROGRAM, {"hello.c": '#include <stdio.h>\nint main(void) { puts("hello from C"); return 0; }\n'}),
    "python": (
        PYTHON,
        {
            "requirements.txt": "six==1.16.0\n",
            "app.py": "import six, os\nprint('six', six.__version__, os.getuid())\n",
            "certificates.crt": certificates(),
        },
    ),
}
PRINTED = {"apt": "libcurl", "c": "hello from C", "python": "six 1.16.0 1000"}
ONE_MORE = "RUN bash -c 'echo > /dev/tcp/one-more.example.com/80'"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealBuilds]:
    """A registry that holds `debian`, and one store for all recipes, so that plain unpacks the base once."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "registry").mkdir()
    builder = Builder(folder)
    with running_registry(folder / "registry") as registry:
        source = f"oci:{debian_layout()}:latest"
        run_tool("skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{registry.host}/debian:12")
        yield RealBuilds(builder, registry.host)
    builder.remove_store()


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", RECIPES)
def test_image_that_was_built_under_a_learned_policy_runs(real: RealBuilds, name: str, profile: str) -> None:
    runtime_or_skip({"plain": "namespaces", "gvisor": "runsc"}[profile])
    assert PRINTED[name] in real.printed(recipe(name), profile)


def test_compiled_program_has_the_same_image_in_all_profiles(real: RealBuilds) -> None:
    runtime_or_skip("runsc")
    assert real.digest(recipe("c"), "gvisor") == real.digest(recipe("c"), "plain")


@pytest.mark.parametrize("name", RECIPES)
def test_one_host_more_than_was_learned_is_refused(real: RealBuilds, name: str) -> None:
    assert "the step asked for one-more.example.com, which the policy" in real.refused(recipe(name), ONE_MORE)


def recipe(name: str) -> Recipe:
    dockerfile, files = RECIPES[name]
    return Recipe(name, dockerfile, {**files})
