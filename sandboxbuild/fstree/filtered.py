"""A tree with an ignore file applied: what is ignored isn't there."""

from __future__ import annotations

from typing import Protocol

from sandboxbuild.fstree.entry import Entry
from sandboxbuild.fstree.paths import join
from sandboxbuild.fstree.tree import Tree


class Rules(Protocol):
    """What an ignore file says of paths; see `dockerfile.ignore.IgnoreRules`."""

    def ignores(self, path: bytes, is_directory: bool) -> bool: ...

    def may_reinclude_below(self, path: bytes) -> bool: ...


class FilteredTree:
    """`tree` less what `rules` ignore. An ignored directory stays where a `!` takes back something that is in it."""

    def __init__(self, tree: Tree, rules: Rules) -> None:
        self._tree = tree
        self._rules = rules
        self._kept: dict[bytes, bool] = {}

    def entry(self, path: bytes) -> Entry | None:
        found = self._tree.entry(path)
        return found if found is not None and self._keeps(found) else None

    def children(self, path: bytes) -> tuple[bytes, ...]:
        """Names that are certainly ignored are left out without a look at them; `entry` has the last word on the others."""
        return tuple(name for name in self._tree.children(path) if self._may_keep(join(path, name)))

    def _may_keep(self, path: bytes) -> bool:
        return not self._rules.ignores(path, False) or self.entry(path) is not None

    def _keeps(self, entry: Entry) -> bool:
        if not entry.path or not self._rules.ignores(entry.path, entry.is_directory):
            return True
        return entry.is_directory and self._holds_kept(entry.path)

    def _holds_kept(self, directory: bytes) -> bool:
        """Whether anything below an ignored directory is taken back, found without recursion: depth is the context's."""
        known = self._kept.get(directory)
        if known is not None:
            return known
        waiting = [directory]
        while waiting:
            path = waiting.pop()
            if not self._rules.may_reinclude_below(path):
                continue
            for name in self._tree.children(path):
                child = self._tree.entry(join(path, name))
                if child is None:
                    continue
                if not self._rules.ignores(child.path, child.is_directory):
                    self._kept[directory] = True
                    return True
                if child.is_directory:
                    waiting.append(child.path)
        self._kept[directory] = False
        return False
