"""What a step sees around its rootfs: /proc, /sys and /dev of ours, never the image's, and the mounts of the RUN.

Runs in the step's own user, mount, pid, ipc, uts and net namespaces as their uid 0, before any byte of the image is executed.
"""

from __future__ import annotations

import os
import stat
from typing import Final, NamedTuple

from sandboxbuild.executor.mountpoints import MadeStub, open_target
from sandboxbuild.executor.stepspec import StepMount, StepSpec
from sandboxbuild.system import files, libc, mounts

# device: (major, minor), Documentation/admin-guide/devices.txt
_DEVICES: Final = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_LINKS: Final = (
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
)
_FILE: Final = ".file"
_DEV_BYTES: Final = 64 << 20
_READ_ONLY_IN_PROC: Final = ("bus", "fs", "irq", "sys", "sysrq-trigger")
_MASKED_IN_PROC: Final = (
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "latency_stats",
    "sched_debug",
    "scsi",
    "slabinfo",
    "timer_list",
    "timer_stats",
    "vmallocinfo",
)
_MASKED_IN_SYS: Final = (
    "devices/virtual/powercap",
    "firmware",
    "fs/bpf",
    "fs/cgroup",
    "kernel/debug",
    "kernel/security",
    "kernel/tracing",
)
_LOCKED_KNOBS: Final = ("user", "pid", "uts", "ipc", "net", "mnt", "cgroup", "time")
_STAGE: Final = "/tmp"  # noqa: S108 - where the new root is put together, in the step's own mount namespace
_HOSTS: Final = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


class Places(NamedTuple):
    """What a step's mounts are made of, as detached mounts; a source that isn't a bind's is None."""

    root: int
    sources: tuple[int | None, ...]


def open_places(spec: StepSpec) -> Places:
    """Find the workspace and the binds' sources. They lie in folders of the executor's own, which the step's ids can't enter:
    so this is done while the process still is the executor's id. Raises OSError.
    """
    return Places(mounts.clone_tree(spec.root), tuple(_open_source(mount) for mount in spec.mounts))


def build_root(spec: StepSpec, places: Places, made: list[MadeStub]) -> None:
    """Mount everything and make it the root; the mount points that had to be made are added to `made`. Raises OSError."""
    devices = {name: _clone_device(name, number) for name, number in _DEVICES.items()}
    mounts.attach(places.root, _STAGE, mounts.ATTR_NODEV)
    os.close(places.root)
    root_fd = os.open(_STAGE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    null_fd = mounts.clone_tree("/dev/null")
    locks = _mount_proc(root_fd, null_fd, spec, made)
    _mount_sys(root_fd, spec, made)
    dev_fd = _mount_dev(root_fd, devices, spec, made)
    named = name_files(spec)
    for mount, source in zip((*named, *spec.mounts), (*(None for _ in named), *places.sources), strict=True):
        _mount(root_fd, dev_fd, mount, source, made)
    mounts.pivot_into(root_fd)
    for fd in (root_fd, null_fd, dev_fd):
        os.close(fd)
    _forbid_namespaces(locks)


def name_files(spec: StepSpec) -> tuple[StepMount, ...]:
    """The files by which programs find names, as mounts: the image's own stay as they are. A RUN's own mount goes first."""
    hosts = _HOSTS + f"127.0.0.1\t{spec.hostname}\n" + "".join(f"{address}\t{name}\n" for name, address in spec.add_hosts)
    texts = [("/etc/hosts", hosts.encode()), ("/etc/hostname", f"{spec.hostname}\n".encode())]
    if spec.resolv_conf is not None:
        texts.append(("/etc/resolv.conf", spec.resolv_conf))
    taken = {"/" + os.path.normpath(mount.target).lstrip("/") for mount in spec.mounts}
    return tuple(StepMount("file", path, content=content, writable=True) for path, content in texts if path not in taken)


def _clone_device(name: str, number: tuple[int, int]) -> int:
    fd = mounts.clone_tree(f"/dev/{name}")
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode) or (os.major(status.st_rdev), os.minor(status.st_rdev)) != number:
        os.close(fd)
        raise OSError(f"/dev/{name} is not the device {number[0]}:{number[1]}")
    return fd


def _open_source(mount: StepMount) -> int | None:
    """A bind's source as a detached mount, found before anything is covered."""
    if mount.kind != "bind":
        return None
    outer = os.open(mount.source, os.O_PATH | os.O_CLOEXEC)
    try:
        path = mount.source_path.strip("/")
        inner = files.open_in_root(outer, path, os.O_PATH) if path not in ("", ".") else os.dup(outer)
    finally:
        os.close(outer)
    try:
        return mounts.clone_tree(inner)
    finally:
        os.close(inner)


def _mount_point(root_fd: int, name: str, made: list[MadeStub]) -> int:
    """A directory at the top of the rootfs. One that the image made a link of is refused: /proc has to be /proc."""
    try:
        return files.open_beneath(root_fd, name, os.O_PATH | os.O_DIRECTORY)
    except FileNotFoundError:
        return open_target(root_fd, name, directory=True, made=made)
    except OSError as error:
        raise OSError(error.errno, "is not an ordinary directory in this image", f"/{name}") from error


def _mount_proc(root_fd: int, null_fd: int, spec: StepSpec, made: list[MadeStub]) -> list[int]:
    place = _mount_point(root_fd, "proc", made)
    mounts.mount_proc(place)
    os.close(place)
    proc = files.open_beneath(root_fd, "proc", os.O_PATH | os.O_DIRECTORY)
    locks = [] if spec.insecure else _open_locks(proc)
    if not spec.insecure:
        for name in _READ_ONLY_IN_PROC:
            _protect(proc, name)
        for name in _MASKED_IN_PROC:
            _mask(proc, name, null_fd)
    os.close(proc)
    return locks


def _open_locks(proc_fd: int) -> list[int]:
    """The counters of further namespaces below the step's (namespaces(7)), opened while /proc/sys can be written."""
    opened = []
    for kind in _LOCKED_KNOBS:
        try:
            opened.append(files.open_beneath(proc_fd, f"sys/user/max_{kind}_namespaces", os.O_WRONLY))
        except OSError:
            pass  # gVisor and older kernels don't have it
    return opened


def _forbid_namespaces(locks: list[int]) -> None:
    """Set them to 0, a second lock behind the syscall filter. Last of all: a detached mount counts as a namespace too."""
    for fd in locks:
        try:
            os.write(fd, b"0")
        except OSError:
            pass
        finally:
            os.close(fd)


def _protect(parent_fd: int, name: str) -> None:
    try:
        place = files.open_beneath(parent_fd, name, os.O_PATH)
    except OSError:
        return
    mounts.bind(place, place, read_only=True, noexec=True)
    os.close(place)


def _mask(parent_fd: int, name: str, null_fd: int) -> None:
    """Cover a file with the null device, a directory with an empty one."""
    try:
        place = files.open_beneath(parent_fd, name, os.O_PATH)
    except OSError:
        return
    if stat.S_ISDIR(os.fstat(place).st_mode):
        mounts.mount_tmpfs(place, 4096, 0o555, noexec=True)
        os.close(place)
        place = files.open_beneath(parent_fd, name, os.O_PATH)
        mounts.make_read_only(place)
    else:
        mounts.bind(null_fd, place, nodev=False, noexec=True)
    os.close(place)


def _mount_sys(root_fd: int, spec: StepSpec, made: list[MadeStub]) -> None:
    """A read-only sysfs where the kernel allows a fresh one, which takes a network namespace of the step's own."""
    place = _mount_point(root_fd, "sys", made)
    try:
        if spec.network == "host":
            mounts.mount_tmpfs(place, 4096, 0o555, noexec=True)
        else:
            mounts.mount_sysfs(place)
    except OSError:
        mounts.mount_tmpfs(place, 4096, 0o555, noexec=True)
    os.close(place)
    sys_fd = files.open_beneath(root_fd, "sys", os.O_PATH | os.O_DIRECTORY)
    mounts.make_read_only(sys_fd)
    if not spec.insecure:
        for name in _MASKED_IN_SYS:
            _mask(sys_fd, name, -1)
    os.close(sys_fd)


def _mount_dev(root_fd: int, devices: dict[str, int], spec: StepSpec, made: list[MadeStub]) -> int:
    place = _mount_point(root_fd, "dev", made)
    mounts.mount_tmpfs(place, _DEV_BYTES, 0o755)
    os.close(place)
    dev = files.open_beneath(root_fd, "dev", os.O_RDONLY | os.O_DIRECTORY)
    for name, mount_fd in devices.items():
        files.write_file(dev, name, b"", 0o666)
        _attach(mount_fd, dev, name, mounts.ATTR_NOSUID | mounts.ATTR_NOEXEC)
    for name, target in _LINKS:
        os.symlink(target, name, dir_fd=dev)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, 0o755, dir_fd=dev)
        _mount_in_dev(files.open_beneath(dev, name, os.O_PATH), name, spec)
    return dev


def _mount_in_dev(place: int, name: str, spec: StepSpec) -> None:
    try:
        if name == "pts":
            mounts.mount_devpts(place)
        elif name == "shm":
            mounts.mount_tmpfs(place, spec.shm_size_bytes, 0o1777, noexec=True)
        else:
            mounts.mount_mqueue(place)
    finally:
        os.close(place)


def _attach(mount_fd: int, parent_fd: int, name: str, attributes: int) -> None:
    place = files.open_beneath(parent_fd, name, os.O_PATH)
    try:
        mounts.attach(mount_fd, place, attributes)
    finally:
        os.close(place)
        os.close(mount_fd)


def _mount(root_fd: int, dev_fd: int, mount: StepMount, source: int | None, made: list[MadeStub]) -> None:
    if mount.kind == "file":
        source = _new_file(dev_fd, mount)
    if source is None:
        place = open_target(root_fd, mount.target, directory=True, made=made)
        _mount_tmpfs(root_fd, place, mount)
        os.close(place)
        return
    directory = stat.S_ISDIR(os.fstat(source).st_mode)
    place = open_target(root_fd, mount.target, directory=directory, made=made)
    attributes = mounts.ATTR_NODEV | mounts.ATTR_NOSUID | (0 if mount.writable else mounts.ATTR_RDONLY)
    mounts.attach(source, place, attributes)
    os.close(place)
    os.close(source)
    if mount.kind == "file":
        os.unlink(_FILE, dir_fd=dev_fd)


def _mount_tmpfs(root_fd: int, place: int, mount: StepMount) -> None:
    mounts.mount_tmpfs(place, mount.size_bytes, mount.mode if mount.mode != 0o644 else 0o755)
    top = files.open_in_root(root_fd, mount.target, os.O_RDONLY | os.O_DIRECTORY)
    os.fchown(top, mount.uid, mount.gid)
    os.close(top)


def _new_file(dev_fd: int, mount: StepMount) -> int:
    """A file of the step's own tmpfs as a detached mount. Its name goes once it is attached: before, that is ENOENT."""
    files.write_file(dev_fd, _FILE, mount.content, mount.mode)
    fd = files.open_beneath(dev_fd, _FILE, os.O_PATH)
    try:
        os.chown(_FILE, mount.uid, mount.gid, dir_fd=dev_fd, follow_symlinks=False)
        os.chmod(files.link_path(fd), mount.mode)  # chown took set-user-id bits away
        return mounts.clone_tree(fd)
    finally:
        os.close(fd)


def set_host_name(spec: StepSpec) -> None:
    libc.sethostname(spec.hostname.encode()[:64])
