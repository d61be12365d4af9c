"""The bundle's interpreter, outside of any sandbox: its first program is a module, a line of code or a file, as python's is."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandboxbuild.runtimes.bundle import TARGET, Bundle, ensure_bundle
from tests.support.profiles import CACHE

SHOWN = "import sys; print(sys.argv, __name__, __package__ or '')"


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return ensure_bundle(str(CACHE))


def run(bundle: Bundle, *arguments: str | Path) -> str:
    """What a program of the bundle says, with the bundle seen where it lies."""
    argv = [part.replace(TARGET, bundle.path) for part in bundle.argv_prefix]
    done = subprocess.run([*argv, *map(str, arguments)], capture_output=True, text=True, env={}, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_code_and_files_get_their_arguments(bundle: Bundle, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SHOWN)
    assert run(bundle, "-c", SHOWN, "a", "b") == "['-c', 'a', 'b'] __main__"
    assert run(bundle, program, "a", "b") == f"['{program}', 'a', 'b'] __main__"


def test_what_every_executor_imports_comes_out_of_one_file(bundle: Bundle) -> None:
    code = """import sandboxbuild.executor.main, sandboxbuild.executor.build, sys
from_files = [name for name, module in sys.modules.items()
    if (getattr(module, '__file__', None) or '').endswith('.pyc') and type(module.__loader__).__name__ != 'StartSet']
print(sorted(from_files), sandboxbuild.executor.__path__, sandboxbuild.executor.build.__file__)
"""
    library = f"{bundle.path}/lib/python3"
    said = run(bundle, "-c", code)
    few, _, rest = said.partition("] [")
    assert len(few.split(",")) < 12, few  # those that are there before the first program
    assert "sandboxbuild.executor" not in few
    assert rest.startswith(f"'{library}")
    assert rest.endswith("sandboxbuild/executor/build.pyc")


def test_a_module_is_run_whether_or_not_every_executor_imports_it(bundle: Bundle) -> None:
    assert run(bundle, "-m", "sandboxbuild.executor.stepspec") == ""  # in the set; it has no program of its own
    asked = subprocess.run(
        [*(part.replace(TARGET, bundle.path) for part in bundle.argv_prefix), "-m", "sandboxbuild.executor.claims"],
        input='{"claims": ["output"]}\n', capture_output=True, text=True, env={}, timeout=120, check=True,
    )  # fmt: skip
    assert asked.stdout == '{"answers": {"output": ""}}\n'
