"""The rooms keep their ranks, each effect library its one importer, and the sandbox's wing its few imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "sandboxbuild"

RANKS = {
    "errors": 0, "units": 0, "version": 0, "oci": 1, "fstree": 1, "plan": 2, "policy": 2, "dockerfile": 3, "protocol": 4,
    "system": 5, "archive": 6, "store": 6, "registry": 6, "contexts": 7, "snapshotters": 7, "exporters": 7, "runtimes": 7,
    "gateway": 7, "executor": 8, "launcher": 8, "cli": 9,
}  # fmt: skip

PURE = frozenset({"errors", "units", "oci", "fstree", "plan", "dockerfile", "protocol"})
EFFECTS = frozenset({"os", "socket", "subprocess", "time", "random", "shutil", "tempfile", "pathlib", "threading", "fcntl"})
PURE_EXCEPTIONS = frozenset({("protocol/channel.py", "threading")})  # a lock around the one writer of frames

ONE_IMPORTER = {
    "requests": "registry/transport.py",
    "pyseccomp": "system/seccomp.py",
    "dockerfile_parse": "dockerfile/lines.py",
    "ctypes": "system/libc.py",
    "psutil": "system/process.py",
    "isal": "archive/compress.py",
    "backports": "archive/compress.py",
}

HOST_LIBRARIES = frozenset({"pydantic", "click", "requests", "psutil", "pyseccomp", "h11", "rich", "urllib3"})
SANDBOX_ROOMS = frozenset(
    {"oci", "fstree", "plan", "dockerfile", "protocol", "system", "archive", "store", "registry", "contexts", "snapshotters",
     "executor", "errors", "units"}
)  # fmt: skip
HOST_MODULES_OF_SANDBOX_ROOMS = frozenset(
    {"registry/transport.py", "registry/auth.py", "system/seccomp.py", "system/process.py"}
)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The absolute names of all imports of a module, late ones included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "sandboxbuild":
                yield from (f"sandboxbuild.{alias.name}" for alias in node.names)
            else:
                yield node.module or ""


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def every_import() -> tuple[tuple[Path, str], ...]:
    """(module, what it imports) for the whole package."""
    return tuple((path, imported) for path in modules() for imported in imports(path))


def test_a_room_imports_only_lower_ranks() -> None:
    wrong = []
    for path, imported in every_import():
        here, parts = room(path), imported.split(".")
        foreign = parts[0] == "sandboxbuild" and len(parts) > 1 and parts[1] != here and not parts[1].startswith("__")
        if foreign and here != "__init__" and RANKS[parts[1]] >= RANKS[here]:
            wrong.append(f"{name(path)} ({here}) imports {imported}")
    assert wrong == []


def test_an_effect_library_has_one_importer() -> None:
    wrong = []
    for path, imported in every_import():
        top = imported.split(".")[0]
        if ONE_IMPORTER.get(top) not in (None, name(path)) or (top == "click" and room(path) != "cli"):
            wrong.append(f"{name(path)} imports {imported}")
    assert wrong == []


def test_a_pure_room_imports_no_effect() -> None:
    tops = [(name(path), imported.split(".")[0]) for path, imported in every_import() if room(path) in PURE]
    assert [pair for pair in tops if pair[1] in EFFECTS and pair not in PURE_EXCEPTIONS] == []


def test_the_sandbox_wing_imports_no_host_library() -> None:
    inside = [
        (name(path), imported.split(".")[0])
        for path, imported in every_import()
        if room(path) in SANDBOX_ROOMS and name(path) not in HOST_MODULES_OF_SANDBOX_ROOMS
    ]
    assert [pair for pair in inside if pair[1] in HOST_LIBRARIES] == []


def test_no_room_is_unknown() -> None:
    assert {room(path) for path in modules()} - {"__init__"} <= set(RANKS)
