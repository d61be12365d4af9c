"""A runtime's file is not believed: programs that don't do what it says are found out before a build starts, with status 4.

Each is runc or runsc behind a wrapper that changes the bundle, or the command line, in the way that a faulty runtime would.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.builder import Builder
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

BUSYBOX = Path("/usr/bin/busybox") if Path("/usr/bin/busybox").exists() else Path("/bin/busybox")
CORE = ("network", "ids", "syscalls", "capabilities", "sandbox_filter")
WRAPPER = """#!{python} -ISE
import json, os, sys
argv = sys.argv[1:]
if "--bundle" in argv:
    path = argv[argv.index("--bundle") + 1] + "/config.json"
    with open(path) as file:
        config = json.load(file)
    linux = config["linux"]
    {lie}
    with open(path, "w") as file:
        json.dump(config, file)
os.execv("{program}", ["{program}", *argv])
"""
NO_NAMESPACE = 'linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "{0}"]'
SERVED_BY_NOBODY = 'linux["seccomp"]["syscalls"].append({{"names": {0}, "action": "SCMP_ACT_ERRNO", "errnoRet": 0}})'


class Lie(NamedTuple):
    """What a wrapper does, the claim that it breaks, and the program behind it."""

    code: str
    claim: str
    program: str = "runc"
    claims: tuple[str, ...] = CORE


LIES = {
    "no filter over the sandbox": Lie('del linux["seccomp"]', "sandbox_filter"),
    "no --oci-seccomp": Lie('argv.remove("--oci-seccomp")', "sandbox_filter", "runsc"),
    "the host's network": Lie(
        f"{NO_NAMESPACE.format('network')}; config['mounts'] = [m for m in config['mounts'] if m['type'] != 'sysfs']", "network"
    ),
    "the host's ids": Lie('linux["uidMappings"][0]["hostID"] = linux["gidMappings"][0]["hostID"] = 0', "ids"),
    "filters that are taken and not applied": Lie(SERVED_BY_NOBODY.format('["seccomp"]'), "syscalls"),
    "capabilities that can't be given up": Lie(SERVED_BY_NOBODY.format('["capset"]'), "capabilities"),
    "the host's kernel for one of its own": Lie("pass", "kernel", claims=(*CORE, "kernel")),
}


def configure(builder: Builder, lie: Lie, limits: str = "", probe: str = "") -> None:
    """A profile `mine` over a runtime `liar`, whose program is the wrapper."""
    runtime_or_skip(lie.program)
    wrapper = builder.folder / "wrapper"
    program = next(f"{folder}/{lie.program}" for folder in ("/usr/sbin", "/usr/bin") if Path(folder, lie.program).exists())
    python = getattr(sys, "_base_executable", sys.executable)
    wrapper.write_text(WRAPPER.format(python=python, program=program, lie=lie.code))
    wrapper.chmod(0o755)
    folder = builder.folder / "config" / "sandboxbuild"
    for kind in ("profiles", "runtimes"):
        (folder / kind).mkdir(parents=True)
    head = '[profile]\nruntime = "liar"\ndescription = "of a test"\n[network]\nmode = "none"\n'
    (folder / "profiles" / "mine.toml").write_text(head + limits)
    packaged = tomllib.loads((Path(__file__).parents[2] / "runtimes" / f"{lie.program}.toml").read_text())
    arguments = packaged.get("arguments", [])
    claims = ", ".join(f'"{claim}"' for claim in (*lie.claims, "open_files", "output"))
    (folder / "runtimes" / "liar.toml").write_text(
        f'description = "of a test"\ndriver = "ocicli"\nbinary = "{wrapper}"\narguments = {arguments}\nenforces = [{claims}]\n'
        + ('peer = "root"\n' if lie.program == "runsc" else "")
        + probe
    )
    builder.environment["XDG_CONFIG_HOME"] = str(builder.folder / "config")


def small_context(builder: Builder) -> Path:
    text = 'FROM scratch\nCOPY busybox /busybox\nRUN ["/busybox", "true"]\n'
    return builder.context({"busybox": BUSYBOX.read_bytes(), "Dockerfile": text})


def test_the_wrapper_by_itself_is_a_runtime_like_another(builder: Builder) -> None:
    configure(builder, Lie("pass", ""))
    builder.run("--profile", "mine", small_context(builder))


@pytest.mark.promise(5, "a runtime that doesn't do what its file says hosts no build", profiles=("runc", "gvisor"))
@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_runtime_that_does_not_do_what_its_file_says_hosts_no_build(builder: Builder, lie: Lie) -> None:
    configure(builder, lie)
    error = builder.fail(4, "--profile", "mine", small_context(builder)).last_error
    assert "profile mine" in error
    assert f"runtime liar to enforce {lie.claim}," in error
    builder.check_nothing_is_left()


CREDULOUS = {"launcher/isolation.py": {"    check_claims(isolation.profile, isolation.runtime, host)\n": ""}}


@pytest.mark.without_defence(5, "a runtime that doesn't do what its file says hosts no build", profiles=("runc",))
def test_a_launcher_that_believes_the_file_builds_without_the_filter(builder: Builder) -> None:
    builder.environment["PYTHONPATH"] = str(make_mutant(builder.folder, CREDULOUS))
    configure(builder, LIES["no filter over the sandbox"])
    builder.run("--profile", "mine", small_context(builder))


@pytest.mark.promise(5, "a runtime that doesn't do what its file says hosts no build", profiles=("runc",))
def test_a_limit_that_a_runtime_does_not_hold_is_refused_to_who_asks_for_it(builder: Builder) -> None:
    configure(builder, Lie(SERVED_BY_NOBODY.format('["prlimit64", "setrlimit"]'), ""), "[limits]\nopen_files = 64\n")
    context = small_context(builder)
    error = builder.fail(4, "--profile", "mine", context).last_error
    assert "profile mine asks for limits.open_files" in error
    assert "mine.toml:7" in error
    assert "the runtime liar doesn't enforce" in error


def test_a_way_of_starting_that_fails_or_hangs_is_passed_over_and_remembered(builder: Builder) -> None:
    """As runsc's KVM platform hangs where the device is there and of no use."""
    log = builder.folder / "log"
    behave = (
        f'print(*argv, file=open("{log}", "a")); "--bad" in argv and sys.exit(3); '
        '__import__("time").sleep(600 * ("--slow" in argv)); argv.remove("--good")'
    )
    configure(builder, Lie(behave, ""), probe='[probe]\nalternatives = [["--bad"], ["--slow"], ["--good"]]\n')
    context = small_context(builder)
    builder.run("--profile", "mine", context)
    tried = log.read_text()
    assert [option for line in tried.splitlines() for option in line.split() if option in ("--bad", "--slow")] == [
        "--bad",
        "--slow",
    ]
    builder.run("--no-cache", "--profile", "mine", context)
    assert log.read_text().removeprefix(tried).count("--good") == 1
    builder.check_nothing_is_left()
