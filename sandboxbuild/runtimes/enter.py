"""The helper that the namespaces driver starts: it goes into new namespaces, builds the sandbox's root and starts the executor.

A program of its own, so that no thread, lock or secret of the launcher is copied by a fork. Two user namespaces nest. The outer
one (U1) owns the mounts, the pid 1 and the network; the executor has all capabilities of the inner one (U2), whose copy of the
mounts is locked (mount_namespaces(7), "Restrictions on mount namespaces"): even a hostile executor can't make a read-only mount
writable again. Both map the same ids.

  helper (outside the pid namespace; ends when the launcher does) - init (pid 1, reaps) - executor
"""

from __future__ import annotations

import os
import resource  # here and not later: after the change of root there is nothing to import from
import select
import signal  # noqa: F401  # likewise, for default_signals
import stat
import sys

from sandboxbuild.errors import IsolationError
from sandboxbuild.system import capabilities, files, libc, mounts, namespaces, netlink
from sandboxbuild.system.channels import Channel

CHANNEL_FD = 3
_STAGING = "/tmp"  # noqa: S108  # covered in a private mount namespace, nothing is written to the host's
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = (("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"))
_TMP_BYTES = 256 << 20
_SHM_BYTES = 64 << 20
_OPEN_FILES = 65536
_KILLED = 137


class Setup:
    """What the driver sends: plain values, see namespaces.py of this folder. `mounts` are (source, target, writable)."""

    __slots__ = ("argv", "environment", "gids", "groups_denied", "identity", "mounts", "network", "uids")

    def __init__(self, message: dict[str, object]) -> None:
        for name in self.__slots__:
            setattr(self, name, message[name])

    argv: list[str]
    environment: dict[str, str]
    groups_denied: bool
    identity: int
    gids: list[tuple[int, int, int]]  # U2's maps: of inside ids to themselves, cut as U1's are
    mounts: list[tuple[str, str, bool]]
    network: str
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
        channel.send(("error", f"the sandbox can't be set up: {error}", "`sandboxbuild doctor` says what this host lacks"))
    return 1


def _serve(channel: Channel) -> int:
    received = channel.receive()
    if received is None:
        return _KILLED
    setup = Setup(received[0])
    _unshare_user()
    channel.send(("unshared",))
    received = channel.receive()  # the driver has written the maps, and gives the mounts that only root can make
    if received is None:
        return _KILLED
    _unshare_the_rest(setup)
    alive_r, alive_w = os.pipe()
    init = os.fork()
    if init == 0:
        os.close(alive_w)
        _run_init(setup, channel, received[1], alive_r)
    os.close(alive_r)
    for fd in (0, 1, 2, *received[1]):
        os.close(fd)
    return _watch(channel, init)


def _unshare_user() -> None:
    try:
        namespaces.unshare(namespaces.NEWUSER)
    except PermissionError:
        if os.geteuid() == 0:  # what root in a chroot is refused, it gets outside of one
            _attempt("leave a chroot", mounts.leave_chroot)
        _attempt("make a user namespace", namespaces.unshare, namespaces.NEWUSER)


def _unshare_the_rest(setup: Setup) -> None:
    flags = namespaces.NEWNS | namespaces.NEWPID | namespaces.NEWIPC | namespaces.NEWUTS | namespaces.NEWCGROUP
    if setup.network == "none":
        flags |= namespaces.NEWNET
    namespaces.become(setup.identity, groups_denied=setup.groups_denied)
    _attempt("make mount, pid, ipc, uts, cgroup and net namespaces", namespaces.unshare, flags)
    namespaces.leave_keyring()


def _attempt(purpose: str, action: object, *args: object) -> None:
    try:
        action(*args)  # type: ignore[operator]  # a function of ours, whatever its arguments
    except OSError as error:
        raise IsolationError(
            f"this host doesn't let us {purpose}: {error.strerror}",
            hint="`sandboxbuild doctor` says which kernel setting stands in the way",
        ) from error


def _watch(channel: Channel, init: int) -> int:
    """Wait for pid 1, and kill it when the launcher says so or is gone. Its end is the end of all in its namespace."""
    pidfd = os.pidfd_open(init)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    while True:
        ready = [fd for fd, _ in poll.poll()]
        if pidfd in ready:
            return os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) % 256
        os.kill(init, 9)
        os.waitpid(init, 0)
        return _KILLED


def _run_init(setup: Setup, channel: Channel, mount_fds: list[int], alive_r: int) -> None:
    """Pid 1: build the root, start the executor, reap. Never returns."""
    status = 1
    try:
        namespaces.die_with_parent(0)
        _die_if_orphaned(alive_r)
        namespaces.set_name("sandbox-init")
        build_root(setup, mount_fds)
        executor = _start_executor(setup)
        channel.send(("started",))
        channel.close()
        for fd in (0, 1, 2):
            os.close(fd)
        capabilities.set_own(0)
        namespaces.hide_from_tracers()
        status = _reap_until(executor)
    except IsolationError as error:
        channel.send(("error", error.message, error.hint))
    except OSError as error:
        channel.send(("error", f"the sandbox's root can't be built: {error}", ""))
    finally:
        os._exit(status)


def _die_if_orphaned(alive_r: int) -> None:
    """A parent in an outer pid namespace is 0, dead or alive; that nobody holds the pipe's other end says which."""
    poll = select.poll()
    poll.register(alive_r, select.POLLIN)
    if poll.poll(0):
        os._exit(_KILLED)
    os.close(alive_r)


def _reap_until(executor: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == executor:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def build_root(setup: Setup, mount_fds: list[int]) -> None:
    """A read-only tmpfs with the spec's mounts, a fresh /proc, a minimal /dev and /tmp; then it is all there is."""
    mounts.make_private()
    if not mount_fds:
        mount_fds = [clone_source(source, writable) for source, _, writable in setup.mounts]
    libc.sethostname(b"sandbox")
    if setup.network == "none":
        netlink.loopback_up()
    devices = [mounts.clone_tree(f"/dev/{name}") for name in _DEVICES]
    mounts.mount_tmpfs(_STAGING, 16 << 20, 0o755)
    root_fd = os.open(_STAGING, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    _mount_system(setup, root_fd)
    _make_devices(root_fd, devices)
    for mount_fd, (_, target, _) in zip(mount_fds, setup.mounts, strict=True):
        _attach(root_fd, mount_fd, target)
    mounts.make_read_only(_STAGING)
    os.close(root_fd)
    mounts.pivot_into(_STAGING)


def clone_source(source: str, writable: bool, idmap_fd: int | None = None) -> int:
    """A detached, dressed copy of the mount at `source`. Set-user-id files keep their meaning only where steps may work."""
    attributes = mounts.ATTR_NODEV if writable else mounts.ATTR_NODEV | mounts.ATTR_NOSUID | mounts.ATTR_RDONLY
    mount_fd = mounts.clone_tree(source, recursive=True)
    try:
        mounts.set_attributes(mount_fd, attributes, recursive=True)
        mounts.set_attributes(mount_fd, 0, idmap_fd=idmap_fd)
    except BaseException:
        os.close(mount_fd)
        raise
    return mount_fd


def _attach(root_fd: int, mount_fd: int, target: str) -> None:
    parent, _, name = target.strip("/").rpartition("/")
    parent_fd = files.make_directories(root_fd, parent)
    try:
        if stat.S_ISDIR(os.fstat(mount_fd).st_mode):
            place = files.make_directories(parent_fd, name)
        else:
            files.write_file(parent_fd, name, b"", 0o444)
            place = files.open_beneath(parent_fd, name, os.O_PATH)
        mounts.attach(mount_fd, place)
        os.close(place)
    finally:
        os.close(parent_fd)
        os.close(mount_fd)


def _mount_system(setup: Setup, root_fd: int) -> None:
    places = {name: files.make_directories(root_fd, name) for name in ("proc", "sys", "tmp")}
    _attempt("mount a fresh /proc (is the outer one masked?)", mounts.mount_proc, places["proc"])
    try:
        if setup.network == "none":
            mounts.mount_sysfs(places["sys"])
    except OSError:
        pass  # steps do without: some containers hide parts of /sys, and then no fresh one may be mounted
    mounts.mount_tmpfs(places["tmp"], _TMP_BYTES, 0o1777)
    for fd in places.values():
        os.close(fd)


def _make_devices(root_fd: int, devices: list[int]) -> None:
    """/dev on the root's own tmpfs, with the host's harmless devices bound into it."""
    dev = files.make_directories(root_fd, "dev")
    for name, mount_fd in zip(_DEVICES, devices, strict=True):
        files.write_file(dev, name, b"", 0o666)
        mounts.set_attributes(mount_fd, mounts.ATTR_NOSUID | mounts.ATTR_NOEXEC)
        place = files.open_beneath(dev, name, os.O_PATH)
        mounts.attach(mount_fd, place)
        os.close(place)
        os.close(mount_fd)
    for name, target in (*_LINKS, ("ptmx", "pts/ptmx")):
        os.symlink(target, name, dir_fd=dev)
    for name in ("pts", "shm"):
        place = files.make_directories(dev, name)
        if name == "pts":
            mounts.mount_devpts(place)
        else:
            mounts.mount_tmpfs(place, _SHM_BYTES, 0o1777)
        os.close(place)
    os.close(dev)


def _start_executor(setup: Setup) -> int:
    """Fork the executor into U2 and wait until its program has started. Raises IsolationError with what kept it from that."""
    unshared_r, unshared_w = os.pipe()
    mapped_r, mapped_w = os.pipe()
    failed_r, failed_w = os.pipe()
    namespaces.be_traceable()  # or /proc/PID/uid_map would belong to the host's root
    pid = os.fork()
    if pid == 0:
        _become_executor(setup, unshared_w, mapped_r, mapped_w, failed_w)
    for fd in (unshared_w, mapped_r, failed_w):
        os.close(fd)
    if os.read(unshared_r, 1):
        namespaces.write_maps(pid, setup.uids, setup.gids)
        os.write(mapped_w, b"m")
    failure = os.read(failed_r, 4096).decode(errors="replace")
    for fd in (unshared_r, mapped_w, failed_r):
        os.close(fd)
    if failure:
        raise IsolationError(f"the executor can't be started: {failure}")
    return pid


def _become_executor(setup: Setup, unshared_w: int, mapped_r: int, mapped_w: int, failed_w: int) -> None:
    try:
        os.close(mapped_w)
        namespaces.unshare(namespaces.NEWUSER | namespaces.NEWNS)
        os.write(unshared_w, b"u")
        if not os.read(mapped_r, 1):
            os._exit(1)
        os.setsid()
        namespaces.close_descriptors((0, 1, 2, failed_w))
        set_process_state()
        capabilities.keep_across_exec()
        os.execve(setup.argv[0], setup.argv, setup.environment)  # noqa: S606  # a program of the bundle, no shell wanted
    except BaseException as error:
        os.write(failed_w, f"{setup.argv[0]}: {error}".encode()[:4000])
    finally:
        os._exit(127)


def set_process_state() -> None:
    """Limits, umask and signals: set, never inherited."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files_limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files_limit, files_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o022)
    namespaces.default_signals()


if __name__ == "__main__":
    sys.exit(main())
