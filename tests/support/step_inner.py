"""Runs inside a test's sandbox in the executor's place: a line of JSON in is one request, a line of JSON out its answer."""

from __future__ import annotations

import base64
import json
import os
import shutil
import sys
import threading

from sandboxbuild.executor import zygote
from sandboxbuild.executor.run import StepMount, StepRunner, StepSpec, Zygote
from sandboxbuild.protocol.request import SCRATCH_PATH, STORE_PATH, StepIsolation
from sandboxbuild.system import capabilities, mounts

_lock = threading.Lock()


def reply(number: int, **answer: object) -> None:
    with _lock:
        sys.stdout.write(json.dumps({"id": number, **answer}) + "\n")
        sys.stdout.flush()


def spec_of(wanted: dict, root: str) -> StepSpec:
    wanted = {
        name: tuple(map(tuple, value)) if value and isinstance(value, list) and isinstance(value[0], list) else value
        for name, value in wanted.items()
    }
    found = []
    for mount in wanted.pop("mounts", ()):
        mount = dict(mount)
        mount["content"] = base64.b64decode(mount.get("content", ""))
        found.append(StepMount(**mount))
    isolation = dict(wanted.pop("isolation", {}))
    isolation["seccomp_program"] = base64.b64decode(isolation.get("seccomp_program", ""))
    if "capabilities" in isolation:
        isolation["capabilities"] = tuple(isolation["capabilities"])
    if isinstance(wanted.get("resolv_conf"), str):
        wanted["resolv_conf"] = wanted["resolv_conf"].encode()
    for name in ("argv", "groups"):
        wanted[name] = tuple(wanted.get(name, ()))
    return StepSpec(root=root, mounts=tuple(found), isolation=StepIsolation(**isolation), **wanted)


def step(runner: StepRunner, request: dict) -> None:
    number = request["id"]
    work = f"{SCRATCH_PATH if os.path.isdir(SCRATCH_PATH) else STORE_PATH}/steps/{number}"
    for name in ("upper", "work", "root"):
        os.makedirs(f"{work}/{name}")
        os.chown(f"{work}/{name}", 0, 0)
    lower = f"{STORE_PATH}/{request.get('lower', 'lower')}"
    mounts.mount_overlay(f"{work}/root", [lower], f"{work}/upper", f"{work}/work")
    output = bytearray()
    cancel_r, cancel_w = os.pipe()
    cancels[number] = cancel_w
    heard: list[str] = []

    def listeners(fds: list[int]) -> None:
        import socket

        for fd in fds:
            with socket.socket(fileno=fd) as opened:
                heard.append(f"{opened.getsockname()}")

    try:
        outcome = runner.run(
            spec_of(request["spec"], f"{work}/root"),
            lambda _, chunk: output.extend(chunk),
            on_listeners=listeners,
            cancel_fd=cancel_r,
        )
    except Exception as error:
        reply(number, error=f"{type(error).__name__}: {error}")
        return
    finally:
        mounts.unmount(f"{work}/root")
    upper = sorted(
        os.path.relpath(os.path.join(folder, name), f"{work}/upper")
        for folder, folders, names in os.walk(f"{work}/upper")
        for name in folders + names
    )
    times = {name: os.lstat(f"{work}/upper/{name}").st_mtime_ns for name in upper}
    shutil.rmtree(work)
    text = base64.b64encode(bytes(output[: 1 << 20])).decode()
    reply(number, **outcome._asdict(), output=text, size=len(output), upper=upper, times=times, heard=heard)


cancels: dict[int, int] = {}


def patch(module: object, name: str, value: object) -> None:
    """Put `value` in the place of something that `module` has: what is not there can't be taken out."""
    getattr(module, name)
    setattr(module, name, value)


def start_changed(code: str) -> StepRunner:
    """A zygote of its own that has run `code`, which may call patch(); this process stays as it was."""
    done_r, done_w = os.pipe()
    original = zygote._run

    def changed(*arguments: object) -> None:
        try:
            exec(code, {"patch": patch})
            os.write(done_w, b"y")
        except BaseException as error:
            os.write(done_w, f"n{type(error).__name__}: {error}".encode())
            os._exit(1)
        original(*arguments)

    zygote._run = changed
    try:
        started = Zygote.start()
    finally:
        zygote._run = original
    answer = os.read(done_r, 1000).decode()
    os.close(done_r)
    os.close(done_w)
    if answer != "y":
        raise RuntimeError(answer[1:])
    return StepRunner(started)


def main() -> None:
    capabilities.take_identity()
    runner = StepRunner(Zygote.start())
    others: dict[str, StepRunner] = {}  # by name, steps of zygotes that were forked with some code of ours replaced
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "step":
            threading.Thread(target=step, args=(others.get(request.get("zygote", ""), runner), request)).start()
        elif request["op"] == "zygote":
            try:
                others[request["name"]] = start_changed(request["code"])
                reply(request["id"], value=None)
            except BaseException as error:
                reply(request["id"], error=f"{type(error).__name__}: {error}")
        elif request["op"] == "cancel":
            os.write(cancels[request["step"]], b"x")
        elif request["op"] == "python":
            scope: dict = {}
            try:
                exec(request["code"], scope)
                reply(request["id"], value=scope.get("value"))
            except BaseException as error:
                reply(request["id"], error=f"{type(error).__name__}: {error}")


main()
