"""Tar members -> a directory, by descriptors. What each whiteout does is `hiding`'s, where parents come from `directories`'.

A name that would leave the root is an error, or stops there; an absolute one is the root's. Nothing is written through a link:
what stands in the way of an entry is removed first, and metadata goes to descriptors.
"""

from __future__ import annotations

import errno
import os
import stat

from sandboxbuild.archive import member as kinds
from sandboxbuild.archive.directories import Directories, Unreachable, shown
from sandboxbuild.archive.hiding import Hiding
from sandboxbuild.archive.lowers import LowerLayers
from sandboxbuild.archive.member import ArchiveLimits, TarMember
from sandboxbuild.archive.metadata import Metadata, check_ids, settle, settle_link, settle_node
from sandboxbuild.archive.nodes import is_whiteout, make_node
from sandboxbuild.archive.reader import TarReader
from sandboxbuild.errors import LimitExceeded, SandboxbuildError
from sandboxbuild.fstree import whiteout
from sandboxbuild.system.files import hard_link, open_directory, remove_tree

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NODE_TYPES = {kinds.CHARACTER_DEVICE: stat.S_IFCHR, kinds.BLOCK_DEVICE: stat.S_IFBLK, kinds.FIFO: stat.S_IFIFO}


class Unpacker:
    """Unpacks one archive below `root_fd` (borrowed, opened for reading), at `prefix` there. Use once, then close().

    `hiding` says what whiteouts do. `owner` is given to all entries instead of their own. `lowers` gives parents that the
    archive doesn't list their metadata. `clamps` says that `..` stops at the root; else a name that climbs over it is an error.
    `is_plain` says afterwards whether all of it is files, folders and links without attributes, and nothing is hidden below.
    Raises `error` for entries that can't be, IsolationError for ids that can't be had, LimitExceeded also for a full disk.
    """

    def __init__(
        self,
        root_fd: int,
        reader: TarReader,
        *,
        hiding: Hiding,
        limits: ArchiveLimits,
        error: type[SandboxbuildError],
        lowers: LowerLayers | None = None,
        prefix: bytes = b"",
        owner: tuple[int, int] | None = None,
        clamps: bool = False,
    ) -> None:
        self._root_fd = root_fd
        self._reader = reader
        self._hiding = hiding
        self._limits = limits
        self._error = error
        self._lowers = lowers
        self._prefix = prefix
        self._owner = owner
        self._clamps = clamps
        self._directories = Directories(root_fd, self)
        self._times: dict[bytes, int] = {}
        self.entries = 0
        self.is_plain = True

    def close(self) -> None:
        self._directories.forget()

    def run(self) -> None:
        """Unpack everything, then set the directories' times. The stream is read up to the archive's end."""
        if self._hiding.makes_layer:
            self._take_root()
        while (found := self._reader.next_member()) is not None:
            try:
                self._unpack(found)
            except Unreachable as error:
                raise self._error(f"the entry {shown(found.path)} can't be unpacked: {error}") from error
            except OSError as error:
                raise self._failure(found, error) from error
        self._set_times()

    def _unpack(self, found: TarMember) -> None:
        self.entries += 1
        if not found.path:
            return  # only ADD's reader lets it through: the entry means the destination, which stays as it is (BuildKit)
        path = self._clean(found.path, found.path)
        if whiteout.PREFIX in path and self._hide(path):
            return
        if not path:
            self._unpack_root(found)
            return
        if self._prefix:
            path = self._prefix + b"/" + path
        parent, _, name = path.rpartition(b"/")
        at = self._directories.reach(parent, make=True)
        path = at.path + b"/" + name if at.path else name
        kind = found.kind
        if kind == kinds.FILE:
            self._file(at.fd, name, path, found)
        elif kind == kinds.DIRECTORY:
            self._directory(at.fd, name, path, found)
        elif kind == kinds.SYMLINK:
            self._symlink(at.fd, name, path, found)
        elif kind == kinds.HARD_LINK:
            self._hard_link(parent, name, path, found)
        else:
            self._node(at.fd, name, path, found)
        if not self._hiding.makes_layer:
            self._hiding.wrote(path)

    def _clean(self, raw: bytes, entry: bytes) -> bytes:
        """A name in the archive as a path below the root: without `.`, `..` and empty parts."""
        parts = raw.split(b"/")
        if b"" in parts or b"." in parts or b".." in parts:
            clean: list[bytes] = []
            for part in parts:
                if part == b"..":
                    if not clean and not self._clamps:
                        raise self._error(f"the entry {shown(entry)} would leave the root: {shown(raw)}")
                    del clean[-1:]
                elif part not in (b"", b"."):
                    clean.append(part)
            parts = clean
        if len(parts) > self._limits.depth:
            raise LimitExceeded(f"the entry {shown(entry[:200])} lies deeper than {self._limits.depth} directories")
        return b"/".join(parts)

    def _hide(self, path: bytes) -> bool:
        """Do what the entry says if it is a whiteout; whether nothing is left to do."""
        if whiteout.is_aufs_bookkeeping(path):
            return True
        try:
            found = whiteout.read_whiteout(path)
        except whiteout.NotAWhiteout as error:
            raise self._error(f"the whiteout {shown(path)} is invalid: {error}") from error
        if found is not None:
            self.is_plain = False
            self._hiding.hide(self._directories, found)
        return found is not None

    def _metadata(self, path: bytes, found: TarMember) -> Metadata:
        uid, gid = self._owner or (found.uid, found.gid)
        check_ids(uid, gid, path)
        self.is_plain = self.is_plain and not found.xattrs
        return Metadata(path, found.mode, uid, gid, found.mtime_ns, found.xattrs)

    def _file(self, directory_fd: int, name: bytes, path: bytes, found: TarMember) -> None:
        try:
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory_fd)
        except FileExistsError:
            self._clear(directory_fd, name, path)
            fd = os.open(name, _NEW_FILE, 0o600, dir_fd=directory_fd)
        try:
            if found.segments is not None:
                self._write_sparse(fd, found)
            else:
                piece = self._reader.piece()
                while piece:
                    written = os.write(fd, piece)
                    piece = piece[written:] if written < len(piece) else self._reader.piece()
            settle(fd, self._metadata(path, found))
        finally:
            os.close(fd)

    def _write_sparse(self, fd: int, found: TarMember) -> None:
        os.ftruncate(fd, found.size_bytes)
        piece = self._reader.piece()
        for offset, length in found.segments or ():
            end = offset + length
            while offset < end:
                written = os.pwrite(fd, piece[: end - offset], offset)
                offset += written
                piece = piece[written:] or self._reader.piece()

    def _directory(self, directory_fd: int, name: bytes, path: bytes, found: TarMember) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=directory_fd)
            fd = open_directory(name, directory_fd)
        except FileExistsError:
            fd = self._merge_directory(directory_fd, name, path)
        try:
            settle(fd, self._metadata(path, found))
        finally:
            os.close(fd)
        self._times[path] = found.mtime_ns

    def _merge_directory(self, directory_fd: int, name: bytes, path: bytes) -> int:
        """Open the directory that is there; anything else of that name makes room for a new one."""
        try:
            return open_directory(name, directory_fd)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
                raise
        self._clear(directory_fd, name, path)
        os.mkdir(name, 0o700, dir_fd=directory_fd)
        fd = open_directory(name, directory_fd)
        self.is_plain = False
        self._hiding.replaced_by_directory(fd)
        return fd

    def _symlink(self, directory_fd: int, name: bytes, path: bytes, found: TarMember) -> None:
        try:
            os.symlink(found.link_target, name, dir_fd=directory_fd)
        except FileExistsError:
            self._clear(directory_fd, name, path)
            os.symlink(found.link_target, name, dir_fd=directory_fd)
        settle_link(directory_fd, name, self._metadata(path, found))

    def _node(self, directory_fd: int, name: bytes, path: bytes, found: TarMember) -> None:
        kind = _NODE_TYPES[found.kind]
        self.is_plain = False
        try:
            try:
                make_node(directory_fd, name, kind, found.rdev)
            except FileExistsError:
                self._clear(directory_fd, name, path)
                make_node(directory_fd, name, kind, found.rdev)
        except ValueError as error:
            raise self._error(f"the entry {shown(path)} can't be unpacked: {error}") from error
        settle_node(directory_fd, name, self._metadata(path, found))

    def _hard_link(self, parent: bytes, name: bytes, path: bytes, found: TarMember) -> None:
        """Link to a file of this archive (or, when unpacking onto a tree, of the tree); its metadata is the first name's."""
        target = self._clean(found.link_target, found.path)
        if self._prefix:
            target = self._prefix + b"/" + target
        target_parent, _, target_name = target.rpartition(b"/")
        missing = Unreachable(f"it is a hard link to {shown(target)}, and no such file is there")
        try:
            source = self._directories.reach(target_parent, make=False)
            held = os.dup(source.fd)  # the next reach() may close it
        except FileNotFoundError:
            raise missing from None
        try:
            if (source.path + b"/" + target_name if source.path else target_name) == path:
                return
            try:
                status = os.lstat(target_name, dir_fd=held) if target_name else os.fstat(held)
            except FileNotFoundError:
                raise missing from None
            if stat.S_ISDIR(status.st_mode) or is_whiteout(status):
                raise missing
            directory_fd = self._directories.reach(parent, make=True).fd
            self._link(held, target_name, directory_fd, name, path)
        finally:
            os.close(held)

    def _link(self, source_fd: int, source: bytes, directory_fd: int, name: bytes, path: bytes) -> None:
        try:
            hard_link(source_fd, source, directory_fd, name)
        except FileExistsError:
            self._clear(directory_fd, name, path)
            hard_link(source_fd, source, directory_fd, name)

    def _clear(self, directory_fd: int, name: bytes, path: bytes) -> None:
        """Remove what is in an entry's way, with all below it."""
        if stat.S_ISDIR(os.lstat(name, dir_fd=directory_fd).st_mode):
            self._directories.forget_below(path)
            remove_tree(directory_fd, name)
        else:
            os.unlink(name, dir_fd=directory_fd)

    def _take_root(self) -> None:
        """A layer's root is the merged root's, so where the archive doesn't list it, it has to be what it is below."""
        wanted = self._lower_metadata(b"")
        settle(self._root_fd, wanted)
        self._times[b""] = wanted.mtime_ns

    def _unpack_root(self, found: TarMember) -> None:
        if found.kind != kinds.DIRECTORY:
            raise self._error(f"the entry {shown(found.path)} would replace the root")
        if not self._prefix and not self._hiding.leaves_root:
            settle(self._root_fd, self._metadata(b".", found))
            self._times[b""] = found.mtime_ns

    def make_parent(self, directory_fd: int, name: bytes, path: bytes, *, replace: bool) -> None:
        """MakesParents: a directory that the archive doesn't list, as a lower layer has it, else root's and 0755."""
        if replace:
            os.unlink(name, dir_fd=directory_fd)
        os.mkdir(name, 0o700, dir_fd=directory_fd)
        fd = open_directory(name, directory_fd)
        try:
            wanted = self._lower_metadata(path)
            settle(fd, wanted)
            if replace:
                self.is_plain = False
                self._hiding.replaced_by_directory(fd)
        finally:
            os.close(fd)
        if self._hiding.makes_layer:
            self._times[path] = wanted.mtime_ns
        self._hiding.wrote(path)

    def has_directory(self, path: bytes) -> bool:
        """MakesParents."""
        fd = self._lowers.open_directory(path) if self._lowers else None
        if fd is not None:
            os.close(fd)
        return fd is not None

    def _lower_metadata(self, path: bytes) -> Metadata:
        fd = self._lowers.open_directory(path) if self._lowers else None
        if fd is None:
            uid, gid = self._owner or (0, 0)
            return Metadata(path, 0o755, uid, gid, 0)
        try:
            status = os.fstat(fd)
        finally:
            os.close(fd)
        return Metadata(path, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns)

    def _set_times(self) -> None:
        """Last of all, as each name made or removed in a directory changes its time."""
        for path, mtime_ns in self._times.items():
            fd = self._directories.reach_strictly(path)
            if fd is not None:
                os.utime(f"/proc/self/fd/{fd}", ns=(mtime_ns, mtime_ns))

    def _failure(self, found: TarMember, error: OSError) -> SandboxbuildError:
        text = f"the entry {shown(found.path)} can't be unpacked: {error.strerror}"
        if error.errno in _FULL:
            return LimitExceeded(f"the disk is full: {text}", hint="free space where it is unpacked to")
        return self._error(text)
