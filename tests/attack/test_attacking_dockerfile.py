"""A Dockerfile whose steps try what they must not be able to do: built in each profile, and by a builder without its defences.

The program is tests/support/programs/attack.c. What it says is judged here, beside what the host shows: its shared memory, its
abstract socket, the executor's life. In the mutant the same program, unchanged, gets through.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.builder import Builder, Done
from tests.support.mutants import make_mutant
from tests.support.profiles import runtime_or_skip

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(180),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of x86_64"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]
every_profile = pytest.mark.parametrize("profile", ["plain", "runc", "gvisor"])
RUNTIMES = {"plain": "namespaces", "runc": "runc", "gvisor": "runsc"}
SOURCE = Path(__file__).parents[1] / "support" / "programs" / "attack.c"
TEXT, OTHER = "canary-of-the-executor-71c0", "canary-of-another-build-9e2f"
MINE = b"as the host wrote it"
GVISORS_INIT = {"HOME", "LC_ALL", "MALLOC_ARENA_MAX", "PATH", "SANDBOXBUILD_IDENTITY"}

# What a step is protected by, and what is left when it isn't: see each module.
UNDEFENDED = {
    "executor/zygote.py": {
        "namespaces.NEWUSER | namespaces.NEWPID | namespaces.NEWIPC | namespaces.NEWUTS": "namespaces.NEWUTS",
        "namespaces.write_maps(pid, *maps)": "pass",
        "namespaces.die_with_parent(0)": "pass",
    },
    "executor/stepchild.py": {
        "allowed = capabilities.mask(spec.isolation.capabilities)": "allowed = (1 << capabilities.last_of_kernel() + 1) - 1",
        "if spec.isolation.seccomp_program:": "if False:",
        "namespaces.close_descriptors((0, 1, 2, channel.fileno()))": (
            "[os.set_inheritable(int(n), True) for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)]"
        ),
    },
    "executor/rootfs.py": {
        "mounts.mount_proc(place)": "mounts.attach(mounts.clone_tree('/proc', recursive=True), place)",
        "mounts.mount_mqueue(place)": "pass",
        "locks = [] if spec.insecure else _open_locks(proc)": "locks = []",
        "for name in _READ_ONLY_IN_PROC:": "for name in ():",
        "for name in _MASKED_IN_PROC:": "for name in ():",
        "    mounts.pivot_into(root_fd)\n": "    os.fchdir(root_fd)\n    os.chroot('.')\n",
    },
    "runtimes/enter.py": {
        "namespaces.NEWNS | namespaces.NEWPID | namespaces.NEWIPC | namespaces.NEWUTS": (
            "namespaces.NEWNS | namespaces.NEWPID | namespaces.NEWUTS"
        ),
    },
    "launcher/sandbox.py": {
        "SandboxMount(uplink, os.path.dirname(UPLINK_PATH)),": (
            "SandboxMount(uplink, os.path.dirname(UPLINK_PATH)), "
            "SandboxMount(os.path.dirname(plan.store), '/sandboxbuild/stores'),"
        ),
    },
}
HOSTS_NETWORK = "[network]\nhost_network = true\n[syscalls]\nprofile = 'default'\n"
NO_FILTER = '[syscalls]\nfile = "open.json"\n'


class Host:
    """What of the host is in the reach of a step that gets out: shared memory and a socket without a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.shmat.restype = ctypes.c_void_p
        self.key = 0x5B000000 | os.getpid() & 0xFFFFFF
        self._segment = self._libc.shmget(self.key, 4096, 0o1000 | 0o2000 | 0o666)  # IPC_CREAT | IPC_EXCL
        assert self._segment >= 0, os.strerror(ctypes.get_errno())
        self._place = self._libc.shmat(self._segment, None, 0)
        ctypes.memmove(self._place, MINE + b"\0", len(MINE) + 1)
        self.abstract = f"sandboxbuild-test-{os.getpid()}"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind("\0" + self.abstract)
        self.listener.listen()
        self.listener.setblocking(False)
        self.program = folder / "attack"
        subprocess.run(["gcc", "-static", "-O1", "-w", "-o", str(self.program), str(SOURCE)], check=True)

    def memory(self) -> bytes:
        return ctypes.string_at(self._place)

    def was_called(self) -> bool:
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self.listener.close()
        self._libc.shmdt(ctypes.c_void_p(self._place))
        self._libc.shmctl(self._segment, 0, None)  # IPC_RMID


class Tried(NamedTuple):
    """A finished build: what its program said by name, with the host's network too, and what the host saw of it."""

    done: Done
    said: dict[str, str]
    with_hosts_network: dict[str, str]
    memory: bytes
    was_called: bool

    def count(self, name: str) -> int:
        return int(self.said[name].split()[0])


def answers(log: str, step: str) -> dict[str, str]:
    """What the program said in one step of a plain log."""
    lines = [line for line in log.splitlines() if line.startswith(step) and " tried " in line]
    parts = [line.partition(" tried ")[2].partition(" ") for line in lines]
    return {name: words.strip() for name, _, words in parts}


class Attacks:
    """Builds the Dockerfile once for each way; tests share what came of it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._made: dict[str, Tried] = {}

    def in_profile(self, profile: str) -> Tried:
        runtime_or_skip(RUNTIMES[profile])
        return self._once(profile, "--profile", profile)

    def without_defences(self) -> Tried:
        return self._once("mutant", policy=HOSTS_NETWORK, mutant=True)

    def without_filter(self) -> Tried:
        runtime_or_skip("runsc")
        return self._once("unfiltered", "--profile", "gvisor", policy=NO_FILTER)

    def _once(self, name: str, *options: str, policy: str = "", mutant: bool = False) -> Tried:
        if name not in self._made:
            self._made[name] = self._build(name, options, policy, mutant)
        return self._made[name]

    def _build(self, name: str, options: tuple[str, ...], policy: str, mutant: bool) -> Tried:
        """The canaries lie in the build's own store and in that of another build beside it; its own context isn't copied."""
        folder = self._host.folder / name
        (folder / "other").mkdir(parents=True, exist_ok=True)
        (folder / "other" / "canary").write_text(OTHER)
        builder = Builder(folder, folder / "store")
        words = [TEXT, OTHER, str(self._host.key), self._host.abstract]
        first = 2 if "gvisor" in options else 1  # in gVisor a step can end its own init, and so itself
        program = ", ".join(f'"{word}"' for word in ["/bin/attack", *words])
        runs = [f"[{program}]", *([f"--network=host [{program}]"] if mutant else []), f'["/bin/attack", "kill", "{first}"]']
        text = "FROM scratch\nCOPY attack /bin/attack\n" + "".join(f"RUN {run}\n" for run in runs)
        context = builder.context({"Dockerfile": text, "attack": self._host.program.read_bytes(), "canary": TEXT})
        (folder / "open.json").write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
        (folder / "policy.toml").write_text(policy)
        chosen = [*options, *(["--policy-file", folder / "policy.toml"] if policy else [])]
        if mutant:
            builder.environment["PYTHONPATH"] = str(make_mutant(folder, UNDEFENDED))
        done = builder("run", "--no-cache", "--progress", "plain", *chosen, context)
        builder.check_nothing_is_left()
        said = {number: answers(done.log, f"#{number} ") for number in (2, 3, 4)}
        assert "unshare" in said[2], f"the program didn't come to its end:\n{done.log}"
        found = Tried(done, {**said[3 if not mutant else 4], **said[2]}, said[3], self._host.memory(), self._host.was_called())
        builder.remove_store()
        return found


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacks]:
    host = Host(tmp_path_factory.mktemp("attacks"))
    yield Attacks(host)
    host.close()


@pytest.mark.promise(2, "a step sees no process but its own")
@every_profile
def test_a_step_sees_no_process_but_its_init(attacks: Attacks, profile: str) -> None:
    assert attacks.in_profile(profile).said["others_seen"] == "1"


@pytest.mark.without_defence(2, "a step sees no process but its own")
def test_without_a_process_namespace_the_executor_is_seen(attacks: Attacks) -> None:
    assert attacks.without_defences().count("others_seen") >= 4


@pytest.mark.promise(2, "a step signals, kills and traces nobody outside")
@every_profile
def test_a_step_that_kills_whom_it_can_kills_no_executor(attacks: Attacks, profile: str) -> None:
    tried = attacks.in_profile(profile)
    assert tried.done.status == 0, tried.done.log
    assert tried.said["survived"] == "yes"
    assert tried.count("others_signalled") <= 1, "its own init, which heeds nothing"
    assert tried.said["others_traced"] == "0"


@pytest.mark.without_defence(2, "a step signals, kills and traces nobody outside")
def test_without_its_namespaces_a_step_kills_the_executor(attacks: Attacks) -> None:
    tried = attacks.without_defences()
    assert tried.count("others_signalled") >= 4
    assert tried.count("others_traced") >= 2
    assert tried.done.status != 0
    assert "did not complete successfully" not in tried.done.log, "it is the executor that ended, not the step"


@pytest.mark.promise(2, "a step reads no memory, environment or file of the executor")
@every_profile
def test_nothing_of_the_executor_can_be_read(attacks: Attacks, profile: str) -> None:
    tried = attacks.in_profile(profile)
    for name in ("others_memory", "others_root", "others_descriptors", "outside_files"):
        assert tried.count(name) == 0, name
    number, _, names = tried.said["others_environment"].partition(" ")
    if profile == "gvisor":  # shows the init's, which holds nothing
        assert set(filter(None, names.split(","))) <= GVISORS_INIT
    else:
        assert number == "0"


@pytest.mark.without_defence(2, "a step reads no memory, environment or file of the executor")
def test_without_its_namespaces_a_step_reads_the_executor(attacks: Attacks) -> None:
    tried = attacks.without_defences()
    for name in ("others_memory", "others_root", "others_descriptors", "outside_files", "others_environment"):
        assert tried.count(name) >= 1, name


@pytest.mark.promise(2, "another build's store is not there")
@every_profile
def test_another_build_s_store_is_not_found(attacks: Attacks, profile: str) -> None:
    assert attacks.in_profile(profile).count("other_store") == 0


@pytest.mark.without_defence(2, "another build's store is not there")
def test_a_sandbox_with_all_stores_shows_them(attacks: Attacks) -> None:
    assert attacks.without_defences().count("other_store") >= 1


@pytest.mark.promise(2, "a step inherits no descriptor, keyring or working directory")
@every_profile
def test_no_descriptor_is_open_but_the_streams(attacks: Attacks, profile: str) -> None:
    assert attacks.in_profile(profile).said["inherited"] == "0"


@pytest.mark.without_defence(2, "a step inherits no descriptor, keyring or working directory")
def test_descriptors_that_are_not_closed_are_inherited(attacks: Attacks) -> None:
    assert attacks.without_defences().count("inherited") >= 3


@pytest.mark.promise(2, "a step can't mount, unmount or make namespaces")
@every_profile
def test_no_mount_and_no_namespace_can_be_made(attacks: Attacks, profile: str) -> None:
    tried = attacks.in_profile(profile)
    calls = ("mount_tmpfs", "mount_bind", "mount_proc", "mount_again", "umount", "fsopen", "open_tree", "unshare")
    assert {name: tried.said[name] for name in calls} == dict.fromkeys(calls, "EPERM")


@pytest.mark.without_defence(2, "a step can't mount, unmount or make namespaces")
def test_with_capabilities_and_no_filter_mounts_are_made(attacks: Attacks) -> None:
    tried = attacks.without_defences()
    calls = ("mount_tmpfs", "mount_bind", "fsopen", "open_tree")
    assert {name: tried.said[name] for name in calls} == dict.fromkeys(calls, "done")


@pytest.mark.promise(2, "a step stays in its root")
@every_profile
def test_the_double_chroot_of_a_program_stays_inside(attacks: Attacks, profile: str) -> None:
    assert attacks.in_profile(profile).said["double_chroot"] == "inside"


@pytest.mark.without_defence(2, "a step stays in its root")
def test_a_root_that_was_only_changed_is_left(attacks: Attacks) -> None:
    assert attacks.without_defences().said["double_chroot"] == "outside"


@pytest.mark.promise(2, "device nodes open nothing")
@every_profile
def test_no_device_can_be_made_and_the_harmless_are_there(attacks: Attacks, profile: str) -> None:
    tried = attacks.in_profile(profile)
    assert tried.said["devices_made"] == "0"
    seen = set(tried.said["devices_seen"].strip(",").split(","))
    assert {"null", "zero"} <= seen <= {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "stdin"}


@pytest.mark.without_defence(2, "device nodes open nothing")
def test_without_the_filter_gvisor_makes_device_nodes(attacks: Attacks) -> None:
    """On the host's kernel nobody can in a user namespace; gVisor asks for no capability."""
    assert attacks.without_filter().count("devices_made") >= 3


@pytest.mark.promise(2, "/proc and /sys can't be written, and tell nothing of the host")
@every_profile
def test_system_files_are_read_only_or_masked(attacks: Attacks, profile: str) -> None:
    tried = attacks.in_profile(profile)
    assert tried.said["system_written"] == "0"
    assert tried.said["system_told"] == "0"


@pytest.mark.without_defence(2, "/proc and /sys can't be written, and tell nothing of the host")
def test_without_masks_system_files_are_written_and_read(attacks: Attacks) -> None:
    tried = attacks.without_defences()
    assert tried.count("system_written") >= 1
    assert tried.count("system_told") >= 1


@pytest.mark.promise(2, "a step shares no memory and no socket with the host")
@every_profile
def test_the_host_s_memory_and_abstract_sockets_are_not_there(attacks: Attacks, profile: str) -> None:
    tried = attacks.in_profile(profile)
    assert tried.said["shared_memory"] == "ENOENT"
    assert tried.said["abstract_socket"] == "ECONNREFUSED"
    assert tried.memory == MINE
    assert not tried.was_called


@pytest.mark.without_defence(2, "a step shares no memory and no socket with the host")
def test_in_the_host_s_namespaces_its_memory_and_sockets_are_there(attacks: Attacks) -> None:
    tried = attacks.without_defences()
    assert tried.said["shared_memory"] == "done"
    assert tried.with_hosts_network["abstract_socket"] == "done"
    assert tried.memory == b"taken"
    assert tried.was_called


@pytest.mark.promise(5, "raw and packet sockets are refused")
@every_profile
def test_sockets_below_tcp_and_udp_are_refused(attacks: Attacks, profile: str) -> None:
    tried = attacks.in_profile(profile)
    assert tried.said["raw_socket"] == "EPERM"
    assert tried.said["packet_socket"] == "EAFNOSUPPORT"


@pytest.mark.without_defence(5, "raw and packet sockets are refused")
def test_with_capabilities_and_no_filter_there_are_such_sockets(attacks: Attacks) -> None:
    tried = attacks.without_defences()
    assert tried.said["raw_socket"] == "done"
    assert tried.said["packet_socket"] == "done"


@pytest.mark.promise(5, "capabilities and groups are those of the policy")
@every_profile
def test_a_step_of_a_build_has_the_capabilities_of_the_policy(attacks: Attacks, profile: str) -> None:
    said = attacks.in_profile(profile).said
    assert {said[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {"00000000800405fb"}
    assert {said[name] for name in ("CapInh", "CapAmb") if name in said} == {"0" * 16}
    assert said["Groups"] in ("", "0")
    assert said["Seccomp"] == "2"


@pytest.mark.without_defence(5, "capabilities and groups are those of the policy")
def test_a_step_that_drops_nothing_has_every_capability(attacks: Attacks) -> None:
    tried = attacks.without_defences()
    assert int(tried.said["CapEff"], 16).bit_count() > 30


@pytest.mark.promise(2, "a step's calls are served by another kernel than the host's")
@pytest.mark.parametrize("profile", ["gvisor"])
def test_a_step_of_gvisor_does_not_meet_the_host_s_kernel(attacks: Attacks, profile: str) -> None:
    assert os.uname().release not in attacks.in_profile(profile).said["kernel"]


@pytest.mark.without_defence(2, "a step's calls are served by another kernel than the host's")
def test_a_step_of_plain_meets_the_host_s_kernel(attacks: Attacks) -> None:
    assert os.uname().release in attacks.in_profile("plain").said["kernel"]
