"""Short ways to a plan, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from sandboxbuild.dockerfile import LowerOptions, lower, parse
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.plan.steps import BaseImage, BuildPlan, Step

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def plan(text: str | bytes, images: dict[str, ImageConfig] | None = None, **options: Any) -> BuildPlan:
    """Lower `text`; an image that isn't in `images` has an empty config."""
    data = text if isinstance(text, bytes) else text.encode()

    def resolve(image: BaseImage) -> ImageConfig:
        return (images or {}).get(image.reference, ImageConfig())

    return lower(parse(data), LowerOptions(**options), resolve)


def steps(text: str, **options: Any) -> tuple[Step, ...]:
    """The steps of the target."""
    made = plan(text, **options)
    return made.stage(made.target).steps


def config(text: str, **options: Any) -> ImageConfig:
    made = plan(text, **options)
    return made.stage(made.target).config


def op(text: str, **options: Any) -> Any:
    """The operation of the last step of the target."""
    return steps(text, **options)[-1].op
