"""The process that becomes the step's program: it builds the root, gives up what the step shall not have, and executes."""

from __future__ import annotations

import _socket
import errno
import os
import resource
from collections.abc import Sequence
from typing import Final, NoReturn

from sandboxbuild.executor import rootfs
from sandboxbuild.executor.mountpoints import MadeStub, open_target
from sandboxbuild.executor.stepspec import STAND_IN_ADDRESS, StepSpec
from sandboxbuild.system import capabilities, knocks, libc, namespaces, netlink, seccomp
from sandboxbuild.system.channels import Channel

_DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OPEN_FILES: Final = (1024, 1048576)
_LIMITS: Final[dict[str, int]] = {
    name.removeprefix("RLIMIT_").lower(): getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")
}
_OOM_SCORE: Final = b"500"
_NOT_FOUND, _NOT_STARTED, _BROKEN = 127, 126, 125
_MISSING: Final = (errno.ENOENT, errno.ENOTDIR)


class CannotStart(Exception):
    """The step ends with `status` (126 or 127) before its program runs; the text is for the user."""

    def __init__(self, message: str, status: int = _NOT_STARTED) -> None:
        super().__init__(message)
        self.status = status


def become_step(spec: StepSpec, channel: Channel, output: Sequence[int], go_r: int) -> NoReturn:
    """Never returns. `output` are the pipes for standard output and error; a step with listeners waits for a byte on `go_r`."""
    try:
        _prepare(spec, channel, output, go_r)
        _execute(spec)
    except CannotStart as error:
        channel.send(("refused", error.status, str(error)))
    except OSError as error:
        # What the image can be the cause of is the step's failure; the rest is a kernel or host that refuses.
        ours = error.errno in (errno.EPERM, errno.ENOSYS, errno.ENODEV, errno.EINVAL, errno.ENOSPC)
        channel.send(("broken", str(error)) if ours else ("refused", _NOT_STARTED, f"the step can't be set up: {error}"))
    except BaseException as error:
        channel.send(("broken", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(_BROKEN)


def _prepare(spec: StepSpec, channel: Channel, output: Sequence[int], go_r: int) -> None:
    os.setsid()
    os.umask(0o022)
    places = rootfs.open_places(spec)
    _become_root()
    rootfs.set_host_name(spec)
    listeners = _open_network(spec)
    made: list[MadeStub] = []
    try:
        rootfs.build_root(spec, places, made)
        enter_directory(spec.cwd)
    finally:
        # Even a step that fails here has to leave nothing behind in the rootfs.
        channel.send(("stubs", [tuple(entry.stub) for entry in made]), [entry.parent_fd for entry in made])
    if listeners:
        channel.send(("listeners",), listeners)
        if not os.read(go_r, 1):
            os._exit(_BROKEN)
    null = os.open("/dev/null", os.O_RDONLY)
    for number, fd in enumerate((null, *output)):
        os.dup2(fd, number)
    namespaces.close_descriptors((0, 1, 2, channel.fileno()))
    _limit(spec)
    _drop_rights(spec)


def _become_root() -> None:
    """Uid 0 of the step's namespace, so that what is made on its tmpfs has an owner there."""
    groups_denied = _read("/proc/self/setgroups").strip() == b"deny"
    namespaces.become(0, groups_denied=groups_denied)
    namespaces.be_traceable()  # an undumpable process's own /proc files belong to the host's root
    with_oom = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    try:
        os.write(with_oom, _OOM_SCORE)
    except OSError:
        pass
    finally:
        os.close(with_oom)
    namespaces.hide_from_tracers()
    namespaces.leave_keyring()


def _read(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(fd, 64)
    finally:
        os.close(fd)


def _open_network(spec: StepSpec) -> list[int]:
    """Bring up the step's loopback and open the sockets that its namespace is to answer on."""
    if spec.network == "host":
        return []
    netlink.loopback_up((STAND_IN_ADDRESS,) if spec.network == "gateway" else ())
    return [fd for entry in spec.listen for fd in _listen(*entry)]


def _listen(kind: str, address: str, port: int) -> tuple[int, ...]:
    """The socket of an entry of StepSpec.listen; none for knocks where the kernel has no packet sockets for us."""
    if kind == "knocks":
        try:
            return (knocks.open_knocks().detach(),)
        except OSError:
            return ()
    stream = kind == "tcp"
    opened = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM if stream else _socket.SOCK_DGRAM, 0)
    opened.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
    opened.bind((address, port))
    if stream:
        opened.listen(128)
    return (opened.detach(),)


def enter_directory(path: str) -> None:
    """chdir as the step's root, as runc does, so a user may start in a directory that it can't search. Made if absent.

    Never through a link of /proc, which might lead to a descriptor of ours (CVE-2024-21626).
    """
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        # What is made here stays in the image, as it does with runc.
        made: list[MadeStub] = []
        fd = open_target(root, path, directory=True, made=made)
        for entry in made:
            os.close(entry.parent_fd)
        os.fchdir(fd)
        os.close(fd)
    except OSError as error:
        raise CannotStart(f"working directory {path}: {error.strerror}") from error
    finally:
        os.close(root)
    if not os.getcwd().startswith("/"):
        raise CannotStart(f"working directory {path} lies outside the root")


def _limit(spec: StepSpec) -> None:
    """Every limit is set, none inherited; a hard limit that is lower already stays."""
    wanted = dict.fromkeys(_LIMITS.values(), (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wanted[resource.RLIMIT_NOFILE] = _OPEN_FILES
    wanted[resource.RLIMIT_STACK] = (8 << 20, resource.RLIM_INFINITY)
    wanted[resource.RLIMIT_CORE] = (1, 1)  # 0 doesn't keep a core_pattern that is a pipe from running
    isolation = spec.isolation
    for number, value in (
        (resource.RLIMIT_NOFILE, isolation.open_files),
        (resource.RLIMIT_NPROC, isolation.pids),
        (resource.RLIMIT_CPU, isolation.cpu_seconds),
        (resource.RLIMIT_FSIZE, isolation.disk_bytes),
        (resource.RLIMIT_DATA, isolation.process_memory_bytes),
    ):
        if value:
            wanted[number] = (value, value)
    for name, soft, hard in spec.ulimits:
        if name.lower() not in _LIMITS:
            raise CannotStart(f"no limit is called {name!r}")
        wanted[_LIMITS[name.lower()]] = (soft, hard)
    for number, (soft, hard) in wanted.items():
        _set_limit(number, soft, hard)


def _set_limit(number: int, soft: int, hard: int) -> None:
    """Raises OSError where a limit can't be made lower. One that only can't be raised stays: gVisor has some like that."""
    was, ceiling = resource.getrlimit(number)
    hard = _lower(hard, ceiling)
    soft = _lower(soft, hard)
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # what resource makes of EPERM
        if hard != ceiling or _lower(was, soft) != was:
            raise OSError(errno.EPERM, f"limit {number} can't be set to {soft}:{hard}") from error


def _lower(value: int, ceiling: int) -> int:
    if resource.RLIM_INFINITY in (value, ceiling):
        return ceiling if value == resource.RLIM_INFINITY else value
    return min(value, ceiling)


def _drop_rights(spec: StepSpec) -> None:
    """Groups, bounding set, filter, capabilities, user, in the one order in which each is still allowed.

    The filter is loaded while there is SYS_ADMIN, so that set-user-id programs keep their meaning (seccomp(2)); what follows
    it uses calls that no program can be started without.
    """
    allowed = capabilities.mask(spec.isolation.capabilities)
    _take_groups(spec)
    capabilities.limit_bounding_set(allowed)
    namespaces.default_signals()
    capabilities.clear_ambient()
    if spec.isolation.seccomp_program:
        seccomp.load_program(spec.isolation.seccomp_program)
    if spec.uid == 0:
        capabilities.set_own(allowed)
    else:
        libc.capset(*_only_setuid())
        try:
            os.setresuid(spec.uid, spec.uid, spec.uid)
        except OSError as error:
            raise CannotStart(f"the step can't run as user {spec.uid}: no such id in this sandbox") from error
        libc.capset(0, 0, 0)


def _take_groups(spec: StepSpec) -> None:
    """With a single id no process may change its groups; the one user that there is then, root, needs none."""
    try:
        if _read("/proc/self/setgroups").strip() != b"deny":
            os.setgroups(spec.groups)
        os.setresgid(spec.gid, spec.gid, spec.gid)
    except OSError as error:
        raise CannotStart(
            f"the step can't run as group {spec.gid} with groups {list(spec.groups)}: no such id in this sandbox"
        ) from error


def _only_setuid() -> tuple[int, int, int]:
    setuid = capabilities.mask(("SETUID",))
    return setuid, setuid, 0


def _execute(spec: StepSpec) -> None:
    """execve(2) with a search along the step's own PATH; raises CannotStart as a shell would put it."""
    env = {os.fsencode(name): os.fsencode(value) for name, value in spec.env}
    program = spec.argv[0]
    candidates = [program] if "/" in program else _candidates(program, dict(spec.env).get("PATH", _DEFAULT_PATH))
    refused: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, spec.argv, env)  # noqa: S606  # the step's own program
        except OSError as error:
            if error.errno not in _MISSING:
                refused = error
    if refused is not None:
        raise CannotStart(f"{program}: {refused.strerror}")
    if "/" in program:
        raise CannotStart(_explain_missing(program), _NOT_FOUND)
    raise CannotStart(f"{program}: executable file not found in $PATH", _NOT_FOUND)


def _candidates(program: str, path: str) -> list[str]:
    # An empty part means the working directory to a shell; a builder has no use for that trap.
    return [f"{folder}/{program}" for folder in path.split(":") if folder.startswith("/")]


def _explain_missing(program: str) -> str:
    """ENOENT for a file that is there means that its interpreter isn't."""
    if os.path.exists(program):
        return f"{program}: its interpreter (the #! line or the ELF loader) is not in the image"
    return f"{program}: no such file or directory"
