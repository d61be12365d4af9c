"""Where unpacked layers are kept: in the store, or in the sandbox's own scratch where the store's filesystem can't hold them.

gVisor's bind mounts take no attributes and no device nodes (runsc/fsgofer), so whiteouts, opaque directories, stand-ins for
devices and files' own attributes would be lost. Asked is the filesystem, not who hosts us.
"""

from __future__ import annotations

import os
from typing import Final

from sandboxbuild.archive.hiding import OPAQUE_VALUE, OPAQUE_XATTR
from sandboxbuild.archive.nodes import make_whiteout
from sandboxbuild.errors import IsolationError
from sandboxbuild.protocol.request import SCRATCH_PATH
from sandboxbuild.store import Store

_PRIVATE: Final = f"{SCRATCH_PATH}/layers"


def place_layers(store: Store) -> None:
    """See to it that `store.layers` can hold layers. Raises IsolationError where no filesystem of the sandbox can."""
    with store.layers.staging() as folder:
        if holds_layers(folder):
            return
    if os.path.isdir(SCRATCH_PATH) and holds_layers(SCRATCH_PATH):
        store.keep_layers_at(_PRIVATE)
        return
    raise IsolationError(
        "the store lies on a filesystem that can't hold layers: it has no extended attributes, or no device nodes",
        hint="use --store PATH on ext4, xfs, btrfs or tmpfs",
    )


def holds_layers(folder: str) -> bool:
    """Whether files below `folder` can be whiteouts and have attributes; leaves nothing there."""
    name = b"probe"
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.setxattr(fd, OPAQUE_XATTR, OPAQUE_VALUE)
        os.removexattr(fd, OPAQUE_XATTR)
        make_whiteout(fd, name)
        os.unlink(name, dir_fd=fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
