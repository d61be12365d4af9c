"""Text to Instructions to BuildPlan, the way BuildKit reads a Dockerfile. Pure: no file is opened and no clock is read here.

`parse` -> Dockerfile; `lower` -> BuildPlan; `base_images`: what may be pulled; `check`: the warnings alone.
"""

from __future__ import annotations

from sandboxbuild.dockerfile.lowering import base_images, check, lower
from sandboxbuild.dockerfile.options import LowerOptions
from sandboxbuild.dockerfile.parsing import Dockerfile, parse

__all__ = ["Dockerfile", "LowerOptions", "base_images", "check", "lower", "parse"]
