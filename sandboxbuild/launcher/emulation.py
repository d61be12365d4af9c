"""Which foreign architectures this host runs: the interpreters that binfmt_misc has for their programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

BINFMT_FOLDER: Final = "/proc/sys/fs/binfmt_misc"
ENTRY_LIMIT_BYTES: Final = 4096
# (bits, byte order, e_machine) of an ELF header -> the architecture as platforms name it (elf(5); include/uapi/linux/elf-em.h).
_MACHINES: Final[Mapping[tuple[int, str, int], str]] = {
    (32, "little", 3): "386",
    (32, "little", 8): "mipsle",
    (64, "little", 8): "mips64le",
    (64, "big", 21): "ppc64",
    (64, "little", 21): "ppc64le",
    (64, "big", 22): "s390x",
    (32, "little", 40): "arm",
    (64, "little", 62): "amd64",
    (64, "little", 183): "arm64",
    (64, "little", 243): "riscv64",
    (64, "little", 258): "loong64",
}


def emulated_architectures(folder: str = BINFMT_FOLDER) -> tuple[str, ...]:
    """Sorted; empty where binfmt_misc isn't mounted."""
    found = set()
    try:
        names = os.listdir(folder)
    except OSError:
        return ()
    for name in names:
        if name in ("register", "status"):
            continue
        try:
            with open(os.path.join(folder, name), encoding="ascii", errors="replace") as stream:
                found.add(emulated_architecture(stream.read(ENTRY_LIMIT_BYTES)))
        except OSError:
            continue
    return tuple(sorted(found - {""}))


def emulated_architecture(entry: str) -> str:
    """The architecture whose programs an entry runs in any root, "" for none (Documentation/admin-guide/binfmt-misc.rst).

    Without the flag F the interpreter would be looked for in the step's own files.
    """
    fields = dict(line.partition(" ")[::2] for line in entry.splitlines())
    if "enabled" not in fields or "F" not in fields.get("flags:", "") or fields.get("offset") != "0":
        return ""
    try:
        magic = bytes.fromhex(fields.get("magic", ""))
    except ValueError:
        return ""
    if len(magic) < 20 or magic[:4] != b"\x7fELF":
        return ""
    order = "big" if magic[5] == 2 else "little"
    machine = magic[19] + magic[18] * 256 if order == "big" else magic[18] + magic[19] * 256
    return _MACHINES.get((64 if magic[4] == 2 else 32, order, machine), "")
