"""Mounting by descriptor: overlay, bind, tmpfs, proc, and the change of root. Everything acts on the caller's mount namespace.

The newer calls (open_tree, fsopen, mount_setattr) are used where the kernel has them and mount(2) where it hasn't (Linux
before 5.12, gVisor). A place is a path of ours or a descriptor; a path that an image names has to come as a descriptor.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, Union

from sandboxbuild.system import libc
from sandboxbuild.system.files import link_path

Place = Union[str, int]

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2
UMOUNT_NOFOLLOW: Final = 8

ATTR_RDONLY: Final = 0x1
ATTR_NOSUID: Final = 0x2
ATTR_NODEV: Final = 0x4
ATTR_NOEXEC: Final = 0x8
ATTR_IDMAP: Final = 0x100000

_OPEN_TREE_CLONE: Final = 1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_CLONE_NEWNS: Final = 0x00020000
_MOVE_F_EMPTY_PATH: Final = 0x04
_MOVE_T_EMPTY_PATH: Final = 0x40
_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_SET_FLAG, _SET_STRING, _CMD_CREATE = 0, 1, 6
_MAX_VALUE: Final = 255  # fsconfig(2): strings are at most 255 bytes and their zero


def clone_tree(source: Place, *, recursive: bool = False) -> int:
    """A detached copy of the mount at `source`, as a descriptor; closing it ends it unless it was attached.

    Where the kernel has no open_tree(2) the descriptor only holds the place, and attach() makes the copy.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | (libc.AT_RECURSIVE if recursive else 0)
    try:
        if isinstance(source, int):
            return libc.open_tree(source, "", flags | libc.AT_EMPTY_PATH)
        return libc.open_tree(libc.AT_FDCWD, source, flags)
    except OSError as error:
        if error.errno != errno.ENOSYS or recursive:
            raise
    return os.dup(source) if isinstance(source, int) else os.open(source, os.O_PATH | os.O_CLOEXEC)


def set_attributes(mount_fd: int, attributes: int, *, idmap_fd: int | None = None, recursive: bool = False) -> None:
    """Add `ATTR_*` to a detached mount; `idmap_fd`, a user namespace, makes it id-mapped (not recursively)."""
    flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if recursive else 0)
    if attributes:
        libc.mount_setattr(mount_fd, "", flags, attr_set=attributes)
    if idmap_fd is not None:
        libc.mount_setattr(mount_fd, "", libc.AT_EMPTY_PATH, attr_set=ATTR_IDMAP, userns_fd=idmap_fd)


def attach(mount_fd: int, target: Place, attributes: int = 0) -> None:
    """Put a detached mount at `target` with `ATTR_*` added. `mount_fd` need not lead to the new mount afterwards."""
    try:
        if attributes:
            set_attributes(mount_fd, attributes)
        if isinstance(target, int):
            libc.move_mount(mount_fd, "", target, "", _MOVE_F_EMPTY_PATH | _MOVE_T_EMPTY_PATH)
        else:
            libc.move_mount(mount_fd, "", libc.AT_FDCWD, target, _MOVE_F_EMPTY_PATH)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        _bind_old(link_path(mount_fd), _text(target), attributes, recursive=False)


def bind(
    source: Place,
    target: Place,
    *,
    read_only: bool = False,
    recursive: bool = False,
    nosuid: bool = True,
    nodev: bool = True,
    noexec: bool = False,
    idmap_fd: int | None = None,
) -> None:
    """Make `source` appear at `target`. The flags hold from the first moment: the mount is dressed before it is attached."""
    attributes = _attributes(read_only, nosuid, nodev, noexec)
    if recursive or idmap_fd is not None:
        _bind_tree(source, target, attributes, recursive, idmap_fd)
        return
    mount_fd = clone_tree(source)
    try:
        attach(mount_fd, target, attributes)
    finally:
        os.close(mount_fd)


def _bind_tree(source: Place, target: Place, attributes: int, recursive: bool, idmap_fd: int | None) -> None:
    try:
        mount_fd = clone_tree(source, recursive=recursive)
    except OSError as error:
        if error.errno != errno.ENOSYS or idmap_fd is not None:
            raise
        _bind_old(_text(source), _text(target), attributes, recursive)
        return
    try:
        set_attributes(mount_fd, attributes, idmap_fd=idmap_fd, recursive=recursive)
        attach(mount_fd, target)
    finally:
        os.close(mount_fd)


def _bind_old(source: str, target: str, attributes: int, recursive: bool) -> None:
    # MS_RDONLY to MS_NOEXEC have the values of ATTR_RDONLY to ATTR_NOEXEC.
    libc.mount(source, target, None, MS_BIND | (MS_REC if recursive else 0), None)
    try:
        libc.mount(None, target, None, MS_BIND | MS_REMOUNT | attributes | _locked_flags(target), None)
    except OSError:
        libc.umount2(target, MNT_DETACH)
        raise


def _locked_flags(target: str) -> int:
    """The flags that a remount in a user namespace has to repeat (mount_namespaces(7)); ST_* equal MS_* below 16."""
    return os.statvfs(target).f_flag & (MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def _attributes(read_only: bool, nosuid: bool, nodev: bool, noexec: bool) -> int:
    return ATTR_RDONLY * read_only | ATTR_NOSUID * nosuid | ATTR_NODEV * nodev | ATTR_NOEXEC * noexec


def _text(place: Place) -> str:
    return link_path(place) if isinstance(place, int) else place


def make_read_only(target: Place) -> None:
    """Make the mount at `target` read-only, keeping its other flags."""
    path = _text(target)
    try:
        libc.mount_setattr(libc.AT_FDCWD, path, 0, attr_set=ATTR_RDONLY)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        libc.mount(None, path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | _locked_flags(path), None)


def mount_tmpfs(target: Place, size_bytes: int, mode: int = 0o755, *, noexec: bool = False, inodes: int = 0) -> None:
    """An empty tmpfs, nosuid and nodev, of at most `size_bytes` (0: the kernel's default, half of memory)."""
    options = f"mode={mode:o}"
    if size_bytes:
        options += f",size={size_bytes}"
    if inodes:
        options += f",nr_inodes={inodes}"
    libc.mount("tmpfs", _text(target), "tmpfs", MS_NOSUID | MS_NODEV | (MS_NOEXEC if noexec else 0), options)


def mount_proc(target: Place, *, hide_pids: bool = False) -> None:
    """A fresh procfs of the caller's pid namespace. EPERM where parts of the outer /proc are covered (user_namespaces(7))."""
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    libc.mount("proc", _text(target), "proc", flags, "hidepid=invisible" if hide_pids else None)


def mount_sysfs(target: Place) -> None:
    """A fresh read-only sysfs; needs a network namespace that the caller's user namespace owns."""
    libc.mount("sysfs", _text(target), "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY, None)


def mount_devpts(target: Place) -> None:
    """A private devpts with its own ptmx. Group 5 (tty) where it is mapped."""
    flags, options = MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"
    try:
        libc.mount("devpts", _text(target), "devpts", flags, options + ",gid=5")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        libc.mount("devpts", _text(target), "devpts", flags, options)


def mount_mqueue(target: Place) -> None:
    """POSIX message queues of the caller's ipc namespace; nothing where the kernel has none."""
    try:
        libc.mount("mqueue", _text(target), "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, None)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def mount_overlay(target: str, lowers_top_first: Sequence[str], upper: str | None, work: str | None) -> None:
    """An overlay of directories at `target`, nodev; without `upper` it is read-only and needs two lowers (overlayfs.rst).

    `userxattr` is set, so it works inside a user namespace; redirects and metadata-only copies are off, so that an upper
    directory means the same wherever it is used as a lower one. Needs at least one lower. Raises OSError.
    """
    if not lowers_top_first:
        raise ValueError("an overlay needs a lower directory")
    try:
        mount_fd = _new_overlay(lowers_top_first, upper, work)
    except OSError as error:
        # ENOSYS: no fsopen. EINVAL: overlay before 6.8 has no lowerdir+; a true EINVAL comes again below.
        if error.errno not in (errno.ENOSYS, errno.EINVAL):
            raise
        _mount_overlay_old(target, lowers_top_first, upper, work)
        return
    try:
        attach(mount_fd, target)
    finally:
        os.close(mount_fd)


# With userxattr "nofollow" is the only redirect_dir that isn't EINVAL (fs/overlayfs/params.c); like "off" it makes none.
_OVERLAY_OPTIONS: Final = (("redirect_dir", "nofollow"), ("metacopy", "off"), ("index", "off"))


def _new_overlay(lowers: Sequence[str], upper: str | None, work: str | None) -> int:
    fs_fd = libc.fsopen("overlay", _FSOPEN_CLOEXEC)
    opened: list[int] = []
    try:
        libc.fsconfig(fs_fd, _SET_STRING, "source", "overlay")
        libc.fsconfig(fs_fd, _SET_FLAG, "userxattr", None)
        for key, value in _OVERLAY_OPTIONS:
            libc.fsconfig(fs_fd, _SET_STRING, key, value)
        for lower in lowers:
            libc.fsconfig(fs_fd, _SET_STRING, "lowerdir+", _short(lower, opened))
        if upper is not None and work is not None:
            libc.fsconfig(fs_fd, _SET_STRING, "upperdir", _short(upper, opened))
            libc.fsconfig(fs_fd, _SET_STRING, "workdir", _short(work, opened))
        libc.fsconfig(fs_fd, _CMD_CREATE, None, None)
        return libc.fsmount(fs_fd, _FSMOUNT_CLOEXEC, ATTR_NODEV | (ATTR_RDONLY if upper is None else 0))
    finally:
        for fd in [*opened, fs_fd]:
            os.close(fd)


def _short(path: str, opened: list[int]) -> str:
    """`path`, or a name for it that fits an fsconfig string."""
    return path if len(os.fsencode(path)) <= _MAX_VALUE else _descriptor_name(path, opened)


def _descriptor_name(path: str, opened: list[int]) -> str:
    opened.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    return link_path(opened[-1])


def _mount_overlay_old(target: str, lowers: Sequence[str], upper: str | None, work: str | None) -> None:
    """mount(2) takes one page of options: names of descriptors keep a hundred layers below it, and need no escapes."""
    opened: list[int] = []
    try:
        options = ["userxattr", *(f"{key}={value}" for key, value in _OVERLAY_OPTIONS)]
        options.append("lowerdir=" + ":".join(_descriptor_name(lower, opened) for lower in lowers))
        if upper is not None and work is not None:
            options += [f"upperdir={_descriptor_name(upper, opened)}", f"workdir={_descriptor_name(work, opened)}"]
        flags = MS_NODEV | (MS_RDONLY if upper is None else 0)
        _mount_with_options(target, flags, options)
    finally:
        for fd in opened:
            os.close(fd)


def _mount_with_options(target: str, flags: int, options: list[str]) -> None:
    """gVisor's overlay takes no option but the directories, and behaves as if ours were given (its fsimpl/overlay)."""
    try:
        libc.mount("overlay", target, "overlay", flags, ",".join(options))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        directories = [option for option in options if option.partition("=")[0] in ("lowerdir", "upperdir", "workdir")]
        libc.mount("overlay", target, "overlay", flags, ",".join(directories))


def unmount(target: Place, *, detach: bool = True) -> None:
    """Take the topmost mount off `target`, lazily unless `detach` is False. Links are not followed. Raises OSError."""
    if isinstance(target, int):
        libc.umount2(link_path(target), MNT_DETACH if detach else 0)
    else:
        libc.umount2(target, UMOUNT_NOFOLLOW | (MNT_DETACH if detach else 0))


def make_private(target: str = "/") -> None:
    """Stop mounts below `target` from spreading to and from other namespaces."""
    libc.mount(None, target, None, MS_REC | MS_PRIVATE, None)


def pivot_into(new_root: Place) -> None:
    """Make the mount at `new_root` the root of this mount namespace and drop the old one entirely (pivot_root(2), Notes)."""
    os.chdir(new_root)
    libc.pivot_root(".", ".")
    libc.umount2(".", MNT_DETACH)
    os.chdir("/")


def leave_chroot() -> None:
    """Make the directory that chroot(2) made the root the root of a mount namespace of its own, where nothing else is mounted.

    A process in a chroot may not make a user namespace (user_namespaces(7), EPERM); after this it isn't in one, and sees no
    more than before. For a single-threaded process with CAP_SYS_ADMIN and CAP_SYS_CHROOT; needs /proc. Raises OSError.
    """
    libc.unshare(_CLONE_NEWNS)
    root_fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace_fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc.setns(namespace_fd, _CLONE_NEWNS)  # joining a mount namespace, even one's own, leaves the chroot (setns(2))
        make_private()
        tree = clone_tree(root_fd, recursive=True)
        try:
            attach(tree, root_fd)
            pivot_into(tree)
        finally:
            os.close(tree)
    finally:
        os.close(namespace_fd)
        os.close(root_fd)
