"""The process that steps are forked from: small, single-threaded, forked itself before the executor has threads or secrets.

  zygote - supervisor (one a step; outside the step's pid namespace) - init (pid 1 of the step, reaps) - the step's program

Supervisor and init keep an id that the step's user namespace doesn't have, so no capability of the step reaches them. When the
program ends, init ends, and the kernel kills all that is left in the pid namespace. The spec, which may hold secrets, goes from
the executor to the supervisor past the zygote, so later steps inherit nothing of it.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from typing import Final, NoReturn

from sandboxbuild.executor.stepchild import become_step
from sandboxbuild.executor.stepspec import StepSpec, from_message
from sandboxbuild.system import capabilities, channels, idmap, mounts, namespaces

_KILLED: Final = 137
_NAMESPACES: Final = (
    namespaces.NEWUSER | namespaces.NEWPID | namespaces.NEWIPC | namespaces.NEWUTS
)  # NEWNS is unshared by the init, which owns the step's mounts; NEWNET depends on the step, NEWCGROUP follows its group


class Zygote:
    """The executor's end. `start` has to be called while the process has one thread."""

    __slots__ = ("_channel", "pid")

    def __init__(self, pid: int, channel: channels.Channel) -> None:
        self.pid = pid
        self._channel = channel

    @classmethod
    def start(cls) -> Zygote:
        ours, theirs = channels.pair()
        executor = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run(theirs, executor)
        theirs.close()
        return cls(pid, ours)

    def fork_step(self, own_network: bool, descriptors: Sequence[int]) -> None:
        """Have a supervisor forked; it gets `descriptors`: standard output, error, its channel, the pipe that lets it go on.

        Not thread-safe. Raises OSError where the zygote is gone.
        """
        self._channel.send(own_network, descriptors)

    def stop(self) -> None:
        """End the zygote; supervisors that run go on until their own channels close. Idempotent."""
        if self._channel.fileno() >= 0:
            self._channel.close()
            os.waitpid(self.pid, 0)


def _run(channel: channels.Channel, executor: int) -> NoReturn:
    status = 1
    try:
        namespaces.die_with_parent(executor)
        namespaces.set_name("zygote")
        _forget_descriptors(channel)
        namespaces.hide_from_tracers()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors say themselves how they end
        maps = image_maps()
        while (received := channel.receive()) is not None:
            _fork_supervisor(channel, bool(received[0]), received[1], maps)
        status = 0
    finally:
        os._exit(status)


def _forget_descriptors(channel: channels.Channel) -> None:
    """Nothing of the executor's but its log. 0 and 1 stay taken, so that no pipe of a step is given their numbers."""
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    namespaces.close_descriptors((0, 1, 2, channel.fileno()))


Maps = tuple[list[idmap.Range], list[idmap.Range]]


def image_maps() -> Maps:
    """The uid and gid maps of a step: the inside ids below the executor's own to themselves, cut where its own map is."""
    identity = os.geteuid() or idmap.IMAGE_IDS  # with a single id the executor is 0, like the image's files
    return _image_part("/proc/self/uid_map", identity), _image_part("/proc/self/gid_map", identity)


def _image_part(path: str, end: int) -> list[idmap.Range]:
    with open(path, encoding="ascii") as file:
        entries = idmap.parse_map(file.read())
    kept = [(inside, min(length, end - inside)) for inside, _, length in entries]
    return [(inside, inside, length) for inside, length in kept if length > 0]


def _fork_supervisor(channel: channels.Channel, own_network: bool, descriptors: list[int], maps: Maps) -> None:
    unshared_r, unshared_w = os.pipe()
    mapped_r, mapped_w = os.pipe()
    zygote = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        pid = -1  # the executor sees its channel close without a word
    if pid == 0:
        channel.close()
        os.close(unshared_r)
        os.close(mapped_w)
        _supervise(own_network, descriptors, unshared_w, mapped_r, zygote)
    for fd in (*descriptors, unshared_w, mapped_r):
        os.close(fd)
    if pid > 0 and os.read(unshared_r, 1):
        namespaces.write_maps(pid, *maps)
        os.write(mapped_w, b"m")
    os.close(unshared_r)
    os.close(mapped_w)


def _supervise(own_network: bool, descriptors: list[int], unshared_w: int, mapped_r: int, zygote: int) -> NoReturn:
    out_w, err_w, channel_fd, go_r = descriptors
    channel = channels.Channel(channel_fd)
    try:
        namespaces.die_with_parent(zygote)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        namespaces.be_traceable()  # or the zygote couldn't write the maps
        namespaces.unshare(_NAMESPACES | (namespaces.NEWNET if own_network else 0))
        os.write(unshared_w, b"u")
        if not os.read(mapped_r, 1):
            os._exit(1)
        channel.send(("here", os.getpid(), os.stat("/proc/self/ns/pid").st_ino))
        namespaces.hide_from_tracers()
        received = channel.receive()
        if received is not None and received[0] is not None:
            namespaces.unshare(namespaces.NEWCGROUP)  # by now it is in its group, whose path is no business of the step
            _run_step(from_message(received[0]), channel, (out_w, err_w), go_r)
        channel.send(("done",))
    except BaseException as error:
        channel.send(("broken", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def _run_step(spec: StepSpec, channel: channels.Channel, output: Sequence[int], go_r: int) -> None:
    alive_r, alive_w = os.pipe()
    ended_r, ended_w = os.pipe()  # in place of a pidfd, which gVisor hasn't: it hangs up when init ends
    init = os.fork()
    if init == 0:
        os.close(alive_w)
        _run_init(spec, channel, output, go_r, alive_r, ended_w)
    namespaces.close_descriptors((2, channel.fileno(), alive_w, ended_r))
    poll = select.poll()
    poll.register(ended_r, select.POLLIN)
    poll.register(channel.fileno(), select.POLLIN)
    if ended_r not in [fd for fd, _ in poll.poll()]:
        os.kill(init, signal.SIGKILL)  # the executor says so, or is gone
    os.waitpid(init, 0)  # returns when the pid namespace is empty


def _run_init(
    spec: StepSpec, channel: channels.Channel, output: Sequence[int], go_r: int, alive_r: int, ended_w: int
) -> NoReturn:
    try:
        namespaces.die_with_parent(0)
        _die_if_orphaned(alive_r)
        namespaces.set_name("init")
        namespaces.unshare(namespaces.NEWNS)
        mounts.make_private()
        ready_r, ready_w = os.pipe()
        program = os.fork()
        if program == 0:
            os.read(ready_r, 1)  # until init has given up what it can do
            become_step(spec, channel, output, go_r)
        capabilities.set_own(0)
        namespaces.close_descriptors((channel.fileno(), ready_w, ended_w))
        os.write(ready_w, b"r")
        os.close(ready_w)
        status = _reap_until(program)
        channel.send(("ended", status, _others()))
    except BaseException as error:
        channel.send(("broken", f"{type(error).__name__}: {error}"))
    finally:
        os._exit(0)


def _die_if_orphaned(alive_r: int) -> None:
    """Whether the supervisor lived when die_with_parent took effect: only it holds the other end of the pipe."""
    poll = select.poll()
    poll.register(alive_r, select.POLLIN)
    if poll.poll(0):
        os._exit(_KILLED)


def _reap_until(program: int) -> int:
    while True:
        pid, status = os.wait()
        if pid == program:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _others() -> int:
    """Processes of the namespace beside init, as the step's own /proc shows them."""
    try:
        if os.readlink("/proc/self") != "1":
            return 0  # the step ended before it had a root of its own
        return sum(name.isdecimal() for name in os.listdir("/proc")) - 1
    except OSError:
        return 0
