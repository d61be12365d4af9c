"""A sandboxed container image builder for code that you don't trust.

The public API: `build(BuildSettings(...)) -> BuildOutcome`, and the errors of `sandboxbuild.errors`. Imported when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandboxbuild.version import __version__ as __version__

if TYPE_CHECKING:
    from sandboxbuild.launcher.build import build
    from sandboxbuild.launcher.outcome import BuildOutcome
    from sandboxbuild.launcher.settings import BuildSettings, OutputSpec, RegistrySettings, ReportFiles, SecretSource

__all__ = ["BuildOutcome", "BuildSettings", "OutputSpec", "RegistrySettings", "ReportFiles", "SecretSource", "build"]

_HOMES = {"build": "build", "BuildOutcome": "outcome"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"sandboxbuild.launcher.{_HOMES.get(name, 'settings')}"), name)
