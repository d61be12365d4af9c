"""The first program of a sandbox: what every start imports comes out of one file, and then it is what its arguments say.

In gVisor each file that is opened costs: two hundred modules one by one take twice the time. This lies in the bundle by itself,
which nobody in a sandbox can write to, and imports nothing but what an interpreter has in it.
"""

from __future__ import annotations

import _frozen_importlib  # importlib's heart, without the files around it
import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

MODULE = "sandboxbuild_boot"  # what this is called in the bundle
START_SET = "start-set"  # beside it: {module: (whether it is a package, its code)}, both in marshal's form


class StartSet:
    """A finder and loader of the modules in a start set; each is given once, and then no longer held."""

    def __init__(self, library: str) -> None:
        with open(f"{library}/{START_SET}", "rb") as file:
            self._modules: dict[str, tuple[bool, bytes]] = marshal.loads(file.read())  # noqa: S302  # ours
        self._library = library

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """None for a module that isn't of the set, so that the next finder is asked."""
        found = self._modules.get(name)
        if found is None:
            return None
        place = f"{self._library}/{name.replace('.', '/')}"
        origin = f"{place}/__init__.pyc" if found[0] else f"{place}.pyc"
        spec = _frozen_importlib.ModuleSpec(name, self, origin=origin, is_package=found[0])  # type: ignore[arg-type]  # not a subclass
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(place)
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """None: the default's to make."""

    def exec_module(self, module: ModuleType) -> None:
        exec(marshal.loads(self._modules.pop(module.__name__)[1]), module.__dict__)  # noqa: S102, S302

    def run(self, name: str) -> bool:
        """Be that module, as `python -m` is; False for one that isn't of the set."""
        if name not in self._modules or self._modules[name][0]:
            return False
        scope = sys.modules["__main__"].__dict__
        scope["__package__"] = name.rpartition(".")[0]
        exec(marshal.loads(self._modules.pop(name)[1]), scope)  # noqa: S102, S302
        return True


def main() -> None:
    """`-m MODULE`, `-c CODE` or FILE, as the interpreter takes them, with what follows as arguments."""
    library = __file__.rpartition("/")[0]
    modules = StartSet(library)
    sys.meta_path.insert(2, modules)  # behind what is built in, before what looks at folders
    kind, *arguments = sys.argv[1:]
    sys.argv[:] = [kind, *arguments[1:]] if kind in ("-m", "-c") else [kind, *arguments]
    if kind == "-c":
        exec(compile(arguments[0], "<string>", "exec"), sys.modules["__main__"].__dict__)  # noqa: S102
    elif kind != "-m":
        with open(kind, "rb") as file:
            exec(compile(file.read(), kind, "exec"), sys.modules["__main__"].__dict__)  # noqa: S102
    elif not modules.run(arguments[0]):
        import runpy

        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
