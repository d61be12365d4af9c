"""Gateways with one of their defences taken out: Gateway.start() starts the process of a mutated package (mutants.py)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from sandboxbuild.gateway import process
from tests.support.mutants import make_mutant


def mutate_gateways(monkeypatch: pytest.MonkeyPatch, folder: Path, changes: Mapping[str, Mapping[str, str]]) -> None:
    """From here on, to the end of the test, each gateway that is started is a mutant; this process stays as it is."""
    made = make_mutant(folder, changes)
    installed = process.import_paths(sys.path)[1:]
    monkeypatch.setattr(process, "import_paths", lambda _paths: [str(made), *installed])
