"""What a policy does to a whole build, and what the build says: hints, learning, sources, logs, ways to the gateway."""

from __future__ import annotations

import json
import os
import signal
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.integration.registry_fixtures import running_registry
from tests.support.builder import COMMAND, run_tool, wait_until
from tests.support.images import busybox_layout, debian_layout
from tests.support.outside import Outside, descends, outside_world, pid_of_gateway

pytestmark = pytest.mark.root

NAME, OTHER = "files.example.com", "other.example.com"
RANGES = '[network]\nranges = ["127.0.0.0/8"]\n'
ALLOWED = f'{RANGES}[network.run]\nallow = ["{NAME}:80"]\n'


class Scene(NamedTuple):
    """A world, and a registry with `base`, a busybox, under several names."""

    outside: Outside
    registry: str
    root: Path

    @property
    def base(self) -> str:
        return f"{self.registry}/busybox:1"

    def context(self, steps: str, base: str = "", name: str = "context") -> Path:
        return self.outside.builder.context({"Dockerfile": f"FROM {base or self.base}\n{steps}"}, name)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("outside")
    with running_registry(tmp_path_factory.mktemp("registry")) as registry, outside_world(folder, NAME, OTHER) as outside:
        for name in ("busybox:1", "tools:1"):
            target = f"docker://{registry.host}/{name}"
            run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{busybox_layout()}:latest", target)
        yield Scene(outside, registry.host, registry.root)


@pytest.fixture(autouse=True)
def _fresh(scene: Scene) -> None:
    scene.outside.world.requests.clear()


def test_a_failed_step_is_told_with_its_names_ports_and_the_line(scene: Scene) -> None:
    steps = f"RUN wget -q http://{NAME}:8080/; wget -q http://{OTHER}/; exit 7\n"
    done = scene.outside.builder.fail(1, "--policy-file", scene.outside.policy(ALLOWED), scene.context(steps))
    assert "exit code: 7" in done.last_error
    assert f"asked for {NAME}:8080, {OTHER}, which the policy doesn't allow" in done.log
    assert f'[network.run] allow = ["{NAME}:8080", "{OTHER}"]' in done.log


def test_a_refused_name_fails_in_milliseconds(scene: Scene) -> None:
    steps = f"RUN a=$(date +%s); wget -q http://{OTHER}/; b=$(date +%s); test $((b - a)) -lt 2\n"
    scene.outside.builder.run("--no-cache", "--policy-file", scene.outside.policy(ALLOWED), scene.context(steps))


@pytest.mark.parametrize(
    ("limit", "script"),
    [
        ('download = "1MiB"', f"wget -qO- http://{NAME}/big > /dev/null"),
        ("connections_total = 2", f"for n in 1 2 3; do wget -qO- http://{NAME}/n || exit 5; done"),
        ('time = "1s"', f"(echo; sleep 30) | nc {NAME} 80"),
    ],
)
def test_a_limit_that_is_hit_is_named_by_its_key(scene: Scene, limit: str, script: str) -> None:
    policy = scene.outside.policy(f"{ALLOWED}[network.limits.step]\n{limit}\n")
    done = scene.outside.builder.fail(1, "--no-cache", "--policy-file", policy, scene.context(f"RUN {script}; exit 5\n"))
    hint = next(line for line in done.log.splitlines() if line.startswith("hint: "))
    assert limit.split(maxsplit=1)[0] in hint


def test_a_name_that_does_not_resolve_is_no_matter_of_the_policy(scene: Scene) -> None:
    policy = scene.outside.policy('[network.run]\nallow = ["nowhere.example.com"]\n')
    done = scene.outside.builder.fail(1, "--policy-file", policy, scene.context("RUN wget -q http://nowhere.example.com/\n"))
    hint = next(line for line in done.log.splitlines() if line.startswith("hint: "))
    assert "nowhere.example.com has no address" in hint
    assert "policy" not in hint


def test_a_host_of_the_command_line_is_allowed_beside_the_policy(scene: Scene) -> None:
    steps = f"RUN wget -qO- http://{OTHER}/cli && wget -qO- http://{NAME}/file\n"
    policy = scene.outside.policy(ALLOWED)
    scene.outside.builder.run("--policy-file", policy, "--allow-host", f"{OTHER}:80", scene.context(steps))
    assert len(scene.outside.world.requests) == 2
    scene.outside.builder.fail(2, "--allow-host", "127.0.0.1:80", scene.context(steps))


def test_a_learned_policy_passes_and_one_host_more_fails(scene: Scene, tmp_path: Path) -> None:
    learned = tmp_path / "learned.toml"
    steps = f"RUN wget -qO- http://{NAME}/a\n"
    builder = scene.outside.builder
    builder.run("--policy-file", scene.outside.policy(RANGES), "--learn", learned, scene.context(steps))
    document = tomllib.loads(learned.read_text())
    assert document["network"]["run"]["allow"] == [{"host": NAME, "ports": [80], "ranges": ["127.0.0.0/8"]}]
    assert document["registries"] == {"from_dockerfile": False, "pull": [f"{scene.registry}/busybox"]}
    assert list(document["sources"]["digests"]) == [scene.base]
    builder.run("--no-cache", "--policy-file", learned, scene.context(steps))
    builder.fail(1, "--policy-file", learned, scene.context(steps + f"RUN wget -qO- http://{OTHER}/b\n"))


def test_the_hosts_network_needs_a_policy_that_says_so(scene: Scene) -> None:
    builder = scene.outside.builder
    for options, steps in ((("--network=host",), "RUN true\n"), ((), "RUN --network=host true\n")):
        done = builder.fail(4, *options, scene.context(steps))
        assert "host_network = true" in done.log
    policy = scene.outside.policy("[network]\nhost_network = true\n")
    done = builder.run("--policy-file", policy, scene.context("RUN --network=host ip link | grep -c ' lo'; ip link | wc -l\n"))
    own = builder.run("--policy-file", policy, scene.context("RUN test $(ip link | grep -c '^[0-9]') = 1\n"))
    assert done.status == own.status == 0


def test_proxy_variables_are_there_only_where_the_policy_says_so(scene: Scene) -> None:
    builder = scene.outside.builder
    builder.run(scene.context("RUN ! env | grep -i proxy\n"))
    policy = scene.outside.policy(ALLOWED.replace("[network]", "[network]\nproxy = true"))
    steps = f'RUN test "$http_proxy" = "$HTTP_PROXY" && wget -qO- http://{NAME}/p\n'
    document = builder.metadata("--policy-file", policy, scene.context(steps))
    assert document["sandboxbuild.bases"][0]["reference"] == scene.base
    assert len(scene.outside.world.requests) == 1


def digest_of(scene: Scene, name: str) -> str:
    found: str = json.loads(run_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{scene.registry}/{name}"))["Digest"]
    return found


def test_sources_may_demand_digests(scene: Scene) -> None:
    policy = scene.outside.policy("[sources]\nrequire_digest = true\n")
    done = scene.outside.builder.fail(4, "--policy-file", policy, scene.context("RUN true\n"))
    assert "@sha256:" in done.log
    pinned = f"{scene.registry}/busybox@{digest_of(scene, 'busybox:1')}"
    scene.outside.builder.run("--policy-file", policy, scene.context("RUN true\n", pinned))
    only = scene.outside.policy(f'[sources]\nallow = ["{pinned}"]\n')
    scene.outside.builder.run("--policy-file", only, scene.context("RUN true\n", pinned))
    scene.outside.builder.fail(4, "--policy-file", only, scene.context("RUN true\n"))


def test_sources_may_pin_a_tag_and_a_moved_one_is_refused(scene: Scene) -> None:
    good, bad = digest_of(scene, "busybox:1"), f"sha256:{'0' * 64}"
    for digest, status in ((good, 0), (bad, 4)):
        policy = scene.outside.policy(f'[sources.digests]\n"{scene.base}" = "{digest}"\n')
        done = scene.outside.builder("run", "--progress", "plain", "--policy-file", str(policy), scene.context("RUN true\n"))
        assert done.status == status, done.log


def test_sources_hold_for_bases_that_an_earlier_build_left_in_the_store(scene: Scene) -> None:
    local = f"{scene.registry}/mine:1"
    scene.outside.builder.run("-t", local, scene.context("RUN true\n"))
    policy = scene.outside.policy(f'[sources]\nallow = ["{scene.registry}/busybox:*"]\n')
    scene.outside.builder.run(scene.context("RUN true\n", local))
    done = scene.outside.builder.fail(4, "--policy-file", policy, scene.context("RUN true\n", local))
    assert "not among the allowed sources" in done.log


def test_an_image_of_an_onbuild_trigger_needs_the_policys_word(scene: Scene) -> None:
    builder = scene.outside.builder
    trigger = f"{scene.registry}/trigger:1"
    steps = f"ONBUILD COPY --from={scene.registry}/tools:1 /bin/busybox /busybox\n"
    builder.run("-t", trigger, "--push", scene.context(steps))
    builder.run("-o", f"type=oci,dest={scene.outside.folder / 'unused'}", scene.context("RUN true\n"))
    done = builder.fail(4, scene.context("RUN /busybox true\n", trigger))
    assert f'[registries] pull = ["{scene.registry}/tools"] and from_dockerfile = true' in done.log
    policy = scene.outside.policy(f'[registries]\npull = ["{scene.registry}/tools"]\nfrom_dockerfile = true\n')
    builder.run("--policy-file", policy, scene.context("RUN /busybox true\n", trigger))


def test_a_pull_that_no_pattern_names_is_refused(scene: Scene) -> None:
    policy = scene.outside.policy(f'[registries]\npull = ["{scene.registry}/team/*"]\n')
    done = scene.outside.builder.fail(4, "--policy-file", policy, scene.context("RUN true\n"))
    assert f'pull = ["{scene.registry}/busybox"]' in done.log


def test_the_audit_log_tells_all_and_reads_as_a_table(scene: Scene, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    steps = f"RUN wget -qO- http://{NAME}/a; wget -qO- http://{OTHER}/b || true\n"
    builder = scene.outside.builder
    target = f"{scene.registry}/team/audited:1"
    options = ("--policy-file", scene.outside.policy(ALLOWED), "--audit-log", log, "-t", target, "--push")
    builder.run("--no-cache", *options, scene.context(steps))
    assert (log.stat().st_mode & 0o777) == 0o600
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert {record["kind"] for record in records} == {"step", "connect", "refuse", "pull", "push"}
    connect = next(record for record in records if record["kind"] == "connect")
    assert (connect["name"], connect["port"], connect["address"]) == (NAME, 80, scene.outside.world.address)
    assert connect["received"] > 0
    table = run_tool(COMMAND, "audit", log)
    assert f"{NAME}:80" in table
    assert "wget" in table
    assert f"{OTHER} isn't allowed" in table


def test_a_log_that_can_not_be_written_is_an_error_before_the_build(scene: Scene) -> None:
    done = scene.outside.builder.fail(3, "--audit-log", "/dev/full/none", scene.context("RUN true\n"))
    assert "audit log" in done.last_error


def test_a_log_that_ends_half_way_fails_the_build(scene: Scene) -> None:
    done = scene.outside.builder.fail(3, "--audit-log", "/dev/full", scene.context("RUN true\n"))
    assert "not complete" in done.last_error


def test_the_uplink_may_be_tcp_with_a_token(scene: Scene) -> None:
    policy = scene.outside.policy("[network]\nhost_network = true\n")
    target = f"{scene.registry}/team/over-tcp:1"
    builder = scene.outside.builder
    builder.run("--uplink=tcp", "--policy-file", policy, "-t", target, "--push", scene.context("RUN echo x > /over-tcp\n"))
    assert run_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{target}")
    done = builder.fail(4, "--uplink=tcp", scene.context("RUN true\n"))
    assert "host_network = true" in done.log


def killed_gateway(scene: Scene, ready: str, *arguments: str | Path) -> str:
    """Run a build, kill its gateway once its output has `ready`, and give the whole log."""
    with scene.outside.builder.popen("run", "--progress", "plain", *arguments) as process:
        assert process.stderr is not None
        seen = b""
        while ready.encode() not in seen:
            chunk = os.read(process.stderr.fileno(), 65536)
            assert chunk, seen.decode()
            seen += chunk
        gateway = pid_of_gateway(process.pid)
        assert gateway
        os.kill(gateway, signal.SIGKILL)
        _, rest = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    log = (seen + rest).decode()
    assert "Traceback" not in log
    return log


def test_a_gateway_killed_in_a_steps_download_is_the_builds_error(scene: Scene) -> None:
    steps = f"RUN echo ready && while wget -qO- http://{NAME}/big > /dev/null; do :; done; sleep 1; exit 9\n"
    context = scene.context(steps)
    log = killed_gateway(scene, "#2 0", "--no-cache", "--policy-file", scene.outside.policy(ALLOWED), context)
    assert "the gateway was killed by signal 9" in log
    scene.outside.builder.run("--no-cache", scene.context("RUN echo the next one works\n"))


def test_a_gateway_killed_before_a_push_is_the_builds_error(scene: Scene) -> None:
    target = f"{scene.registry}/team/killed:1"
    context = scene.context("RUN head -c 50000000 /dev/urandom > /big && sleep 1\n")
    log = killed_gateway(scene, "compress", "--no-cache", "-t", target, "--push", context)
    assert "the gateway was killed by signal 9" in log
    scene.outside.builder.run("-t", target, "--push", context)


def test_a_gateway_killed_in_a_pull_is_the_builds_error(scene: Scene) -> None:
    base = f"{scene.registry}/debian:12"
    run_tool("skopeo", "copy", "--dest-tls-verify=false", f"oci:{debian_layout()}:latest", f"docker://{base}")
    context = scene.context("RUN echo pulled\n", base)
    log = killed_gateway(scene, " pull ", context)
    assert "the gateway was killed by signal 9" in log
    assert "pulled" in scene.outside.builder.run(context).log


def descriptors_below(pid: int) -> int:
    """Open descriptors of the gateway and the executor of the command `pid`."""
    found = 0
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
            if descends(int(entry), pid) and (b"gateway.main" in command or b"executor.main" in command):
                found += len(os.listdir(f"/proc/{entry}/fd"))
        except OSError:
            continue
    return found


def test_a_thousand_connections_in_a_row_and_200_at_once_leak_no_descriptor(scene: Scene) -> None:
    get = f"wget -qO- http://{NAME}/n > /dev/null"
    row = f"n=0; while [ $n -lt 1000 ]; do {get} || exit 3; n=$((n + 1)); done"
    together = f"n=0; while [ $n -lt 200 ]; do {get} || touch /failed & n=$((n + 1)); done; wait; test ! -e /failed"
    steps = f"RUN {get}; sleep 1; echo mark-$((1)); sleep 2; {row}; {together} || exit 4; sleep 1; echo mark-$((2)); sleep 2\n"
    arguments = (
        "run",
        "--progress",
        "plain",
        "--no-cache",
        "--policy-file",
        scene.outside.policy(ALLOWED),
        scene.context(steps),
    )
    counts = []
    with scene.outside.builder.popen(*arguments) as process:
        assert process.stderr is not None
        seen = b""
        while chunk := os.read(process.stderr.fileno(), 65536):
            before, seen = seen, seen + chunk
            for mark in (b" mark-1\n", b" mark-2\n"):
                if mark in seen and mark not in before:
                    counts.append(descriptors_below(process.pid))
    assert process.returncode == 0, seen.decode()
    assert len(scene.outside.world.requests) == 1201
    assert counts[0] == counts[1]


def test_nothing_is_left_behind(scene: Scene) -> None:
    wait_until(lambda: not scene.outside.builder.processes(), what="the end of all processes")
    scene.outside.builder.check_nothing_is_left()
