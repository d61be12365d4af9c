"""What enters a sandbox as its only programs: this interpreter, a trimmed standard library and our sandbox wing, precompiled.

Made once for a version of each, kept below a cache folder under the digest of what went in, and mounted read-only. The
loader is called by its path with a library path, so nothing of the host's /lib or /usr has to be in the sandbox. The cache
folder must not lie where any sandbox can write.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from sandboxbuild.errors import IsolationError
from sandboxbuild.runtimes import boot
from sandboxbuild.system import files, locks
from sandboxbuild.system.apart import done_apart

TARGET: Final = "/sandboxbuild/runtime"
LOCK_NAME: Final = ".lock"  # in the cache folder, of those who make bundles and take them away
_FORMAT: Final = b"sandboxbuild bundle 2\n"
_VERSION: Final = f"{sys.version_info.major}.{sys.version_info.minor}"
_PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The host wing, and what of the common rooms is for it alone: a sandbox has neither the libraries nor the use.
_HOST_WING: Final = frozenset({"cli", "gateway", "launcher", "policy", "runtimes"})
_HOST_MODULES: Final = frozenset(
    {f"registry/{name}.py" for name in ("addresses", "auth", "remote", "tls", "transport")}
    | {"system/process.py", "system/syscallprofile.py"}
)
_SHARED_MODULES: Final = frozenset({"policy/__init__.py", "policy/isolation.py", "policy/names.py"})
_THIRD_PARTY: Final = ("dockerfile_parse", "isal", "backports.zstd")
_OPTIONAL: Final = frozenset({"isal", "backports.zstd"})  # compress.py has a stand-in for them

# Standard library that a builder has no use for, by its first name.
_DROPPED: Final = frozenset(
    """__phello__ aifc antigravity asynchat asyncio asyncore audioop bdb cProfile cgi cgitb chunk cmd code codeop colorsys
    compileall concurrent crypt curses dbm difflib distutils doctest ensurepip filecmp fileinput ftplib getopt getpass idlelib
    imaplib imghdr lib-dynload lib2to3 mailbox mailcap msilib multiprocessing nntplib nturl2path optparse pdb pickletools pipes
    plistlib poplib profile pstats pty py_compile pyclbr pydoc pydoc_data rlcompleter sched shelve site-packages sitecustomize
    smtpd smtplib sndhdr sqlite3 ssl sunau symtable tabnanny telnetlib test this timeit tkinter tomllib trace
    tracemalloc turtle turtledemo unittest uu venv wave webbrowser wsgiref xdrlib xml xmlrpc zipapp""".split()  # noqa: SIM905
)
_DROPPED_EXTENSIONS: Final = frozenset(
    """_asyncio _crypt _ctypes_test _curses _curses_panel _dbm _gdbm _lsprof _multiprocessing _sqlite3 _ssl
    _testbuffer _testcapi _testclinic _testimportmultiple _testinternalcapi _testmultiphase _tkinter _uuid
    _xxsubinterpreters _xxtestfuzz audioop nis ossaudiodev readline xxlimited xxlimited_35""".split()  # noqa: SIM905
)
_KEPT_ENCODINGS: Final = frozenset(
    {"__init__", "aliases", "ascii", "idna", "latin_1", "punycode", "unicode_escape", "utf_8", "utf_8_sig"}
)


_STARTS: Final = ("sandboxbuild.executor.main", "sandboxbuild.executor.build")
_PYC_HEADER_BYTES: Final = 16  # PEP 552


class Bundle(NamedTuple):
    """A bundle on the host at `path`, for TARGET. A program is `argv_prefix`, then -m MODULE, -c CODE or a file."""

    path: str
    argv_prefix: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]


class _Part(NamedTuple):
    source: str
    place: str  # below lib/pythonX.Y, "/" separated


def ensure_bundle(cache_folder: str) -> Bundle:
    """The bundle for this interpreter and package; made if it isn't there yet. Safe beside others that do the same. Nothing
    keeps it there: bundles.used_bundle does.

    Raises IsolationError where the interpreter's parts can't be found or the folder can't be written.
    """
    parts = [*_package_parts(), *_third_party_parts(), _Part(boot.__file__, f"{boot.MODULE}.py")]
    path = os.path.join(cache_folder, _digest(parts))
    if not os.path.isdir(path):
        try:
            os.makedirs(cache_folder, mode=0o755, exist_ok=True)
            with locks.exclusive(os.path.join(cache_folder, LOCK_NAME)):
                if not os.path.isdir(path) and not done_apart(lambda: _make(path, parts)):  # 8 MB of compiling
                    _make(path, parts)
        except OSError as error:
            raise IsolationError(f"the runtime bundle can't be made: {error}", hint="give another store folder") from error
    prefix = (*_interpreter_in(TARGET), "-c", f"import {boot.MODULE}; {boot.MODULE}.main()")
    # Several arenas would keep what threads have freed: one saves 3 MB, and the threads hardly allocate at the same time.
    return Bundle(path, prefix, (("PATH", "/nonexistent"), ("LC_ALL", "C.UTF-8"), ("MALLOC_ARENA_MAX", "1")))


def _interpreter_in(bundle: str) -> tuple[str, ...]:
    """The command of a bundle's interpreter, where the bundle is seen at the path `bundle`."""
    loader, library = f"{bundle}/lib/loader.so", f"{bundle}/lib"
    return loader, "--library-path", library, f"{bundle}/bin/python3", "-I", "-S", "-E", "-B", "-X", "utf8"


def _package_parts() -> Iterator[_Part]:
    for folder, folders, names in os.walk(_PACKAGE):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        inside = os.path.relpath(folder, _PACKAGE)
        for name in sorted(names):
            place = name if inside == "." else f"{inside}/{name}"
            if _enters(place):
                yield _Part(os.path.join(folder, name), f"sandboxbuild/{place}")


def _enters(place: str) -> bool:
    """Whether a file of the package, by its place in it, is of the sandbox wing."""
    if place in _SHARED_MODULES:
        return True
    return place.endswith(".py") and place.partition("/")[0] not in _HOST_WING and place not in _HOST_MODULES


def _third_party_parts() -> Iterator[_Part]:
    for name in _THIRD_PARTY:
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError:
            spec = None
        if spec is None or not spec.submodule_search_locations:
            if name in _OPTIONAL:
                continue
            raise IsolationError(f"the library {name} is not installed beside sandboxbuild")
        for location in spec.submodule_search_locations:
            for file in sorted(os.listdir(location)):
                if file.endswith((".py", ".so")):
                    yield _Part(os.path.join(location, file), f"{name.replace('.', '/')}/{file}")


def _digest(parts: list[_Part]) -> str:
    """Our own files count by content, the interpreter and libraries by version, path, size and time."""
    digest = hashlib.sha256(_FORMAT)
    digest.update(repr((sys.version, *_stamp(_interpreter()), *_stamp(os.__file__))).encode())
    for part in parts:
        digest.update(repr((part.place, *(() if part.place.startswith("sandboxbuild/") else _stamp(part.source)))).encode())
        if part.place.startswith("sandboxbuild/"):
            with open(part.source, "rb") as file:
                digest.update(hashlib.sha256(file.read()).digest())
    return digest.hexdigest()[:32]


def _stamp(path: str) -> tuple[str, int, int]:
    status = os.stat(path)
    return path, status.st_size, status.st_mtime_ns


def _interpreter() -> str:
    """The program itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)


def _make(path: str, parts: list[_Part]) -> None:
    """Everything into a fresh folder beside `path`, which then takes its name: nobody sees half a bundle."""
    cache_folder, name = os.path.split(path)
    staging = os.path.join(cache_folder, f".{name}.{os.getpid()}")
    folder_fd = os.open(cache_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files.remove_tree(folder_fd, os.path.basename(staging))
        old = os.umask(0o022)
        try:
            _fill(staging, parts)
        finally:
            os.umask(old)
        os.rename(staging, path)
        os.fsync(folder_fd)
    finally:
        files.remove_tree(folder_fd, os.path.basename(staging))
        os.close(folder_fd)


def _fill(staging: str, parts: list[_Part]) -> None:
    library = f"{staging}/lib/python{_VERSION}"
    for folder in ("bin", "lib", f"lib/python{_VERSION}/lib-dynload"):
        os.makedirs(f"{staging}/{folder}", exist_ok=True)
    objects = [_interpreter()]
    for part in [*_standard_parts(), *parts]:
        target = f"{library}/{part.place}"
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if part.place.endswith(".py"):
            _compile(part.source, target, f"{TARGET}/lib/python{_VERSION}/{part.place}")
        else:
            _copy(part.source, target)
            objects.append(part.source)
    _copy(objects[0], f"{staging}/bin/python3")
    loader = _loader()
    _copy(loader, f"{staging}/lib/loader.so")
    for soname, source in _shared_objects(loader, objects).items():
        _copy(source, f"{staging}/lib/{soname}")
    _write_start_set(staging, library)


def _write_start_set(staging: str, library: str) -> None:
    """What every executor imports on its way, in one file, by asking the new interpreter itself."""
    import marshal
    import subprocess

    argv = [*_interpreter_in(staging), "-c", f"import {', '.join(_STARTS)}, sys; print(*sys.modules)"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={}, timeout=60)
    if done.returncode:
        raise IsolationError(f"the bundle's interpreter doesn't run: {done.stderr.strip().rpartition(chr(10))[2]}")
    modules = {}
    for name in done.stdout.split():
        place = f"{library}/{name.replace('.', '/')}"
        is_package = os.path.isfile(f"{place}/__init__.pyc")
        path = f"{place}/__init__.pyc" if is_package else f"{place}.pyc"
        if os.path.isfile(path):
            with open(path, "rb") as file:
                modules[name] = (is_package, file.read()[_PYC_HEADER_BYTES:])
    with open(f"{library}/{boot.START_SET}", "wb") as file:
        file.write(marshal.dumps(modules))


def _copy(source: str, target: str) -> None:
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)  # noqa: S103  # the sandbox's ids are not the owner and have to run it


def _compile(source: str, target: str, shown: str) -> None:
    """Byte code alone, beside no source, never checked against one: the fastest import there is."""
    import py_compile

    py_compile.compile(
        source, cfile=target + "c", dfile=shown, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
    )


def _standard_parts() -> Iterator[_Part]:
    root = os.path.dirname(os.path.abspath(os.__file__))
    for folder, folders, names in os.walk(root):
        inside = os.path.relpath(folder, root)
        first = "" if inside == "." else inside.split(os.sep)[0]
        folders[:] = [
            name for name in folders if not _is_dropped(first or name) and name not in ("__pycache__", "tests", "test")
        ]
        for name in names:
            stem = name.removesuffix(".py")
            if stem == name or _is_dropped(first or stem) or (first == "encodings" and stem not in _KEPT_ENCODINGS):
                continue
            yield _Part(os.path.join(folder, name), name if inside == "." else f"{inside}/{name}")
    yield from _extension_parts()


def _is_dropped(first: str) -> bool:
    return first in _DROPPED or first.startswith(("config-", "_sysconfigdata", "dist-packages"))


def _extension_parts() -> Iterator[_Part]:
    for folder in sys.path:
        if os.path.basename(folder) == "lib-dynload" and os.path.isdir(folder):
            for name in sorted(os.listdir(folder)):
                if name.endswith(".so") and name.split(".")[0] not in _DROPPED_EXTENSIONS:
                    yield _Part(os.path.join(folder, name), f"lib-dynload/{name}")


def _loader() -> str:
    """The dynamic loader of this very process."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        for line in file:
            path = line.split(maxsplit=5)[-1].strip()
            if path.startswith("/") and os.path.basename(path).startswith(("ld-", "ld.so", "ld64.")):
                return path
    raise IsolationError("this interpreter is linked statically: no loader to put into the sandbox")


def _shared_objects(loader: str, objects: list[str]) -> dict[str, str]:
    """The libraries that `objects` need, by the name that they ask for, as the loader finds them (ld.so(8), --list)."""
    import subprocess

    found: dict[str, str] = {}
    for path in objects:
        listed = subprocess.run([loader, "--list", path], capture_output=True, text=True, check=False, env={}, timeout=30)
        for line in listed.stdout.splitlines():
            soname, arrow, rest = line.strip().partition(" => ")
            if arrow and rest.startswith("/") and "/" not in soname:
                found.setdefault(soname, rest.rsplit(" (", 1)[0])
            elif arrow and "not found" in rest:
                raise IsolationError(f"{path} needs {soname}, which this host doesn't have")
    return found
