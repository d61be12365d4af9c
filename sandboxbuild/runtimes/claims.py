"""What a runtime's file claims, tried in a sandbox of that runtime: the trials run inside, their oracles are on the host.

sandboxbuild/executor/claims.py is the program inside. A claim that no trial is known for is not believed.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import IdRange, Runtime, Sandbox, SandboxMount, SandboxSpec
from sandboxbuild.runtimes.bundle import TARGET, Bundle
from sandboxbuild.runtimes.bundles import used_bundle
from sandboxbuild.runtimes.namespaces import id_ranges
from sandboxbuild.system import cgroups, idmap, seccomp
from sandboxbuild.system.cgroups import Place
from sandboxbuild.system.groups import BuildGroup
from sandboxbuild.system.process import tree_commands, tree_usage

INNER: Final = "sandboxbuild.executor.claims"
FOLDER: Final = "/sandboxbuild/probe"
REFUSED_CALL: Final = "sched_getscheduler"  # to all of the sandbox, where the runtime filters it
_REFUSED_TO_STEP: Final = "getpriority"
OWNED: Final = "owned"
MEMORY_BYTES: Final = 64 << 20
PROCESSES: Final = 10
_ANSWER_BYTES: Final = 65536
_HELD: Final = frozenset({"memory", "pids", "cpu"})
LOOKED_AT: Final = _HELD | {"kernel"}  # from outside alone


def refuted(
    runtime: Runtime, claims: Collection[str], cache_folder: str, places: Sequence[Place], patience_s: float
) -> dict[str, str]:
    """Those of `claims` that aren't so on this host, and why. Where groups can be made in `places`, the sandbox has one.

    Raises IsolationError where no sandbox starts, or none answers in `patience_s`.
    """
    probe_id = f"probe-{os.getpid()}-{secrets.token_hex(4)}"
    group = BuildGroup(places, probe_id) if places and _HELD & set(claims) else None
    groups = group.folders if group else ()
    try:
        with used_bundle(cache_folder) as bundle:
            deadline = time.monotonic() + patience_s  # from here on, since the bundle may have had to be made
            found = _try(runtime, probe_id, set(claims) - {"host_network"}, bundle, groups, deadline)
            if "host_network" in claims:
                found |= _try(runtime, probe_id, {"host_network"}, bundle, groups, deadline)
    finally:
        if group is not None:
            group.close()
    return found


def _try(
    runtime: Runtime, probe_id: str, claims: set[str], bundle: Bundle, groups: tuple[str, ...], deadline: float
) -> dict[str, str]:
    plan = idmap.find()
    with _listener() as port, _folder(os.path.dirname(bundle.path), plan) as folder:
        spec = _spec(plan, probe_id, folder, bundle)
        network = "host" if "host_network" in claims else "none"
        sandbox = runtime.launch(spec._replace(network=network, cgroups=groups))
        try:
            answers = _ask(sandbox, _question(claims, port), deadline)
            looked = _look(sandbox.pid, claims, plan, folder, groups)
            sandbox.stdin.close()
            sandbox.wait(max(0.1, deadline - time.monotonic()))
        except TimeoutError as error:
            raise IsolationError("a sandbox of nothing but the interpreter didn't end") from error
        finally:
            sandbox.close()
    reasons = {claim: answers.get(claim, "") or looked.get(claim, "") for claim in {*answers, *looked}}
    return {claim: reasons.get(claim, "nothing is known that would show it") for claim in claims if reasons.get(claim, "?")}


def _spec(plan: idmap.IdPlan, probe_id: str, folder: str, bundle: Bundle) -> SandboxSpec:
    uids, gids = id_ranges(plan)
    return SandboxSpec(
        build_id=probe_id,
        argv=(*bundle.argv_prefix, "-m", INNER),
        environment=bundle.environment,
        mounts=(SandboxMount(bundle.path, TARGET), SandboxMount(folder, FOLDER, writable=True)),
        uid_ranges=uids,
        gid_ranges=gids,
        identity=plan.identity,
        network="none",
        scratch="",
        refused_calls=(REFUSED_CALL,),
    )


def _question(claims: set[str], port: int) -> dict[str, Any]:
    step_filter = seccomp.compile_profile(b'{"defaultAction": "SCMP_ACT_ALLOW"}', capabilities=(), deny=(_REFUSED_TO_STEP,))
    return {"claims": sorted(claims), "port": port, "release": os.uname().release, "filter": step_filter.hex()}


@contextmanager
def _listener() -> Iterator[int]:
    """A port of the host's loopback on which somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@contextmanager
def _folder(cache_folder: str, plan: idmap.IdPlan) -> Iterator[str]:
    """A folder that the sandbox writes to."""
    folder = tempfile.mkdtemp(prefix=".probe-", dir=cache_folder)
    try:
        if os.geteuid() == 0:
            uids, gids = id_ranges(plan)
            os.chown(folder, _outside(uids, plan.identity), _outside(gids, plan.identity))
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _outside(ranges: tuple[IdRange, ...], inside: int) -> int:
    return next(entry.outside + inside - entry.inside for entry in ranges if 0 <= inside - entry.inside < entry.length)


def _ask(sandbox: Sandbox, question: dict[str, Any], deadline: float) -> dict[str, str]:
    """The answer of the program inside. Raises IsolationError, TimeoutError."""
    sandbox.stdin.write(json.dumps(question).encode() + b"\n")
    sandbox.stdin.flush()
    text = b""
    poll = select.poll()
    poll.register(sandbox.stdout.fileno(), select.POLLIN)
    while not text.endswith(b"\n"):
        if not poll.poll(max(0, (deadline - time.monotonic()) * 1000)):
            raise TimeoutError
        piece = os.read(sandbox.stdout.fileno(), _ANSWER_BYTES)
        text += piece
        if not piece or len(text) > _ANSWER_BYTES:
            raise IsolationError(f"the interpreter doesn't run in it{_last_words(sandbox)}")
    try:
        return {str(claim): str(reason) for claim, reason in json.loads(text)["answers"].items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise IsolationError("what answers in it is not our program") from error


def _last_words(sandbox: Sandbox) -> str:
    lines = sandbox.stderr.read(4096).decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""


def _look(pid: int, claims: set[str], plan: idmap.IdPlan, folder: str, groups: Sequence[str]) -> dict[str, str]:
    """What shows on the host while the program inside holds still, for the claims that need it."""
    found = {}
    if "ids" in claims:
        found["ids"] = _owner_fault(f"{folder}/{OWNED}", plan)
    if "kernel" in claims:
        inside = any(INNER in command for command in tree_commands(pid).values())
        found["kernel"] = "its program is a process of the host's kernel" if inside else ""
    if claims & _HELD:
        fault = _group_fault(pid, groups) if groups else ""
        found |= {claim: fault or reason for claim, reason in _usage_faults(pid).items() if claim in claims}
    return found


def _owner_fault(path: str, plan: idmap.IdPlan) -> str:
    """The sandbox's id 0 has made the file: on the host it has to be the id that stands for that one."""
    try:
        owner = os.stat(path).st_uid
    except OSError:
        return "the sandbox's id 0 could make no file"
    wanted = _outside(id_ranges(plan)[0], 0)
    return "" if owner == wanted and owner != 0 else f"the sandbox's id 0 is {owner} on the host, not {wanted}"


def _usage_faults(pid: int) -> dict[str, str]:
    """Memory and processes of the sandbox are seen below its helper: where there is no group, limits are held by looking."""
    usage = tree_usage(pid)
    memory = f"{usage.memory_bytes} bytes are seen of a program that holds {MEMORY_BYTES}"
    tasks = f"{usage.tasks} tasks are seen of {PROCESSES}"
    return {
        "memory": "" if usage.memory_bytes >= MEMORY_BYTES else memory,
        "pids": "" if usage.tasks >= PROCESSES else tasks,
        "cpu": "",
    }


def _group_fault(pid: int, groups: Sequence[str]) -> str:
    """Every process of the sandbox is in the groups that its helper was put into, or below them."""
    for group in groups:
        held = {
            int(line) for folder in (group, *cgroups.below(group)) for line in cgroups.read(f"{folder}/cgroup.procs").split()
        }
        if set(tree_commands(pid)) - held:
            return f"some of its processes leave the cgroup {group}"
    return ""
