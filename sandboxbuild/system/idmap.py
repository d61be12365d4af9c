"""Which host ids stand for a sandbox's: a range out of everybody's way for root, the subordinate range for a user, else one.

The inside ids from 0 are the image's; the one behind them is the executor itself. A user has 65536 of the first kind, root
2^28 - 1, so that images with large ids (OpenLDAP accounts, chown 3000000) can be built. With a single id only 0 exists
inside, and it is the user. Pure but for the readers at the end.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sandboxbuild.errors import IsolationError

IMAGE_IDS: Final = 65536  # what a build has at least, unless it has a single id
ROOT_IMAGE_IDS: Final = (1 << 28) - 1  # and the executor: from ROOT_BASE to the sign bit
ROOT_BASE: Final = 0x70000000  # above the ranges that useradd(8) gives out, below the sign bit
_MAX_FILE_BYTES: Final = 1 << 20

Range = tuple[int, int, int]  # inside, outside, length
Span = tuple[int, int]  # first id, length


class IdPlan(NamedTuple):
    """`mode` is "range" or "single"; `direct` says that the parent may write the maps itself, else newuidmap(1) does.

    `identity` is the inside uid and gid of the executor. `why_single` says what kept a range away, for people.
    """

    mode: str
    uids: tuple[Range, ...]
    gids: tuple[Range, ...]
    identity: int
    direct: bool
    why_single: str = ""


def plan_for_root(base: int = ROOT_BASE, *, uid_map: Sequence[Range], gid_map: Sequence[Range]) -> IdPlan:
    """Root's plan: ROOT_IMAGE_IDS, or IMAGE_IDS, and one more from `base`. The maps are the current namespace's own.

    Root of a container has only some ids: then the highest that fit are taken. Raises IsolationError where none do.
    """
    for length in (ROOT_IMAGE_IDS, IMAGE_IDS):
        first = [_fit(base, length + 1, current) for current in (uid_map, gid_map)]
        if None not in first:
            uids, gids = (((0, start, length + 1),) for start in first if start is not None)
            return IdPlan("range", uids, gids, length, direct=True)
    raise IsolationError(
        f"this user namespace has no {IMAGE_IDS + 1} ids in a row beside 0",
        hint="run as a normal user with subordinate ids, or give the surrounding container more ids",
    )


def _fit(base: int, length: int, current: Sequence[Range]) -> int | None:
    """Where `length` ids lie inside the ranges of a namespace: at `base` if it can be, else at the end of one, never 0."""
    spans = [(inside, inside + count) for inside, _, count in current]
    if any(start <= base and base + length <= end for start, end in spans):
        return base
    fitting = [end - length for start, end in spans if end - length > max(start, 0)]
    return max(fitting, default=None)


def plan_for_user(uid: int, gid: int, subuids: Sequence[Span], subgids: Sequence[Span]) -> IdPlan:
    """A normal user's plan: subordinate ids for the image, the user for the executor. Falls back to the single id."""
    uids, gids = _cover(subuids), _cover(subgids)
    if uids is None or gids is None:
        missing = " and ".join(name for name, found in (("/etc/subuid", uids), ("/etc/subgid", gids)) if found is None)
        return single(uid, gid, f"{missing} give this user fewer than {IMAGE_IDS} ids")
    return IdPlan("range", (*uids, (IMAGE_IDS, uid, 1)), (*gids, (IMAGE_IDS, gid, 1)), IMAGE_IDS, direct=False)


def single(uid: int, gid: int, why: str = "") -> IdPlan:
    """Only inside id 0, which is the user."""
    return IdPlan("single", ((0, uid, 1),), ((0, gid, 1),), 0, direct=True, why_single=why)


def _cover(spans: Sequence[Span]) -> tuple[Range, ...] | None:
    """IMAGE_IDS inside ids from 0 out of `spans`, in their order; None if there are too few."""
    ranges: list[Range] = []
    inside = 0
    for start, length in spans:
        taken = min(length, IMAGE_IDS - inside)
        if taken > 0:
            ranges.append((inside, start, taken))
            inside += taken
    return tuple(ranges) if inside == IMAGE_IDS else None


def parse_subordinate(text: str, owners: Iterable[str]) -> list[Span]:
    """The spans of subuid(5) text that belong to one of `owners` (a login name or a uid as text); bad lines are skipped."""
    names = set(owners)
    spans = []
    for line in text.splitlines():
        fields = line.split("#")[0].strip().split(":")
        if len(fields) == 3 and fields[0] in names and fields[1].isdecimal() and fields[2].isdecimal():
            start, length = int(fields[1]), int(fields[2])
            if start > 0 and length > 0 and start + length <= 0xFFFFFFFF:
                spans.append((start, length))
    return spans


def parse_map(text: str) -> list[Range]:
    """The lines of /proc/PID/uid_map."""
    rows = [tuple(int(field) for field in line.split()) for line in text.splitlines() if line.strip()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def find(base: int = ROOT_BASE) -> IdPlan:
    """The plan for whoever runs this process."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return plan_for_root(
            base, uid_map=parse_map(_read("/proc/self/uid_map")), gid_map=parse_map(_read("/proc/self/gid_map"))
        )
    owners = _names(uid)
    subuids = parse_subordinate(_read("/etc/subuid"), owners)
    subgids = parse_subordinate(_read("/etc/subgid"), owners)
    plan = plan_for_user(uid, gid, subuids, subgids)
    if plan.mode == "range" and not newuidmap_paths():
        return single(uid, gid, "newuidmap and newgidmap are not installed")
    return plan


def newuidmap_paths() -> tuple[str, str] | None:
    """newuidmap(1) and newgidmap(1), looked for in system folders only; None unless both are there."""
    for folder in ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"):
        found = f"{folder}/newuidmap", f"{folder}/newgidmap"
        if all(os.access(path, os.X_OK) for path in found):
            return found
    return None


def _names(uid: int) -> list[str]:
    import pwd

    try:
        return [pwd.getpwuid(uid).pw_name, str(uid)]
    except KeyError:
        return [str(uid)]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_FILE_BYTES)
    except OSError:
        return ""
