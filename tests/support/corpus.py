"""The conformance corpus: found beside the checkout, and run case by case through the real command.

`python tests/support/corpus.py [SUITE[/NAME] ...]` runs cases by hand and prints each difference and a count.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

CHECKOUT = Path(__file__).resolve().parents[2]
CASE_TIMEOUT_S = 120
ORDERLY_EXITS = frozenset({1, 2, 3, 4, 5})


def corpus_folder() -> Path | None:
    """Where the corpus lies: SANDBOXBUILD_CONFORMANCE, or ../shared/conformance beside the checkout."""
    named = os.environ.get("SANDBOXBUILD_CONFORMANCE")
    candidates = [Path(named)] if named else [CHECKOUT.parent / "shared" / "conformance"]
    return next((folder for folder in candidates if (folder / "cases").is_dir()), None)


def load_tool(folder: Path) -> Any:
    """The corpus's own modules (cases, layout, compare, bases, registry)."""
    tool = str(folder / "tool")
    if tool not in sys.path:
        sys.path.insert(0, tool)
    return importlib.import_module("cases")


class Outcome(NamedTuple):
    """`failures` is empty for a case that passes; `notes` are differences that fail nothing."""

    case: str
    failures: tuple[str, ...]
    notes: tuple[str, ...] = ()
    log: str = ""


class Harness:
    """Base images, a registry that serves them, and one store for all cases; `options` are added to each run."""

    def __init__(self, corpus: Path, work: Path, options: tuple[str, ...] = ()) -> None:
        self.corpus = corpus
        self.work = work
        self.options = options
        self.cases = load_tool(corpus)
        self.compare = importlib.import_module("compare")
        self.command = [str(Path(sys.executable).parent / "sandboxbuild"), "run"]

    @contextlib.contextmanager
    def serving(self) -> Iterator[Harness]:
        registry = importlib.import_module("registry")
        self.bases_folder = self.work / "bases"
        if not self.bases_folder.exists():
            importlib.import_module("bases").make_all(self.bases_folder)
        self.bases = self.compare.Bases(self.bases_folder)
        with registry.Registry(self.bases_folder) as server:
            self.address = server.address
            yield self

    def run(self, case: Any) -> Outcome:
        folder = Path(tempfile.mkdtemp(dir=self.work, prefix="case-"))
        try:
            return self._run(case, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _run(self, case: Any, folder: Path) -> Outcome:
        argv = self.prepare(case, folder)
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=CASE_TIMEOUT_S, check=False, cwd=folder
        )
        log = done.stderr.decode("utf-8", "replace")
        expected = case.expected
        if expected["outcome"] == "error" or (expected.get("disputed") and done.returncode):
            orderly = done.returncode in ORDERLY_EXITS and "Traceback" not in log
            return Outcome(case.id, () if orderly else (f"expected a refusal, exit status {done.returncode}",), log=log)
        if done.returncode:
            return Outcome(case.id, (f"expected an image, exit status {done.returncode}",), log=log)
        found = self.compare.check_layout(case, folder / "image", self.bases)
        failures = tuple(str(difference) for difference in found if not difference.soft)
        return Outcome(case.id, failures, tuple(str(difference) for difference in found if difference.soft), log)

    def prepare(self, case: Any, folder: Path) -> list[str]:
        """The command line for a case; its context, Dockerfile and secrets are made below `folder`."""
        self.cases.materialise(case.context, folder / "context")
        text = case.dockerfile.replace("http://files.test/", f"http://{self.address}/files/")
        (folder / "Dockerfile").write_bytes(text.encode("utf-8", "surrogateescape"))
        ignore = case.options.get("dockerfile_dockerignore")
        if ignore is not None:
            (folder / "Dockerfile.dockerignore").write_text(ignore)
        argv = [*self.command, "-f", str(folder / "Dockerfile"), "-o", f"type=oci,dest={folder / 'image'}"]
        argv += ["--store", str(self.work / "store"), "--progress", "plain", "--registry-map", f"base.test={self.address}"]
        argv += ["--insecure-registry", self.address]
        argv += self.options
        if case.options.get("target"):
            argv += ["--target", case.options["target"]]
        for flag, key in (("--build-arg", "build_args"), ("--label", "labels")):
            for name, value in case.options.get(key, {}).items():
                argv += [flag, f"{name}={value}".replace("files.test", f"{self.address}/files")]
        for name, value in case.options.get("secrets", {}).items():
            (folder / f"secret-{name}").write_text(value)
            argv += ["--secret", f"id={name},src={folder / f'secret-{name}'}"]
        return [*argv, str(folder / "context")]


def main(wanted: list[str]) -> int:
    corpus = corpus_folder()
    if corpus is None:
        raise SystemExit("no corpus: set SANDBOXBUILD_CONFORMANCE")
    work = Path(os.environ.get("CORPUS_WORK", "/var/tmp/sandboxbuild-corpus"))
    work.mkdir(parents=True, exist_ok=True)
    with Harness(corpus, work, tuple(os.environ.get("CORPUS_OPTIONS", "").split())).serving() as harness:
        every = list(harness.cases.load_all(corpus / "cases"))
        chosen = [case for case in every if not wanted or any(case.id == name or case.id.startswith(name) for name in wanted)]
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(pool.map(harness.run, chosen))
    for outcome in outcomes:
        for line in outcome.failures:
            print(f"FAIL {outcome.case}: {line}")
        if wanted and len(chosen) < 10:
            print(outcome.log)
            print("\n".join(f"note {outcome.case}: {line}" for line in outcome.notes))
        elif outcome.failures and outcome.failures[0].startswith("expected"):
            print("     " + " / ".join(outcome.log.strip().splitlines()[-3:]))
    failed = sum(bool(outcome.failures) for outcome in outcomes)
    print(f"{len(outcomes) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
