"""Step, Stage, BuildPlan: the graph that the executor carries out and `sandboxbuild plan` prints."""

from __future__ import annotations

from typing import NamedTuple, Union

from sandboxbuild.errors import Span
from sandboxbuild.oci.config import ImageConfig
from sandboxbuild.plan.operations import Op


class Scratch(NamedTuple):
    """An empty filesystem."""


class BaseImage(NamedTuple):
    """FROM an image. `reference` as written after expansion; `platform` as os/arch[/variant], "" for the build's."""

    reference: str
    platform: str = ""


class BaseStage(NamedTuple):
    """FROM another stage, by index."""

    stage: int


Base = Union[Scratch, BaseImage, BaseStage]


class Step(NamedTuple):
    """One instruction after FROM, triggers of ONBUILD included.

    `op` is None where only the config changes. `config_after` is the image config as it stands after the step. `created_by`
    is its history line as BuildKit writes it; `text` is what users see (the instruction, on one line). `depends_on` are the
    stages whose filesystem the op reads, beside its own. Each step has one history entry, but for those without `has_history`
    (ONBUILD); those without an op are the empty_layer ones. `history` and `diff_ids` in `config_after` are the base image's:
    who makes the layers adds to them.
    """

    text: str
    span: Span
    op: Op | None
    config_after: ImageConfig
    created_by: str
    depends_on: tuple[int, ...] = ()
    has_history: bool = True


class Stage(NamedTuple):
    """One FROM. `number` counts all stages of the file from 0; `name` is lower case, "" for none."""

    number: int
    name: str
    base: Base
    platform: str
    base_config: ImageConfig
    steps: tuple[Step, ...]
    span: Span
    text: str

    @property
    def config(self) -> ImageConfig:
        return self.steps[-1].config_after if self.steps else self.base_config


class BuildPlan(NamedTuple):
    """The needed stages in order, and the number of the one that is the result.

    `source_date_epoch` (seconds) is the build argument SOURCE_DATE_EPOCH, or the Dockerfile's own default of it.
    """

    stages: tuple[Stage, ...]
    target: int
    warnings: tuple[tuple[Span, str], ...] = ()
    source_date_epoch: int | None = None

    def stage(self, number: int) -> Stage:
        return next(stage for stage in self.stages if stage.number == number)
