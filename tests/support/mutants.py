"""The command with one of its defences taken out: a copy of the package in which a piece of text is replaced.

So an attack can be seen to succeed without a switch in the product that would take a defence away.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import sandboxbuild
from tests.support.builder import Builder

_TOP = Path(sandboxbuild.__file__).parent.parent
_DATA = ("profiles", "runtimes")


def make_mutant(folder: Path, changes: Mapping[str, Mapping[str, str]]) -> Path:
    """A folder for PYTHONPATH: package and data copied below `folder`, with `changes` {file of the package: {text: other}}.

    Each text has to occur exactly once, so that a mutation that no longer bites fails its test.
    """
    made = folder / "mutant"
    shutil.copytree(_TOP / "sandboxbuild", made / "sandboxbuild", ignore=shutil.ignore_patterns("__pycache__"))
    for name in _DATA:
        if (_TOP / name).is_dir():
            shutil.copytree(_TOP / name, made / name)
    for name, replacements in changes.items():
        path = made / "sandboxbuild" / name
        text = path.read_text(encoding="utf-8")
        for old, new in replacements.items():
            assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {name}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")
    return made


def mutant_builder(folder: Path, changes: Mapping[str, Mapping[str, str]]) -> Builder:
    """The command of a mutant, with a store of its own below `folder`."""
    builder = Builder(folder)
    builder.environment["PYTHONPATH"] = str(make_mutant(folder, changes))
    return builder
