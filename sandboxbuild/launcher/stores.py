"""Which store a command works on, and who owns it: the host ids that stand for the executor."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from sandboxbuild.errors import UsageError
from sandboxbuild.launcher.removal import remover
from sandboxbuild.store import Store
from sandboxbuild.system import idmap

SYSTEM_STORE: Final = "/var/lib/sandboxbuild"
SYSTEM_CACHE: Final = "/var/cache/sandboxbuild"


def store_path(option: str, environ: Mapping[str, str], *, is_root: bool) -> str:
    """--store, else SANDBOXBUILD_STORE, else /var/lib/sandboxbuild for root and $XDG_DATA_HOME/sandboxbuild for others."""
    chosen = option or environ.get("SANDBOXBUILD_STORE", "")
    if chosen:
        return os.path.abspath(chosen)
    return SYSTEM_STORE if is_root else _below_home(environ, "XDG_DATA_HOME", ".local/share")


def bundle_folder(environ: Mapping[str, str], *, is_root: bool) -> str:
    """Where the programs for sandboxes are kept: never in the store, which sandboxes write to."""
    return SYSTEM_CACHE if is_root else _below_home(environ, "XDG_CACHE_HOME", ".cache")


def _below_home(environ: Mapping[str, str], variable: str, default: str) -> str:
    """A folder of the user's own (XDG basedir-spec: a relative path in the variable is ignored)."""
    folder = environ.get(variable, "")
    if not os.path.isabs(folder):
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            raise UsageError(f"there is no place to keep things: neither HOME nor {variable} is set")
        folder = f"{home}/{default}"
    return f"{folder}/sandboxbuild"


def open_store(option: str, environ: Mapping[str, str], *, build_id: str = "", plan: idmap.IdPlan | None = None) -> Store:
    """The store, made where it is missing. `plan` is the mapping of ids; it is found where it isn't given."""
    plan = plan or idmap.find()
    path = store_path(option, environ, is_root=os.geteuid() == 0)
    owner_uid, owner_gid = outside_id(plan.uids, plan.identity), outside_id(plan.gids, plan.identity)
    return Store.create(path, owner_uid, owner_gid, ids=describe_ids(plan), build_id=build_id, remove=remover(plan))


def outside_id(ranges: tuple[idmap.Range, ...], inside: int) -> int:
    """The host id that stands for an inside one. Raises KeyError for one that isn't mapped."""
    for start, outside, length in ranges:
        if start <= inside < start + length:
            return outside + inside - start
    raise KeyError(inside)


def describe_ids(plan: idmap.IdPlan) -> str:
    """A mapping as short text: layers that were unpacked under one are of no use under another."""
    return ",".join(f"{inside}:{outside}+{length}" for inside, outside, length in (*plan.uids, *plan.gids))
