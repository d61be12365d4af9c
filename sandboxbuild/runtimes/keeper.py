"""The helper that the ocicli driver starts: it keeps an OCI runtime, and all that the runtime starts, in namespaces of its own.

  keeper (ends when the launcher does) - init (pid 1 of a pid namespace) - RUNTIME run - what the runtime starts

The bundle, the runtime's state and the staged mounts lie on a tmpfs that only this mount namespace has. So there is nothing to
find and delete on the host after a kill -9 of anybody: when the last process goes, all of it goes, and when init goes, the
kernel kills the last process. Mounts are made read-only and id-mapped here, outside the sandbox's user namespace, which locks
them: what is in the sandbox can't undo it, whatever the runtime does (mount_namespaces(7)).
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import sys
import time
from typing import Any, Final, NoReturn

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes.enter import CHANNEL_FD, clone_source, set_process_state
from sandboxbuild.system import files, mounts, namespaces
from sandboxbuild.system.channels import Channel

STAGE: Final = "/run"  # covered in the keeper's own mount namespace; what a runtime expects there is the host's daemons'
BUNDLE: Final = f"{STAGE}/bundle"
ROOTFS: Final = f"{BUNDLE}/rootfs"
_STATE: Final = f"{STAGE}/state"
_LOG: Final = f"{STAGE}/log"
_PID_FILE: Final = f"{STAGE}/pid"
_KILLED: Final = 137
_POLL_S: Final = 0.003
_LOG_BYTES: Final = 4096
_CGROUPS: Final = "/sys/fs/cgroup"
_UNIFIED: Final = f"{_CGROUPS}/unified"


def source_path(number: int) -> str:
    """Where the source of mount `number` is staged."""
    return f"{STAGE}/mounts/{number}"


class Setup:
    """What the driver sends: plain values. `mounts` are (source, target, writable, idmapped), `config` is config.json.

    The runtime has `patience_s` for starting it. `rootless` says that the launcher is a normal user's, and `groups_denied` that
    he has to give up setgroups(2).
    """

    __slots__ = (
        *("arguments", "binary", "cgroup", "config", "gids", "groups_denied"),
        *("mounts", "name", "patience_s", "rootless", "uids"),
    )

    def __init__(self, message: dict[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, message[name])

    arguments: list[str]
    binary: str
    cgroup: str
    config: dict[str, Any]
    gids: list[tuple[int, int, int]]
    groups_denied: bool
    mounts: list[tuple[str, str, bool, bool]]
    name: str
    patience_s: float
    rootless: bool
    uids: list[tuple[int, int, int]]


def main() -> int:
    """Never returns before the sandbox has ended; the exit status is the executor's."""
    channel = Channel(CHANNEL_FD)
    try:
        os.set_inheritable(CHANNEL_FD, False)
        os.setsid()
        return _serve(channel)
    except IsolationError as error:
        channel.send(("error", error.message, error.hint))
    except OSError as error:
        channel.send(("error", f"the sandbox can't be set up: {error}", ""))
    return 1


def _serve(channel: Channel) -> int:
    received = channel.receive()
    if received is None:
        return _KILLED
    setup = Setup(received[0])
    if setup.rootless and not _become_root(setup, channel):
        return _KILLED
    namespaces.unshare(namespaces.NEWNS | namespaces.NEWPID)
    mounts.make_private()
    namespaces.leave_keyring()
    alive_r, alive_w = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(alive_w)
        _run_init(setup, channel, alive_r)
    os.close(alive_r)
    for fd in (0, 1, 2):
        os.close(fd)
    try:
        return _watch(channel, init)
    finally:
        remove_cgroups(setup.cgroup)


def _become_root(setup: Setup, channel: Channel) -> bool:
    """A normal user's keeper: into a user namespace whose maps the launcher writes, as its id 0. False if that one is gone."""
    namespaces.unshare(namespaces.NEWUSER)
    channel.send(("unshared",))
    if channel.receive() is None:
        return False
    namespaces.become(0, groups_denied=setup.groups_denied)
    return True


def _watch(channel: Channel, init: int) -> int:
    """Wait for init, and kill it when the launcher says so or is gone. Its end is the end of all in its namespace."""
    pidfd = os.pidfd_open(init)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    if pidfd not in [fd for fd, _ in poll.poll()]:
        os.kill(init, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])
    return code if code >= 0 else 128 - code


def remove_cgroups(path: str) -> None:
    """What a killed runtime leaves: its cgroup, by now empty, in each hierarchy. `path` is one name, with a slash before it."""
    name = path.lstrip("/")
    try:
        hierarchies = [_CGROUPS, *(f"{_CGROUPS}/{entry}" for entry in os.listdir(_CGROUPS))]
    except OSError:
        return
    for hierarchy in hierarchies:
        try:
            os.rmdir(f"{hierarchy}/{name}")
        except OSError:
            continue  # none there, or somebody else's


def _run_init(setup: Setup, channel: Channel, alive_r: int) -> NoReturn:
    """Pid 1: stage everything, start the runtime, reap. Never returns."""
    status = 1
    try:
        namespaces.die_with_parent(0)
        poll = select.poll()
        poll.register(alive_r, select.POLLIN)
        if poll.poll(0):  # the keeper is gone already
            os._exit(_KILLED)
        os.close(alive_r)
        namespaces.set_name("sandbox-init")
        stage(setup)
        runtime = _start_runtime(setup)
        for fd in (0, 1, 2):
            os.close(fd)
        _await_start(runtime, setup.patience_s)
        channel.send(("started",))
        channel.close()
        status = _reap_until(runtime)
    except IsolationError as error:
        channel.send(("error", error.message, error.hint))
    except OSError as error:
        channel.send(("error", f"the sandbox can't be set up: {error}", ""))
    finally:
        os._exit(status)


def stage(setup: Setup) -> None:
    """The bundle and the mounts that it names, on a tmpfs at STAGE; a /proc that shows this pid namespace."""
    mounts.mount_proc("/proc")
    clones = _clone_mounts(setup)
    _hide_hybrid_cgroups()
    mounts.mount_tmpfs(STAGE, 64 << 20, 0o755)
    for folder in (f"{STAGE}/mounts", BUNDLE, ROOTFS):
        os.mkdir(folder, 0o755)
    os.mkdir(_STATE, 0o700)
    root_fd = os.open(ROOTFS, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in ("proc", "sys", "dev", "tmp"):
        os.close(files.make_directories(root_fd, name))
    for number, (mount_fd, (_, target, _, _)) in enumerate(zip(clones, setup.mounts, strict=True)):
        is_directory = stat.S_ISDIR(os.fstat(mount_fd).st_mode)
        _make_place(source_path(number), is_directory)
        _make_below(root_fd, target, is_directory)
        mounts.attach(mount_fd, source_path(number))
        os.close(mount_fd)
    os.close(root_fd)
    with open(f"{BUNDLE}/config.json", "w", encoding="utf-8") as file:
        json.dump(setup.config, file)


def _hide_hybrid_cgroups() -> None:
    """Leave a runtime the cgroups of version 1 where both are mounted: crun refuses a hybrid with controllers in version 2.

    They are covered: a user namespace may not unmount what it has inherited (mount_namespaces(7)).
    """
    if os.path.isdir(_UNIFIED):
        mounts.mount_tmpfs(_UNIFIED, 1 << 12, 0o755)


def _make_place(path: str, is_directory: bool) -> None:
    if is_directory:
        os.mkdir(path, 0o755)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _make_below(root_fd: int, target: str, is_directory: bool) -> None:
    parent, _, name = target.strip("/").rpartition("/")
    parent_fd = files.make_directories(root_fd, parent)
    if is_directory:
        os.close(files.make_directories(parent_fd, name))
    else:
        files.write_file(parent_fd, name, b"", 0o444)
    os.close(parent_fd)


def _clone_mounts(setup: Setup) -> list[int]:
    userns = _user_namespace(setup) if any(idmapped for *_, idmapped in setup.mounts) else -1
    try:
        return [_clone(source, writable, userns if idmapped else None) for source, _, writable, idmapped in setup.mounts]
    finally:
        if userns >= 0:
            os.close(userns)


def _clone(source: str, writable: bool, userns: int | None) -> int:
    try:
        return clone_source(source, writable, userns)
    except OSError as error:
        hint = "its filesystem or kernel lacks id-mapped mounts; use ext4, xfs, btrfs or tmpfs, or a copy" if userns else ""
        raise IsolationError(f"{source} can't be mounted into the sandbox: {error.strerror}", hint=hint) from error


def _user_namespace(setup: Setup) -> int:
    """A descriptor of a user namespace with the sandbox's maps, for mount_setattr(2)."""
    ready_r, ready_w = os.pipe()
    stay_r, stay_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(stay_w)
            namespaces.unshare(namespaces.NEWUSER)
            os.write(ready_w, b"r")
            os.read(stay_r, 1)
        finally:
            os._exit(0)
    os.close(ready_w)
    try:
        if not os.read(ready_r, 1):
            raise IsolationError("this host doesn't let us make a user namespace")
        namespaces.write_maps(pid, setup.uids, setup.gids)
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        for fd in (ready_r, stay_r, stay_w):
            os.close(fd)
        os.waitpid(pid, 0)


def _start_runtime(setup: Setup) -> int:
    argv = [setup.binary, "--root", _STATE, "--log", _LOG, *setup.arguments]
    argv += ["run", "--bundle", BUNDLE, "--pid-file", _PID_FILE, setup.name]
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            namespaces.close_descriptors((0, 1, 2))
            set_process_state()
            os.execve(setup.binary, argv, {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # noqa: S606  # no shell wanted
        except BaseException as error:
            os.write(2, f"{setup.binary}: {error}\n".encode())
        finally:
            os._exit(127)
    return pid


def _await_start(runtime: int, patience_s: float) -> None:
    """Until the runtime has written the sandbox's pid. Raises IsolationError with its log where it ends before."""
    deadline = time.monotonic() + patience_s
    while not os.path.exists(_PID_FILE):
        pid, status = os.waitpid(runtime, os.WNOHANG)
        if pid:
            raise IsolationError(f"the runtime ended with status {os.waitstatus_to_exitcode(status)}: {_last_log()}")
        if time.monotonic() > deadline:
            raise IsolationError(f"the runtime started nothing in {patience_s:g} s: {_last_log()}")
        time.sleep(_POLL_S)


def _last_log() -> str:
    try:
        with open(_LOG, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
            lines = file.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else "it said nothing"


def _reap_until(runtime: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == runtime:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
