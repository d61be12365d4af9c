"""What an executor that was taken over gets from registries with the build's own socket. The oracle is what these hold and log.

The executor is a mutant: in the place where it opens its uplink, in each profile, it asks for all that isn't its build's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sandboxbuild.gateway.process import Gateway
from tests.integration.bad_registry import BadRegistry, bad_registry, reply
from tests.integration.registry_fixtures import RunningRegistry, gateway_for, running_registry
from tests.support.builder import Builder, run_tool
from tests.support.hostile_executor import CONFIG, digest_of, manifest
from tests.support.images import busybox_layout
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

PROFILES = ("plain", "runc", "gvisor")
RUNTIMES = {"plain": "namespaces", "runc": "runc", "gvisor": "runsc"}
HOSTILE = Path(__file__).parents[1] / "support" / "hostile_executor.py"
BEGINS = {
    "    publisher = Publisher(": """\
    from sandboxbuild.executor.hostile import attack
    attack()
    publisher = Publisher("""
}
ANY_NAME = {'_NAME: Final = re.compile(r"': '_NAME: Final = re.compile(r"(?:[a-z0-9]+/)+(?:\\.\\./)+private/secret|'}
CLOSED = "[registries]\npull = []\n"
TRICKS = {"dots", "encoded-dots", "encoded-slash", "double-slash", "query", "user", "absolute", "host", "fetch", "connect"}


class Got(NamedTuple):
    """What the hostile executor got: tags of team/ that name its manifest, layers of team/app, log lines of reads of private/,
    requests of its own to the stranger, pulls by the other build's gateway; refusals in the log; and what it was answered."""

    tags: set[str]
    layers: set[str]
    reads: list[str]
    stranger: list[str]
    theirs: list[str]
    refused: int
    answers: dict[str, str]


class Scene:
    """A registry with an image in private/secret, another registry, the gateway of another build, and mutants that push to
    team/app:1."""

    def __init__(self, folder: Path, registry: RunningRegistry, stranger: BadRegistry, theirs: Gateway) -> None:
        self.folder = folder
        self.theirs = theirs
        self.registry = registry
        self.stranger = stranger
        private = f"docker://{registry.host}/private/secret:1"
        run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", private)
        found = json.loads(run_tool("skopeo", "inspect", "--raw", "--tls-verify=false", private))
        self.private_blob: str = found["layers"][0]["digest"]
        self.program = self.mutant("executor", {})

    def mutant(self, name: str, changes: dict[str, dict[str, str]]) -> Path:
        (self.folder / name).mkdir()
        made = make_mutant(self.folder / name, {"executor/build.py": BEGINS, **changes})
        text = HOSTILE.read_text()
        for placeholder, value in (
            ('"REGISTRY", "STRANGER"', f'"{self.registry.host}", "{self.stranger.host}"'),
            ('"PRIVATE_BLOB"', f'"{self.private_blob}"'),
            ('"THEIRS"', f'"{Path(self.theirs.address).parent}"'),
        ):
            assert text.count(placeholder) == 1
            text = text.replace(placeholder, value)
        (made / "sandboxbuild" / "executor" / "hostile.py").write_text(text)
        return made

    def build(self, program: Path, policy: str, *options: str, status: int = 0) -> Got:
        """One build of team/app:1 by a mutant, from an empty team/."""
        repositories = self.registry.root / "docker/registry/v2/repositories/team"
        run_tool("rm", "-rf", repositories)
        logged = self.registry.log.stat().st_size
        self.stranger.seen.clear()
        self.theirs.records.clear()
        builder = Builder(self.folder)
        builder.environment |= {"PYTHONPATH": str(program), "SANDBOXBUILD_DEBUG": "1"}
        (self.folder / "policy.toml").write_text(policy)
        audit = self.folder / "audit.log"
        audit.unlink(missing_ok=True)
        files = ("--policy-file", self.folder / "policy.toml", "--audit-log", audit)
        names = ("-t", f"{self.registry.host}/team/app:1", *options)
        context = builder.context({"Dockerfile": "FROM scratch\nCOPY . /\n"})
        done = builder("run", "--progress", "plain", *files, *names, "--push", context)
        assert done.status == status, done.log
        builder.check_nothing_is_left()
        links = repositories.rglob(f"_manifests/tags/*/index/sha256/{digest_of(manifest(CONFIG)).partition(':')[2]}")
        lines = self.registry.log.read_text()[logged:].splitlines()
        return Got(
            {f"{link.parents[5].relative_to(repositories)}:{link.parents[2].name}" for link in links},
            {f"sha256:{found.name}" for found in repositories.glob("app/_layers/sha256/*")},
            [line for line in lines if "private/secret" in line and "from=private" not in line],
            [seen.path for seen in self.stranger.seen if seen.path == "/direct" or digest_of(CONFIG) in seen.path],
            [record.name for record in self.theirs.records],
            sum(json.loads(line)["kind"] == "refuse" for line in audit.read_text().splitlines()),
            dict(re.findall(r"hostile ([a-z-]+): (.*)", done.log)),
        )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("theirs")
    with (
        running_registry(tmp_path_factory.mktemp("registry")) as registry,
        bad_registry("127.0.0.2") as stranger,
        gateway_for(folder) as theirs,
    ):
        stranger.answers["POST /v2/team/app/blobs/uploads/"] = reply(202, b"", Location="/v2/team/app/blobs/uploads/x")
        for path in (folder, *folder.parents[:2], folder / "uplink"):
            path.chmod(0o777)  # so that it is out of reach because it isn't there, not because of its owner
        yield Scene(tmp_path_factory.mktemp("pushes"), registry, stranger, theirs.gateway)


@pytest.fixture(scope="module")
def closed(scene: Scene) -> Callable[[str], Got]:
    """What it got under a command line with one destination, once for each profile."""
    done: dict[str, Got] = {}

    def build(profile: str) -> Got:
        runtime_or_skip(RUNTIMES[profile])
        if profile not in done:
            done[profile] = scene.build(scene.program, CLOSED, "--profile", profile)
            assert done[profile].answers["own-tag"] == "201 201"
            assert done[profile].answers.keys() >= {"connect", "session", "their-socket", "direct", *TRICKS}
        return done[profile]

    return build


@pytest.fixture(scope="module")
def opened(scene: Scene) -> Got:
    """What it got under a command line with more destinations (one of which takes no image) and a policy with another pull."""
    names = (f"{scene.registry.host}/team/app:2", f"{scene.registry.host}/team/other:1", f"{scene.stranger.host}/team/app:1")
    policy = f'[registries]\npull = ["{scene.registry.host}/private/*"]\n'
    return scene.build(scene.program, policy, *(part for name in names for part in ("-t", name)), status=5)


@pytest.mark.promise(3, "a build pushes to the destinations of its command line alone")
@pytest.mark.parametrize("profile", PROFILES)
def test_no_other_tag_repository_or_registry_is_pushed_to(profile: str, closed: Callable[[str], Got]) -> None:
    got = closed(profile)
    assert got.tags == {"app:1"}
    assert got.stranger == []
    assert got.refused >= len([answer for answer in got.answers.values() if " 40" in f" {answer}"])


@pytest.mark.without_defence(3, "a build pushes to the destinations of its command line alone")
def test_destinations_of_the_command_line_are_pushed_to(opened: Got) -> None:
    assert opened.tags == {"app:1", "app:2", "other:1"}
    assert opened.stranger


@pytest.mark.promise(3, "a build reads no repository that its policy doesn't name")
@pytest.mark.parametrize("profile", PROFILES)
def test_no_other_repository_is_read(profile: str, closed: Callable[[str], Got]) -> None:
    assert closed(profile).reads == []


@pytest.mark.without_defence(3, "a build reads no repository that its policy doesn't name")
def test_a_repository_that_the_policy_names_is_read(opened: Got) -> None:
    assert len(opened.reads) >= 6  # manifest, its HEAD, blob, its range, tags, referrers


@pytest.mark.promise(3, "no blob is mounted out of a repository that the build may not pull")
@pytest.mark.parametrize("profile", PROFILES)
def test_no_blob_is_mounted_from_elsewhere(profile: str, closed: Callable[[str], Got], scene: Scene) -> None:
    assert scene.private_blob not in closed(profile).layers


@pytest.mark.without_defence(3, "no blob is mounted out of a repository that the build may not pull")
def test_a_blob_is_mounted_from_a_repository_that_may_be_pulled(opened: Got, scene: Scene) -> None:
    assert scene.private_blob in opened.layers


@pytest.mark.promise(3, "no spelling of a path leads to another repository")
@pytest.mark.parametrize("profile", PROFILES)
def test_odd_paths_lead_nowhere(profile: str, closed: Callable[[str], Got]) -> None:
    got = closed(profile)
    assert {name: got.answers[name][0] for name in TRICKS} == dict.fromkeys(TRICKS, "4")
    assert got.reads == [] and got.stranger == []


@pytest.mark.without_defence(3, "no spelling of a path leads to another repository")
def test_dots_lead_to_another_repository_where_they_pass_for_a_name(scene: Scene) -> None:
    program = scene.mutant("dots", {"registry/routes.py": ANY_NAME})
    got = scene.build(program, f'[registries]\npull = ["{scene.registry.host}/team/**"]\n')
    assert any('"/v2/private/secret/manifests/1"' in line for line in got.reads), got.reads


@pytest.mark.promise(3, "another build's socket is out of reach")
@pytest.mark.parametrize("profile", PROFILES)
def test_another_builds_socket_is_out_of_reach(profile: str, closed: Callable[[str], Got]) -> None:
    assert closed(profile).theirs == []


@pytest.mark.without_defence(3, "another build's socket is out of reach")
def test_another_builds_socket_serves_a_sandbox_that_it_is_mounted_into(scene: Scene) -> None:
    own = "mounts=(SandboxMount(plan.bundle.path, TARGET), "
    theirs = f'SandboxMount("{Path(scene.theirs.address).parent}", "/theirs", writable=True), '
    got = scene.build(scene.mutant("mounted", {"launcher/sandbox.py": {own: own + theirs}}), CLOSED)
    assert got.theirs == [f"{scene.registry.host}/private/secret"]


@pytest.mark.promise(3, "an executor has no network but its uplink")
@pytest.mark.parametrize("profile", PROFILES)
def test_no_connection_goes_round_the_gateway(profile: str, closed: Callable[[str], Got]) -> None:
    assert closed(profile).stranger == []


@pytest.mark.without_defence(3, "an executor has no network but its uplink")
def test_a_connection_goes_round_the_gateway_over_the_hosts_network(scene: Scene) -> None:
    got = scene.build(scene.program, "[network]\nhost_network = true\n")
    assert got.stranger == ["/direct"]
